"""The window of a stream: its frames without an answer, and which of them are rewound when the socket is lost."""

import json
from collections import deque
from dataclasses import dataclass
from typing import Any

from cellstream_client.cursor import Cursor, numbered
from cellstream_client.errors import error_of_response
from cellstream_client.values import Inputs, Outputs, SessionInfo, encode, length


@dataclass(frozen=True, slots=True)
class Frame:
    """A chunk that has no answer yet: the numbers of its first and last step, and its inputs as JSON."""

    first: int
    last: int
    inputs: str


class Window:
    """Hold the frames without an answer, in order; the first of them starts at the step after the cursor's.

    The first `sent` of `frames` were sent on the present socket. `_outstanding` are the last steps of all frames that
    were sent on any socket and have no answer: those of `frames`, preceded by those that were abandoned because the
    caller stopped reading. `_rewinding` is true from the request of a rewind until its epoch is known.

    The service stores the answer of the last request only. When a socket is lost with one frame outstanding, that frame
    is sent again; with several, those that the service has taken are rewound first.
    """

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self.frames: deque[Frame] = deque()
        self.sent = 0
        self._outstanding: list[int] = []
        self._abandoned = False
        self._rewinding = False

    def add(self, inputs: Inputs) -> None:
        """Append a chunk.

        Raises:
            InvalidInput: A number is infinite or NaN.
            TypeError: The chunk contains something other than numbers.
        """
        plain: Any = inputs.tolist() if hasattr(inputs, "tolist") else inputs
        first = 1 + (self.frames[-1].last if self.frames else self._cursor.step)
        self.frames.append(Frame(first, first - 1 + length(plain), encode(plain)))

    def next_unsent(self) -> str | None:
        """Return the next frame to send on the present socket, as JSON, and count it as sent; None if there is none."""
        if self.sent == len(self.frames):
            return None
        frame = self.frames[self.sent]
        self.sent += 1
        self._outstanding.append(frame.last)
        return numbered(frame.inputs, frame.first, self._cursor.epoch)

    def read(self, text: str | bytes) -> Outputs:
        """Read the answer to the oldest frame, and return its outputs.

        Raises:
            CellstreamError: The frame was refused. It remains the oldest, and is sent again.
        """
        answer = json.loads(text)
        self._outstanding.pop(0)
        self.sent -= 1
        if "code" in answer:
            raise error_of_response(0, text)
        self.frames.popleft()
        return self._cursor.read_step(answer)

    def lost(self) -> None:
        """Record that the socket was lost."""
        self.sent = 0

    @property
    def needs_check(self) -> bool:
        """Whether the session's step must be requested from the service before frames are sent again."""
        return self._abandoned or len(self._outstanding) > 1

    def requests_to_rewind(self, info: SessionInfo) -> int:
        """Return how many requests must be rewound: those taken by the service whose answers are no longer stored."""
        taken = sum(last <= info.step for last in self._outstanding)
        requests = taken if taken > 1 or self._abandoned else 0
        self._rewinding = self._rewinding or requests > 0
        return requests

    def resolved(self, info: SessionInfo) -> None:
        """Record that the rewind is done; the epoch is adopted only if this client has raised it."""
        if self._rewinding:
            self._cursor.epoch = info.epoch
        self._abandoned = self._rewinding = False

    def connected(self) -> None:
        """Record a new socket, on which nothing has been sent."""
        self.sent = 0
        self._outstanding.clear()

    def give_up(self) -> None:
        """Drop all frames; the next chunk gets the step number of the first of them."""
        if not self._abandoned:
            self._outstanding.clear()
        self.frames.clear()
        self.sent = 0

    def abandon(self) -> None:
        """Drop all frames; if the session keeps requests, those already taken are rewound before the next frame."""
        self._abandoned = self._abandoned or (bool(self._outstanding) and self._cursor.keep > 0)
        self.give_up()
