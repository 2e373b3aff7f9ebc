"""uvicorn's protocols, with a shorter way for whole answers, and limits that uvicorn leaves open.

uvicorn sends the head and the body of an answer one after the other, and uvloop makes a system call of each; on a
short answer the second one costs more than the model. `AnsweringProtocol` offers an ASGI extension,
`cellstream.answer`: a function that takes status, headers and body and puts them on the wire in one write. Whoever does
not know of it sends the two ordinary messages.
"""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.errors import HeadTooLarge, MalformedRequest, RequestTimeout, ServiceError
from service.gate import Headers, error_reply

EXTENSION = "cellstream.answer"
HEAD_LIMIT = 64 << 10
"""Most bytes of a request's line and headers."""


class AnsweringProtocol(HttpToolsProtocol):
    """The protocol of one connection; each request's scope offers the extension.

    `_begun` tells that a request has begun and is not whole, `_head` counts the bytes read while its head was not.
    `_timer` runs while a request is only partly there.
    """

    request_seconds: ClassVar[float] = 10.0
    """Seconds within which a begun request has to arrive whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun = self._in_head = False
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._begun:
            if self._in_head:
                self._head += len(data)
                if self._head > HEAD_LIMIT:
                    self._refuse(HeadTooLarge(HEAD_LIMIT))
                    return
            if self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(self.request_seconds, self._stalled)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = self._in_head = True
        self._head = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        if self.cycle is not None:
            self.scope["extensions"] = cast(Any, {EXTENSION: partial(self._answer, self.cycle)})

    def on_message_complete(self) -> None:
        self._begun = False
        self._stop_timer()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP with the typed error."""
        self._refuse(MalformedRequest())

    def _stalled(self) -> None:
        self._timer = None
        self._refuse(RequestTimeout(self.request_seconds))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ServiceError) -> None:
        """Answer a request that never came whole, and close; whoever was reading it finds the client gone."""
        self._begun = False
        self._stop_timer()
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                status, headers, body = error_reply(error)
                self.transport.write(self._wire(status, [*headers, (b"connection", b"close")], body))
            self.transport.close()

    def _answer(self, cycle: RequestResponseCycle, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole answer of a POST, and leave the cycle as if it had been sent message by message."""
        if cycle.disconnected or cycle.response_started:
            return
        cycle.response_started = cycle.response_complete = True
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            headers.append((b"connection", b"close"))
        self.transport.write(self._wire(status, headers, body))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    def _wire(self, status: int, headers: Headers, body: bytes) -> bytes:
        pieces = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
        pieces += (b"content-length: %d\r\n\r\n" % len(body), body)
        return b"".join(pieces)


class StreamingProtocol(WebSocketsSansIOProtocol):
    """The protocol of one WebSocket; a handshake that was refused by an HTTP answer counts as complete."""

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        if message["type"] == "websocket.http.response.body":
            return self._end_refusal(message)
        return super().send(message)

    async def _end_refusal(self, message: Any) -> None:
        await super().send(message)
        self.handshake_complete = not message.get("more_body", False)
