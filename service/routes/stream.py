"""Streams: a WebSocket on which every frame is a chunk, and every answer a frame.

With `?format=json`, the default, frames are step bodies and their answers; with `?format=binary` they are raw
little-endian tensors, (steps, *shape) in and out. Errors are JSON text frames either way.
"""

from urllib.parse import parse_qs

import orjson
import structlog

from service.errors import InternalError, InvalidInput, ServiceError
from service.gate import Gate, Message, Receive, Reply, Scope, Send, error_reply
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
            await _refuse(error_reply(error), request_id, scope, send)
            return
        head = [(b"x-session-id", session.id.encode()), (b"x-request-id", request_id)]
        await send({"type": "websocket.accept", "headers": head})
        await self._frames(session, binary, request_id, receive, send)

    async def _frames(self, session: Session, binary: bool, request_id: bytes, receive: Receive, send: Send) -> None:
        advance = self._binary_frame if binary else self._json_frame
        while (message := await receive())["type"] == "websocket.receive":
            error: ServiceError
            try:
                answer = await advance(session, message)
            except ServiceError as exc:
                error = exc
            except Exception:
                _log.exception("stream_failed", code=InternalError.code, request_id=request_id.decode())
                error = InternalError()
            else:
                await send(answer)
                continue
            await send({"type": "websocket.send", "text": orjson.dumps(error.body()).decode()})
            if error.close is not None:
                await send({"type": "websocket.close", "code": error.close, "reason": error.code})
                return

    async def _json_frame(self, session: Session, message: Message) -> Message:
        """Answer a frame that is a step body."""
        text = message.get("text")
        answer = await self._operations.advance(session, text.encode() if text is not None else message["bytes"])
        return {"type": "websocket.send", "text": answer.decode()}

    async def _binary_frame(self, session: Session, message: Message) -> Message:
        """Answer a frame that is a raw tensor (steps, *shape)."""
        raw = message.get("bytes")
        if raw is None:
            raise InvalidInput("frame", "a binary frame, as the stream was opened with format=binary", "a text frame")
        outputs, _ = await self._operations.advance_binary(session, raw)
        return {"type": "websocket.send", "bytes": outputs}


def _wants_binary(query: bytes) -> bool:
    wish = parse_qs(query.decode("ascii", "replace"), keep_blank_values=True)
    for name in wish:
        if name != "format":
            raise InvalidInput("query", "no parameter but format", "another one")
    if (form := wish.get("format", ["json"])[-1]) not in ("json", "binary"):
        raise InvalidInput("format", "json or binary", "another form")
    return form == "binary"


async def _refuse(reply: Reply, request_id: bytes, scope: Scope, send: Send) -> None:
    status, headers, body = reply
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers += [(b"x-request-id", request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
