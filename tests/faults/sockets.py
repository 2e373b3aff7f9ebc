"""Clients that step sessions over WebSockets, and reconnect when a connection is lost."""

import asyncio
import json
import struct
from collections import deque
from dataclasses import dataclass
from random import Random

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from tests.faults.clients import Client, Connections, Goal, SessionGone, pause, read_json, refused, step_body
from tests.faults.history import ANSWERED, TRANSIENT, UNANSWERED, Attempt, Event, Resumed
from tests.faults.session import ClientSession

_HEAD = struct.Struct("<QII")
_REPLAYED = 1
SERVICE_RESTART = 1012
_NO_CLOSE_FRAME = 1006
_NO_ANSWER_SECONDS = 5.0
_Request = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Close:
    """How a WebSocket ended: its close code (1006 without a close frame), the reason, and the next step to send."""

    code: int
    reason: str
    next_step: int


class SocketClient(Client):
    """Steps a session over WebSockets, with up to `window` unanswered frames, and reconnects when one is lost.

    `closes` records how the connections ended. `sent` are the frames of the present session without an answer.
    """

    format = "json"

    def __init__(
        self,
        connections: Connections,
        history: list[Event],
        goal: Goal,
        rng: Random,
        *,
        window: int = 1,
        extras: bool = True,
    ) -> None:
        super().__init__(connections, history, goal, rng, extras=extras)
        self._window = window
        self.closes: list[Close] = []
        self.sent: deque[_Request] = deque()

    async def run_session(self, session: ClientSession) -> None:
        """Step a session to its end, or until the goal is reached."""
        tries = 0
        self.sent.clear()
        while (session.left > 0 and not self.goal.over) or self.sent:
            socket = await self._connect(session)
            if socket is None:
                tries += 1
                await asyncio.sleep(pause(tries))
                continue
            try:
                tries = 0
                await self._frames(socket, session)
                await socket.close()
            except ConnectionClosed as closed:
                await self._read_remaining(socket, session)
                frame = closed.rcvd
                code, reason = (frame.code, frame.reason) if frame is not None else (_NO_CLOSE_FRAME, "")
                self.closes.append(Close(code, reason, session.step + 1))
            except TimeoutError:
                pass
            finally:
                socket.transport.abort()
            for first, inputs in self.sent:
                self.history.append(Attempt(session.id, first, inputs, UNANSWERED))

    async def _connect(self, session: ClientSession) -> ClientConnection | None:
        """Connect, and read the session's step from the handshake; return None if the connection failed."""
        url = f"ws://127.0.0.1:{self.connections.faulty.port}/v1/sessions/{session.id}/stream"
        try:
            socket = await connect(
                f"{url}?format={self.format}&takeover=1",
                compression=None,
                ping_interval=None,
                close_timeout=0.2,
                open_timeout=_NO_ANSWER_SECONDS,
                proxy=None,
            )
        except InvalidStatus as answer:
            fields = json.loads(answer.response.body or b"{}")
            if fields.get("code") in TRANSIENT:
                return None
            self.history.append(refused(session.id, session.step + 1, (), fields))
            raise SessionGone from answer
        except (OSError, TimeoutError, InvalidHandshake, InvalidMessage, EOFError, ConnectionClosed):
            return None
        assert socket.response is not None
        self._resume(session, int(socket.response.headers["x-step"]))
        return socket

    def _resume(self, session: ClientSession, step: int) -> None:
        """Drop the unanswered frames that were taken, except the last one, whose answer is still stored."""
        self.history.append(Resumed(session.id, step))
        while self.sent and self.sent[0][0] + len(self.sent[0][1]) - 1 < step:
            session.taken(*self.sent.popleft())

    async def _frames(self, socket: ClientConnection, session: ClientSession) -> None:
        """Send frames and read their answers, starting with those that are unanswered from an earlier connection."""
        for request in self.sent:
            await socket.send(self._frame(session, *request))
        while (session.left > 0 and not self.goal.over) or self.sent:
            if len(self.sent) < self._window and session.left > 0 and not self.goal.over:
                await self._send_next(socket, session)
                continue
            async with asyncio.timeout(_NO_ANSWER_SECONDS):
                answer = await socket.recv()
            self._answered(session, answer)
            if self._extras and not self.sent and self.rng.random() < 0.02:
                await self._repeat_last_frame(socket, session)

    async def _read_remaining(self, socket: ClientConnection, session: ClientSession) -> None:
        """Read the answers that arrived before the connection was closed."""
        try:
            while self.sent:
                self._answered(session, await socket.recv())
        except (ConnectionClosed, TimeoutError):
            return

    async def _send_next(self, socket: ClientConnection, session: ClientSession) -> None:
        first = self.sent[-1][0] + len(self.sent[-1][1]) if self.sent else session.step + 1
        self.sent.append((first, session.draw()))
        await socket.send(self._frame(session, *self.sent[-1]))

    async def _repeat_last_frame(self, socket: ClientConnection, session: ClientSession) -> None:
        """Send the last frame again, and record its answer, which must be the same."""
        if session.requests:
            first, inputs = session.requests[-1]
            await socket.send(self._frame(session, first, inputs))
            async with asyncio.timeout(_NO_ANSWER_SECONDS):
                self.history.append(self._read(session, first, inputs, await socket.recv()))

    def _answered(self, session: ClientSession, answer: str | bytes) -> None:
        first, inputs = self.sent[0]
        attempt = self._read(session, first, inputs, answer)
        self.history.append(attempt)
        if attempt.outcome == ANSWERED:
            self.sent.popleft()
            session.taken(first, inputs)
            self.goal.add(len(inputs))
        elif attempt.outcome == "step_too_old" and attempt.expected > first + len(inputs):
            session.taken(*self.sent.popleft())  # frames of an earlier connection were taken after the handshake
        elif attempt.outcome in TRANSIENT:
            raise TimeoutError
        else:
            raise SessionGone

    def _frame(self, session: ClientSession, first: int, inputs: tuple[int, ...]) -> str | bytes:
        return step_body(session, first, inputs).decode()

    def _read(self, session: ClientSession, first: int, inputs: tuple[int, ...], answer: str | bytes) -> Attempt:
        return read_json(session.id, first, inputs, json.loads(answer))


class FramedClient(SocketClient):
    """The same with binary frames, whose head has the step number."""

    format = "framed"

    def _frame(self, session: ClientSession, first: int, inputs: tuple[int, ...]) -> bytes:
        raw = np.array(inputs, "<f4").tobytes()
        return _HEAD.pack(first, 0, len(raw)) + raw

    def _read(self, session: ClientSession, first: int, inputs: tuple[int, ...], answer: str | bytes) -> Attempt:
        if isinstance(answer, str):
            return refused(session.id, first, inputs, json.loads(answer))
        last, flags, size = _HEAD.unpack_from(answer)
        assert len(answer) == _HEAD.size + size
        outputs = tuple(np.frombuffer(answer, "<f4", offset=_HEAD.size).tolist())
        return Attempt(session.id, first, inputs, ANSWERED, outputs, last, bool(flags & _REPLAYED))
