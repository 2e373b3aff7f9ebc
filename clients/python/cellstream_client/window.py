"""A window: the frames of a stream that wait for their answers, and what to do about them when the socket is lost."""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from cellstream_client.cursor import Cursor, numbered
from cellstream_client.errors import answered
from cellstream_client.values import Inputs, Outputs, SessionInfo, encode, length


@dataclass(frozen=True, slots=True)
class Frame:
    """A chunk on its way: its first and last step, and its inputs as JSON."""

    first: int
    last: int
    inputs: str


class Window:
    """Frames in order, the first of which begins behind the cursor's step.

    The first `sent` of `frames` are on the present socket. `_outstanding` are the last steps of all frames that some
    socket carried and no answer settled: those of `frames`, and before them those that were abandoned, that is, sent
    ahead by somebody who stopped reading.
    `_took_back` is true from a rewind that was asked for until its epoch is known.

    The service keeps the answer of the last request only. So when a socket is lost with one frame outstanding, that
    frame is simply sent again; with more of them, those that were taken are first taken back.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.frames: deque[Frame] = deque()
        self.sent = 0
        self._outstanding: list[int] = []
        self._abandoned = False
        self._took_back = False

    def add(self, inputs: Inputs) -> None:
        """Put a chunk behind the others."""
        plain: Any = inputs.tolist() if hasattr(inputs, "tolist") else inputs
        first = 1 + (self.frames[-1].last if self.frames else self._cursor.step)
        self.frames.append(Frame(first, first - 1 + length(plain), encode(plain)))

    def next_unsent(self) -> str | None:
        """Return the next frame that the present socket has not carried, which counts as sent from then on."""
        if self.sent == len(self.frames):
            return None
        frame = self.frames[self.sent]
        self.sent += 1
        self._outstanding.append(frame.last)
        return numbered(frame.inputs, frame.first, self._cursor.epoch)

    def read(self, text: str | bytes) -> Outputs:
        """Read the answer to the oldest frame, and return its outputs.

        Raises:
            CellstreamError: It was refused. It stays the oldest, to be sent again.
        """
        answer = json.loads(text)
        self._outstanding.pop(0)
        self.sent -= 1
        if "code" in answer:
            raise answered(0, text)
        self.frames.popleft()
        return self._cursor.read_step(answer)

    def lost(self) -> None:
        """Note that the socket is gone."""
        self.sent = 0

    @property
    def doubtful(self) -> bool:
        """Whether it matters, before anything is sent again, how far the service came."""
        return self._abandoned or len(self._outstanding) > 1

    def requests_to_take_back(self, info: SessionInfo) -> int:
        """Return how many requests were taken whose answers cannot be had any more."""
        taken = sum(last <= info.step for last in self._outstanding)
        requests = taken if taken > 1 or self._abandoned else 0
        self._took_back = self._took_back or requests > 0
        return requests

    def settled(self, info: SessionInfo) -> None:
        """Note that what had to be taken back was; an epoch that is not our own doing is not taken over."""
        if self._took_back:
            self._cursor.epoch = info.epoch
        self._abandoned = self._took_back = False

    def connected(self) -> None:
        """Note a new socket, which has carried nothing."""
        self.sent = 0
        self._outstanding.clear()

    def give_up(self) -> None:
        """Drop all frames; the next chunk takes the number of the first of them."""
        if not self._abandoned:
            self._outstanding.clear()
        self.frames.clear()
        self.sent = 0

    def abandon(self) -> None:
        """Drop all frames; what was taken of them is taken back before anything else is sent, where it can be."""
        self._abandoned = self._abandoned or (bool(self._outstanding) and self._cursor.keep > 0)
        self.give_up()
