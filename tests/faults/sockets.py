"""Clients that step over a WebSocket, and open it again where it was cut."""

import asyncio
import json
import struct
from collections import deque
from dataclasses import dataclass
from random import Random

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from tests.faults.clients import Client, Goal, Gone, Wire, pause, read_json, refused, step_body
from tests.faults.history import ANSWERED, TRANSIENT, UNANSWERED, Attempt, Event, Resumed
from tests.faults.walk import Walk

_HEAD = struct.Struct("<QII")
_REPLAYED = 1
GOING_AWAY = 1012
_NO_FAREWELL = 1006
_NO_ANSWER_SECONDS = 5.0
_Request = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Close:
    """How a socket ended: the code (1006 where none came), the reason, and the step after the last answer."""

    code: int
    reason: str
    next_step: int


class SocketClient(Client):
    """Walks a session over sockets, with up to `window` frames on their way; a cut socket is opened again.

    `closes` are the ends that the service gave. `sent` are the frames of the present walk that wait for answers.
    """

    form = "json"

    def __init__(
        self, wire: Wire, history: list[Event], goal: Goal, rng: Random, *, window: int = 1, extras: bool = True
    ) -> None:
        super().__init__(wire, history, goal, rng, extras=extras)
        self._window = window
        self.closes: list[Close] = []
        self.sent: deque[_Request] = deque()

    async def walk(self, walk: Walk) -> None:
        """Step a session to its end, or until the goal is reached."""
        tries = 0
        self.sent.clear()
        while (walk.left > 0 and not self.goal.over) or self.sent:
            socket = await self._connect(walk)
            if socket is None:
                tries += 1
                await asyncio.sleep(pause(tries))
                continue
            try:
                tries = 0
                await self._frames(socket, walk)
                await socket.close()
            except ConnectionClosed as closed:
                await self._take_answers(socket, walk)
                frame = closed.rcvd
                code, reason = (frame.code, frame.reason) if frame is not None else (_NO_FAREWELL, "")
                self.closes.append(Close(code, reason, walk.step + 1))
            except TimeoutError:
                pass
            finally:
                socket.transport.abort()
            for first, inputs in self.sent:
                self.history.append(Attempt(walk.session, first, inputs, UNANSWERED))

    async def _connect(self, walk: Walk) -> ClientConnection | None:
        """Open a socket and learn where the session stands; None where it was refused or cut."""
        url = f"ws://127.0.0.1:{self.wire.faulty.port}/v1/sessions/{walk.session}/stream"
        try:
            socket = await connect(
                f"{url}?format={self.form}&takeover=1",
                compression=None,
                ping_interval=None,
                close_timeout=0.2,
                open_timeout=_NO_ANSWER_SECONDS,
                proxy=None,
            )
        except InvalidStatus as answer:
            told = json.loads(answer.response.body or b"{}")
            if told.get("code") in TRANSIENT:
                return None
            self.history.append(refused(walk.session, walk.step + 1, (), told))
            raise Gone from answer
        except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, EOFError, ConnectionClosed):
            return None
        assert socket.response is not None
        self._resume(walk, int(socket.response.headers["x-step"]))
        return socket

    def _resume(self, walk: Walk, step: int) -> None:
        """Let go of frames that were taken unanswered, but for the last, whose answer is still there to be had."""
        self.history.append(Resumed(walk.session, step))
        while self.sent and self.sent[0][0] + len(self.sent[0][1]) - 1 < step:
            walk.taken(*self.sent.popleft())

    async def _frames(self, socket: ClientConnection, walk: Walk) -> None:
        """Send frames and take their answers; those that an older socket left unanswered go first."""
        for request in self.sent:
            await socket.send(self._frame(walk, *request))
        while (walk.left > 0 and not self.goal.over) or self.sent:
            if len(self.sent) < self._window and walk.left > 0 and not self.goal.over:
                await self._send_next(socket, walk)
                continue
            async with asyncio.timeout(_NO_ANSWER_SECONDS):
                answer = await socket.recv()
            self._answered(walk, answer)
            if self._extras and not self.sent and self.rng.random() < 0.02:
                await self._probe_frame(socket, walk)

    async def _take_answers(self, socket: ClientConnection, walk: Walk) -> None:
        """Take the answers that came before the end."""
        try:
            while self.sent:
                self._answered(walk, await socket.recv())
        except (ConnectionClosed, TimeoutError):
            return

    async def _send_next(self, socket: ClientConnection, walk: Walk) -> None:
        first = self.sent[-1][0] + len(self.sent[-1][1]) if self.sent else walk.step + 1
        self.sent.append((first, walk.draw()))
        await socket.send(self._frame(walk, *self.sent[-1]))

    async def _probe_frame(self, socket: ClientConnection, walk: Walk) -> None:
        """Send the last frame again: it must be answered as before."""
        if walk.requests:
            first, inputs = walk.requests[-1]
            await socket.send(self._frame(walk, first, inputs))
            async with asyncio.timeout(_NO_ANSWER_SECONDS):
                self.history.append(self._read(walk, first, inputs, await socket.recv()))

    def _answered(self, walk: Walk, answer: str | bytes) -> None:
        first, inputs = self.sent[0]
        attempt = self._read(walk, first, inputs, answer)
        self.history.append(attempt)
        if attempt.outcome == ANSWERED:
            self.sent.popleft()
            walk.taken(first, inputs)
            self.goal.add(len(inputs))
        elif attempt.outcome == "step_too_old" and attempt.expected > first + len(inputs):
            walk.taken(*self.sent.popleft())  # an older socket's frames went on after the handshake
        elif attempt.outcome in TRANSIENT:
            raise TimeoutError
        else:
            raise Gone

    def _frame(self, walk: Walk, first: int, inputs: tuple[int, ...]) -> str | bytes:
        return step_body(walk, first, inputs).decode()

    def _read(self, walk: Walk, first: int, inputs: tuple[int, ...], answer: str | bytes) -> Attempt:
        return read_json(walk.session, first, inputs, json.loads(answer))


class FramedClient(SocketClient):
    """The same with binary frames behind a head that has the step number."""

    form = "framed"

    def _frame(self, walk: Walk, first: int, inputs: tuple[int, ...]) -> bytes:
        raw = np.array(inputs, "<f4").tobytes()
        return _HEAD.pack(first, 0, len(raw)) + raw

    def _read(self, walk: Walk, first: int, inputs: tuple[int, ...], answer: str | bytes) -> Attempt:
        if isinstance(answer, str):
            return refused(walk.session, first, inputs, json.loads(answer))
        last, flags, size = _HEAD.unpack_from(answer)
        assert len(answer) == _HEAD.size + size
        outputs = tuple(np.frombuffer(answer, "<f4", offset=_HEAD.size).tolist())
        return Attempt(walk.session, first, inputs, ANSWERED, outputs, last, bool(flags & _REPLAYED))
