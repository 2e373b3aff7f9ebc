"""WebSockets: every frame is a chunk of one session, answered by a frame.

With `?format=json`, the default, frames are the bodies of step requests and replies; with `binary` they are raw
little-endian tensors, (steps, *shape) in and out; with `framed` the same behind a head that carries step numbers.
Errors are JSON text frames in every format.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qs

from service.api.frames import FORMATS
from service.api.handler import Handler
from service.api.request import (
    REQUEST_ID,
    Call,
    OperationOf,
    Receive,
    Scope,
    Send,
    error_reply,
)
from service.api.step_bodies import StepBodies
from service.api.stream import Stream
from service.errors import InvalidInput, NotFound, ServiceError, ShuttingDown, StreamTaken
from service.repository.repository import Repository
from service.sessions.lifecycle import Lifecycle, SessionOptions
from service.sessions.session import Session
from service.sessions.steps import Steps
from service.sessions.table import SessionTable
from service.settings import Settings

_TAKEOVER_SECONDS = 2.0
"""Seconds that a socket which takes a stream over waits for the last reply on the one before it."""
_CLOSE = 1008
"""The close code of a handshake that is refused on a server that cannot send an HTTP reply."""

_Opened = tuple[Stream, Stream | None]
"""A new stream, and the one of the same session that it takes over, if there is one."""
_Handshake = tuple[int, _Opened | ServiceError]
"""The HTTP status of a handshake's reply, and what was opened or why nothing was."""


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
        self._streams: dict[str, Stream] = {}
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
        call = Call(target, scope, receive)
        handshake = OperationOf("stream", partial(self._shake_hands, send, resume), _refused)
        _, opened = await self._handler.run(handshake, call)
        if isinstance(opened, ServiceError):
            await refuse(opened, call.request_id, scope, send)
            return
        stream, before = opened
        try:
            if before is not None:
                ending = self._begin(before.end(StreamTaken.close, lambda _: StreamTaken.code))
                await asyncio.wait([ending], timeout=_TAKEOVER_SECONDS)
            if stream.ended:  # another request has ended it meanwhile
                await refuse(StreamTaken(), call.request_id, scope, send)
                return
            await stream.accept()
            await stream.answer_frames()
        finally:
            if self._streams.get(stream.session.id) is stream:
                del self._streams[stream.session.id]

    async def _shake_hands(self, send: Send, resume: bool, call: Call, body: bytes) -> _Handshake:
        """Open a stream of a session, a new one or, where it is to `resume`, the one that the call names."""
        options = _read_query(call.query, resume)
        if self._stopping:
            raise ShuttingDown
        session: Session | None = None
        if resume:
            session = await self._table.get(call.argument, call.tenant)
        model = session.model if session is not None else self._repository.find(call.argument)
        if options.format != "json":
            model.codec.needs_one_tensor("format")
        session = session or self._lifecycle.create(call.tenant, model, SessionOptions())
        before = self._streams.get(session.id)
        if before is not None and not options.takeover:
            raise StreamTaken
        call.argument = session.id
        frames = FORMATS[options.format](self._bodies)
        stream = Stream(session, frames, call, self._handler, self._table, self._steps, send)
        self._streams[session.id] = stream
        return 101, (stream, before)


def _read_query(query: bytes, resume: bool) -> StreamOptions:
    """Read a handshake's query; raises InvalidInput."""
    fields = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    known = ("format", "takeover") if resume else ("format",)
    for name in fields:
        if name not in known:
            raise InvalidInput("query", f"no parameter but {' and '.join(known)}", "another one")
    name, takeover = fields.get("format", ["json"])[-1], fields.get("takeover", ["0"])[-1]
    if name not in FORMATS:
        raise InvalidInput("format", ", ".join(FORMATS), "another form")
    if takeover not in ("0", "1"):
        raise InvalidInput("takeover", "0 or 1", "another value")
    return StreamOptions(name, takeover == "1")


def _refused(error: ServiceError) -> _Handshake:
    return error.status, error


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
