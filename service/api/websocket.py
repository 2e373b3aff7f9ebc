"""Streams: a WebSocket on which every frame is a chunk of one session, and every answer a frame.

With `?format=json`, the default, frames are step bodies and their answers; with `binary` they are raw little-endian
tensors, (steps, *shape) in and out; with `framed` the same behind a head that carries step numbers. Errors are JSON
text frames in every form.
"""

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson
import structlog

from service.api.handler import REQUEST_ID, Gate, Headers, Message, Receive, Scope, Send, error_reply
from service.engine.work import Chunk
from service.errors import InternalError, InvalidInput, NotFound, ServiceError, ShuttingDown, StreamTaken
from service.sessions.lifecycle import Lifecycle
from service.sessions.session import Session
from service.sessions.steps import EPOCH, NUMBER, Operations

HEAD = struct.Struct("<QII")
"""The head of a framed message: step, flags, payload bytes. In: the first step, or 0; out: the last one."""
_TAKEOVER_SECONDS = 2.0
"""Seconds that a socket which takes over waits for the answer that the one before it is owed."""
REPLAYED = 1
"""The flag of a framed answer that was given before."""

_FORMATS = ("json", "binary", "framed")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a handshake's query asks for."""

    format: str
    takeover: bool


class Streams:
    """Opens streams, at most one for each session, and ends them all when the service goes."""

    def __init__(self, gate: Gate, operations: Operations, lifecycle: Lifecycle) -> None:
        self._gate, self._operations, self._lifecycle = gate, operations, lifecycle
        self._streams: dict[str, _Stream] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._leaving = False

    async def of_model(self, model: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a session of a model and stream it; a refusal is the handshake's HTTP answer.

        The session outlives its socket: it can be stepped over HTTP, or continued by another socket, until its idle
        limit passes or it is deleted.
        """
        await self._open(model, scope, receive, send, resume=False)

    async def of_session(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Continue a session that nobody else streams, or whose stream is taken over; likewise."""
        await self._open(session_id, scope, receive, send, resume=True)

    async def leave(self, patience: float) -> None:
        """End every stream when its frame is answered, and tell each at which step to resume; refuse new ones.

        A client that does not read its answer is waited for `patience` seconds.
        """
        self._leaving = True
        ends = [
            self._begin(stream.end(ShuttingDown.close, lambda session: str(session.step + 1)))
            for stream in self._streams.values()
        ]
        if ends:
            await asyncio.wait(ends, timeout=patience)

    def _begin(self, ending: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _open(self, target: str, scope: Scope, receive: Receive, send: Send, resume: bool) -> None:
        start = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = self._gate.request_id(headers)
        await receive()  # websocket.connect
        try:
            tenant = self._gate.tenant(headers)
            wish = _read_query(scope["query_string"], resume)
            if self._leaving:
                raise ShuttingDown
            session = self._lifecycle.find(target, tenant) if resume else None
            codec = session.model.codec if session is not None else self._lifecycle.model(target).codec
            if wish.format != "json":
                codec.needs_one_tensor("format")
            session = session or self._lifecycle.new_session(target, tenant)
            before = self._streams.get(session.id)
            if before is not None and not wish.takeover:
                raise StreamTaken
        except ServiceError as error:
            self._gate.answered("stream", error.status, start)
            await refuse(error, request_id, scope, send)
            return
        stream = self._streams[session.id] = _Stream(session, wish.format, self._operations, self._lifecycle, send)
        self._gate.answered("stream", 101, start)
        try:
            if before is not None:
                ending = self._begin(before.end(StreamTaken.close, lambda _: StreamTaken.code))
                await asyncio.wait([ending], timeout=_TAKEOVER_SECONDS)
            if stream.ended:  # a third one was quicker
                await refuse(StreamTaken(), request_id, scope, send)
                return
            await stream.accept(request_id)
            await stream.answer_frames(self._gate, request_id, receive)
        finally:
            if self._streams.get(session.id) is stream:
                del self._streams[session.id]


class _Stream:
    """One socket and its session. A frame is being answered while `_busy`; nothing is sent once `_ended`.

    `_quiet` is there once somebody waits for that answer in order to end the stream: no further frame is taken then.
    """

    def __init__(self, session: Session, form: str, operations: Operations, lifecycle: Lifecycle, send: Send) -> None:
        self.session, self._form, self._send = session, form, send
        self._operations, self._lifecycle = operations, lifecycle
        self._accepted = self._busy = self._ended = False
        self._quiet: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._ended

    async def accept(self, request_id: bytes) -> None:
        """Accept the handshake; its answer names the session, its last step and its epoch."""
        self._accepted = True
        head: Headers = [
            (b"x-session-id", self.session.id.encode()),
            (NUMBER, b"%d" % self.session.step),
            (EPOCH, b"%d" % self.session.epoch),
            (REQUEST_ID, request_id),
        ]
        await self._send({"type": "websocket.accept", "headers": head})

    async def end(self, code: int, reason: Callable[[Session], str]) -> None:
        """Close the socket, after the answer of a frame that is under way."""
        if self._busy:
            self._quiet = self._quiet or asyncio.get_running_loop().create_future()
            await self._quiet
        if not self._ended:
            self._ended = True
            if not self._accepted:
                return
            with suppress(OSError):  # the client was quicker
                await self._send({"type": "websocket.close", "code": code, "reason": reason(self.session)})

    async def answer_frames(self, gate: Gate, request_id: bytes, receive: Receive) -> None:
        """Answer frames one after the other until the socket is closed."""
        try:
            while (message := await receive())["type"] == "websocket.receive":
                if not self._ended and self._quiet is None:  # what comes once the farewell is due is not taken
                    self._busy = True
                    await self._answer(message, gate, request_id)
                    self._rest()
        finally:
            self._ended = True
            self._rest()

    async def _answer(self, message: Message, gate: Gate, request_id: bytes) -> None:
        start = time.perf_counter()
        error: ServiceError
        try:
            answer = await self._frame(message)
        except ServiceError as exc:
            error = exc
        except Exception:
            _log.exception("stream_failed", code=InternalError.code, request_id=request_id.decode())
            error = InternalError()
        else:
            await self._send(answer)
            gate.answered("frame", 200, start)
            return
        gate.answered("frame", error.status, start)
        await self._send({"type": "websocket.send", "text": orjson.dumps(error.body()).decode()})
        if error.close is not None:
            self._ended = True
            await self._send({"type": "websocket.close", "code": error.close, "reason": error.code})

    def _rest(self) -> None:
        self._busy = False
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    async def _frame(self, message: Message) -> Message:
        """Answer a frame in kind."""
        operations, raw = self._operations, message.get("bytes")
        session = self._lifecycle.find(self.session.id, self.session.tenant)
        if self._form == "json":
            chunk = operations.submit(session, raw if raw is not None else message["text"].encode())
            await chunk.entry.future
            return {"type": "websocket.send", "text": operations.answer(session, chunk).decode()}
        if raw is None:
            raise InvalidInput(
                "frame", f"a binary frame, as the stream was opened with format={self._form}", "a text frame"
            )
        framed = self._form == "framed"
        number, payload = _split(raw) if framed else (0, raw)
        chunk = operations.submit_raw(session, payload, number)
        await chunk.entry.future
        tensor = operations.raw_answer(chunk)
        return {"type": "websocket.send", "bytes": _joined(chunk, tensor) if framed else tensor}


class Routed:
    """A stream that FastAPI found by its path."""

    def __init__(self, stream: Callable[[str, Scope, Receive, Send], Awaitable[None]]) -> None:
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream(scope["path_params"]["argument"], scope, receive, send)


class Nowhere:
    """Refuses the handshake at every path where no stream is."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await refuse(NotFound(), self._gate.request_id(dict(scope["headers"])), scope, send)


def _split(frame: bytes) -> tuple[int, bytes]:
    """Return a framed message's step and payload."""
    if len(frame) < HEAD.size:
        raise InvalidInput("frame", f"a head of {HEAD.size} bytes and a tensor", f"{len(frame)} bytes")
    number, flags, size = HEAD.unpack_from(frame)
    if flags:
        raise InvalidInput("frame.flags", "0", str(flags))
    if size != len(frame) - HEAD.size:
        raise InvalidInput("frame.payload_bytes", f"{len(frame) - HEAD.size}, as many as follow", str(size))
    if number >= 1 << 63:
        raise InvalidInput("frame.step", "a whole number up to 2^63 - 1", str(number))
    return number, frame[HEAD.size :]


def _joined(chunk: Chunk, tensor: bytes) -> bytes:
    return HEAD.pack(chunk.last_step, REPLAYED if chunk.replayed else 0, len(tensor)) + tensor


def _read_query(query: bytes, resume: bool) -> _Wish:
    fields = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    known = ("format", "takeover") if resume else ("format",)
    for name in fields:
        if name not in known:
            raise InvalidInput("query", f"no parameter but {' and '.join(known)}", "another one")
    form, takeover = fields.get("format", ["json"])[-1], fields.get("takeover", ["0"])[-1]
    if form not in _FORMATS:
        raise InvalidInput("format", ", ".join(_FORMATS), "another form")
    if takeover not in ("0", "1"):
        raise InvalidInput("takeover", "0 or 1", "another value")
    return _Wish(form, takeover == "1")


async def refuse(error: ServiceError, request_id: bytes, scope: Scope, send: Send) -> None:
    """Answer a handshake with an error over HTTP, where the server can, else close it."""
    status, headers, body = error_reply(error)
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": error.close or 1008})
        return
    headers += [(REQUEST_ID, request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
