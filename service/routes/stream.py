"""Streams: a WebSocket on which every frame is a step body, and every answer a frame."""

import orjson
import structlog

from service.errors import InternalError, ServiceError
from service.gate import Gate, Receive, Reply, Scope, Send, error_reply
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
            session = self._operations.new_session(model, tenant)
        except ServiceError as error:
            await _refuse(error_reply(error), request_id, scope, send)
            return
        head = [(b"x-session-id", session.id.encode()), (b"x-request-id", request_id)]
        await send({"type": "websocket.accept", "headers": head})
        await self._frames(session, request_id, receive, send)

    async def _frames(self, session: Session, request_id: bytes, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            body = text.encode() if text is not None else message["bytes"]
            error: ServiceError
            try:
                answer = await self._operations.advance(session, body)
            except ServiceError as exc:
                error = exc
            except Exception:
                _log.exception("stream_failed", code=InternalError.code, request_id=request_id.decode())
                error = InternalError()
            else:
                await send({"type": "websocket.send", "text": answer.decode()})
                continue
            await send({"type": "websocket.send", "text": orjson.dumps(error.body()).decode()})
            if error.close is not None:
                await send({"type": "websocket.close", "code": error.close, "reason": error.code})
                return


async def _refuse(reply: Reply, request_id: bytes, scope: Scope, send: Send) -> None:
    status, headers, body = reply
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers += [(b"x-request-id", request_id), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
