"""Streams: a WebSocket on which every frame is a chunk, and every answer a frame.

With `?format=json`, the default, frames are step bodies and their answers; with `?format=binary` they are raw
little-endian tensors, (steps, *shape) in and out. Errors are JSON text frames either way.
"""

import time
from urllib.parse import parse_qs

import orjson
import structlog

from service.errors import InternalError, InvalidInput, NotFound, ServiceError
from service.gate import REQUEST_ID, Gate, Message, Receive, Scope, Send, error_reply
from service.operations import Operations
from service.sessions import Session

_log = structlog.get_logger()


class Streams:
    """Opens streams and answers their frames, one at a time and in order."""

    def __init__(self, gate: Gate, operations: Operations) -> None:
        self._gate, self._operations = gate, operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a stream that FastAPI routed here."""
        await self.open(scope["path_params"]["model"], scope, receive, send)

    async def open(self, model_name: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Open a session of a model and stream it; a refusal is the handshake's HTTP answer.

        The session outlives its socket: it can be stepped over HTTP until its idle limit passes or it is deleted.
        """
        start = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = self._gate.request_id(headers)
        await receive()  # websocket.connect
        try:
            tenant = self._gate.tenant(headers)
            model = self._operations.find_model(model_name)
            binary = _wants_binary(scope["query_string"])
            if binary:
                model.codec.needs_one_tensor("format")
            session = self._operations.new_session(model, tenant)
        except ServiceError as error:
            self._gate.answered("stream", error.status, start)
            await refuse(error, request_id, scope, send)
            return
        self._gate.answered("stream", 101, start)
        head = [(b"x-session-id", session.id.encode()), (REQUEST_ID, request_id)]
        await send({"type": "websocket.accept", "headers": head})
        await self._frames(session, binary, request_id, receive, send)

    async def _frames(self, session: Session, binary: bool, request_id: bytes, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            start = time.perf_counter()
            error: ServiceError
            try:
                answer = await self._frame(session, binary, message)
            except ServiceError as exc:
                error = exc
            except Exception:
                _log.exception("stream_failed", code=InternalError.code, request_id=request_id.decode())
                error = InternalError()
            else:
                await send(answer)
                self._gate.answered("frame", 200, start)
                continue
            self._gate.answered("frame", error.status, start)
            await send({"type": "websocket.send", "text": orjson.dumps(error.body()).decode()})
            if error.close is not None:
                await send({"type": "websocket.close", "code": error.close, "reason": error.code})
                return

    async def _frame(self, session: Session, binary: bool, message: Message) -> Message:
        """Answer a frame in kind: a step body, or a raw tensor (steps, *shape)."""
        operations = self._operations
        raw = message.get("bytes")
        if raw is None:
            if binary:
                raise InvalidInput(
                    "frame", "a binary frame, as the stream was opened with format=binary", "a text frame"
                )
            raw = message["text"].encode()
        chunk = operations.submit(session, raw, binary)
        await chunk.entry.future
        if binary:
            return {"type": "websocket.send", "bytes": operations.raw_answer(session, chunk)}
        return {"type": "websocket.send", "text": operations.answer(session, chunk).decode()}


class Nowhere:
    """Refuses the handshake at every path where no stream is."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await refuse(NotFound(), self._gate.request_id(dict(scope["headers"])), scope, send)


def _wants_binary(query: bytes) -> bool:
    wish = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    for name in wish:
        if name != "format":
            raise InvalidInput("query", "no parameter but format", "another one")
    if (form := wish.get("format", ["json"])[-1]) not in ("json", "binary"):
        raise InvalidInput("format", "json or binary", "another form")
    return form == "binary"


async def refuse(error: ServiceError, request_id: bytes, scope: Scope, send: Send) -> None:
    """Answer a handshake with an error over HTTP, where the server can, else close it."""
    status, headers, body = error_reply(error)
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": error.close or 1008})
        return
    headers += [(REQUEST_ID, request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
