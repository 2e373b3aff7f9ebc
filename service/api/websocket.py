"""Streams: a WebSocket on which every frame is a chunk of one session, answered by a frame.

With `?format=json`, the default, frames are the bodies of step requests and replies; with `binary` they are raw
little-endian tensors, (steps, *shape) in and out; with `framed` the same behind a head that carries step numbers.
Errors are JSON text frames in every format.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs

import orjson

from service.api.handler import Handler
from service.api.request import (
    EPOCH,
    REQUEST_ID,
    STEP,
    Call,
    Headers,
    Message,
    OperationOf,
    Receive,
    Scope,
    Send,
    error_reply,
)
from service.api.step_bodies import StepBodies
from service.errors import InvalidInput, NotFound, ServiceError, ShuttingDown, StreamTaken
from service.repository.repository import Repository
from service.sessions.lifecycle import Lifecycle, SessionOptions
from service.sessions.session import Session
from service.sessions.steps import Steps
from service.sessions.table import SessionTable
from service.settings import Settings

HEAD = struct.Struct("<QII")
"""The head of a framed message: step, flags, payload bytes. In: the first step, or 0; out: the last one."""
REPLAYED_FLAG = 1
"""The flag of a framed reply that is a stored answer."""
_TAKEOVER_SECONDS = 2.0
"""Seconds that a socket which takes a stream over waits for the last reply on the one before it."""
_CLOSE = 1008
"""The close code of a handshake that is refused on a server that cannot send an HTTP reply."""

_FORMATS = ("json", "binary", "framed")

_Handshake = tuple[int, "_Stream | ServiceError"]
"""The HTTP status of a handshake's reply, and the stream or why there is none."""
_FrameReply = tuple[int, Message | ServiceError]
"""The status that a frame is counted with, and its reply or why there is none."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a handshake's query asks for."""

    format: str
    takeover: bool


class Streams:
    """Opens streams, at most one for each session, and ends them all when the service stops."""

    def __init__(
        self,
        settings: Settings,
        handler: Handler,
        repository: Repository,
        table: SessionTable,
        steps: Steps,
        lifecycle: Lifecycle,
    ) -> None:
        self._handler, self._repository, self._table = handler, repository, table
        self._steps, self._lifecycle, self._bodies = steps, lifecycle, StepBodies(settings)
        self._streams: dict[str, _Stream] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def of_model(self, model: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a session of a model and stream it; a refusal is the handshake's HTTP reply.

        The session outlives its socket: it can be stepped over HTTP, or continued by another socket, until its idle
        limit passes or it is deleted.
        """
        await self._open(model, scope, receive, send, resume=False)

    async def of_session(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Continue a session that no other socket streams, or take its stream over; refused as `of_model` is."""
        await self._open(session_id, scope, receive, send, resume=True)

    async def stop(self, patience: float) -> None:
        """End every stream when its frame is answered, with the step to resume at as reason; refuse new ones.

        A client that does not read its reply is waited for `patience` seconds.
        """
        self._stopping = True
        ends = [
            self._begin(stream.end(ShuttingDown.close, lambda session: str(session.step + 1)))
            for stream in self._streams.values()
        ]
        if ends:
            await asyncio.wait(ends, timeout=patience)

    def _begin(self, ending: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(ending)
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)
        return task

    async def _open(self, target: str, scope: Scope, receive: Receive, send: Send, *, resume: bool) -> None:
        await receive()  # websocket.connect
        before: _Stream | None = None

        async def shake_hands(call: Call, body: bytes) -> _Handshake:
            nonlocal before
            stream, before = await self._stream(call, send, resume=resume)
            return 101, stream

        call = Call(target, scope, receive)
        _, stream = await self._handler.run(OperationOf("stream", shake_hands, _refused), call)
        if isinstance(stream, ServiceError):
            await refuse(stream, call.request_id, scope, send)
            return
        try:
            if before is not None:
                ending = self._begin(before.end(StreamTaken.close, lambda _: StreamTaken.code))
                await asyncio.wait([ending], timeout=_TAKEOVER_SECONDS)
            if stream.ended:  # a third one was quicker
                await refuse(StreamTaken(), call.request_id, scope, send)
                return
            await stream.accept()
            await stream.answer_frames()
        finally:
            if self._streams.get(stream.session.id) is stream:
                del self._streams[stream.session.id]

    async def _stream(self, call: Call, send: Send, *, resume: bool) -> "tuple[_Stream, _Stream | None]":
        """Return a new stream of a session, and the one whose place it takes."""
        options = _read_query(call.query, resume)
        if self._stopping:
            raise ShuttingDown
        session: Session | None = None
        if resume:
            session = self._table.resident(call.argument, call.tenant)
            session = session or await self._table.load(call.argument, call.tenant)
        model = session.model if session is not None else self._repository.find(call.argument)
        if options.format != "json":
            model.codec.needs_one_tensor("format")
        session = session or self._lifecycle.create(call.tenant, model, SessionOptions())
        before = self._streams.get(session.id)
        if before is not None and not options.takeover:
            raise StreamTaken
        call.argument = session.id
        stream = _Stream(session, options.format, call, self._handler, self._table, self._steps, self._bodies, send)
        self._streams[session.id] = stream
        return stream, before


class _Stream:
    """One socket and its session; `call` is its handshake, authenticated, and names the session.

    A frame is being answered while `_busy`; nothing is sent once `_ended`. `_quiet` is set once somebody waits for that
    reply in order to end the stream: no further frame is taken then.
    """

    def __init__(
        self,
        session: Session,
        form: str,
        call: Call,
        handler: Handler,
        table: SessionTable,
        steps: Steps,
        bodies: StepBodies,
        send: Send,
    ) -> None:
        self.session, self._format, self._call, self._send = session, form, call, send
        self._handler, self._table, self._steps, self._bodies = handler, table, steps, bodies
        endpoint = {"json": self._json, "binary": self._binary, "framed": self._framed}[form]
        self._operation = OperationOf("frame", endpoint, _refused)
        self._accepted = self._busy = self._ended = False
        self._quiet: asyncio.Future[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._ended

    async def accept(self) -> None:
        """Accept the handshake; its reply names the session, its last step and its epoch."""
        self._accepted = True
        headers: Headers = [
            (b"x-session-id", self.session.id.encode()),
            (STEP, b"%d" % self.session.step),
            (EPOCH, b"%d" % self.session.epoch),
            (REQUEST_ID, self._call.request_id),
        ]
        await self._send({"type": "websocket.accept", "headers": headers})

    async def end(self, code: int, reason: Callable[[Session], str]) -> None:
        """Close the socket, after the reply to a frame that is being answered."""
        if self._busy:
            self._quiet = self._quiet or asyncio.get_running_loop().create_future()
            await self._quiet
        if not self._ended:
            self._ended = True
            if not self._accepted:
                return
            with suppress(OSError):  # the client was quicker
                await self._send({"type": "websocket.close", "code": code, "reason": reason(self.session)})

    async def answer_frames(self) -> None:
        """Answer frames one after the other until the socket is closed."""
        receive = self._call.receive
        try:
            while (message := await receive())["type"] == "websocket.receive":
                if not self._ended and self._quiet is None:  # what comes while it ends is not taken
                    self._busy = True
                    await self._answer(message)
                    self._rest()
        finally:
            self._ended = True
            self._rest()

    async def _answer(self, message: Message) -> None:
        frame = message.get("bytes")
        if frame is None and self._format == "json":
            frame = message["text"].encode()
        _, reply = await self._handler.run(self._operation, self._call, frame)
        if not isinstance(reply, ServiceError):
            await self._send(reply)
            return
        await self._send({"type": "websocket.send", "text": orjson.dumps(reply.body()).decode()})
        if reply.close is not None:
            self._ended = True
            await self._send({"type": "websocket.close", "code": reply.close, "reason": reply.code})

    def _rest(self) -> None:
        self._busy = False
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    async def _json(self, call: Call, frame: bytes) -> _FrameReply:
        session = self._resident() or await self._table.load(call.argument, call.tenant)
        request = self._bodies.read_json(call.argument, session.model.codec, frame)
        result = await self._steps.take(call.tenant, request)
        return 200, {"type": "websocket.send", "text": self._bodies.write_json(result).decode()}

    async def _binary(self, call: Call, frame: bytes | None) -> _FrameReply:
        session = self._resident() or await self._table.load(call.argument, call.tenant)
        request = self._bodies.read_raw(call.argument, session.model.codec, self._needs_bytes(frame))
        result = await self._steps.take(call.tenant, request)
        return 200, {"type": "websocket.send", "bytes": self._bodies.write_raw(result)}

    async def _framed(self, call: Call, frame: bytes | None) -> _FrameReply:
        session = self._resident() or await self._table.load(call.argument, call.tenant)
        number, payload = _split(self._needs_bytes(frame))
        request = self._bodies.read_raw(call.argument, session.model.codec, payload, number)
        result = await self._steps.take(call.tenant, request)
        tensor = self._bodies.write_raw(result)
        head = HEAD.pack(result.last_step, REPLAYED_FLAG if result.replayed else 0, len(tensor))
        return 200, {"type": "websocket.send", "bytes": head + tensor}

    def _resident(self) -> Session | None:
        return self._table.resident(self._call.argument, self._call.tenant)

    def _needs_bytes(self, frame: bytes | None) -> bytes:
        if frame is None:
            expected = f"a binary frame, as the stream was opened with format={self._format}"
            raise InvalidInput("frame", expected, "a text frame")
        return frame


def _refused(error: ServiceError) -> tuple[int, ServiceError]:
    return error.status, error


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


def _read_query(query: bytes, resume: bool) -> StreamOptions:
    """Read a handshake's query; raises InvalidInput."""
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
    return StreamOptions(form, takeover == "1")


async def refuse(error: ServiceError, request_id: bytes, scope: Scope, send: Send) -> None:
    """Answer a handshake with an error over HTTP, where the server can, else close it."""
    status, headers, body = error_reply(error)
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": error.close or _CLOSE})
        return
    headers += [(REQUEST_ID, request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class StreamRoute:
    """A stream that FastAPI found by its path."""

    def __init__(self, stream: Callable[[str, Scope, Receive, Send], Awaitable[None]]) -> None:
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._stream(scope["path_params"]["argument"], scope, receive, send)


class NoStreamRoute:
    """Refuses the handshake at every path that is no stream's."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await refuse(NotFound(), self._handler.request_id(dict(scope["headers"])), scope, send)
