"""uvicorn's protocols, with a shorter way for whole answers, and limits that uvicorn leaves open.

uvicorn sends the head and the body of an answer one after the other, and uvloop makes a system call of each; on a
short answer the second one costs more than the model. `AnsweringProtocol` offers an ASGI extension,
`cellstream.answer`: a function that takes status, headers and body and puts them on the wire in one write, or returns
False while the client does not read. Whoever does not know of it sends the two ordinary messages.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.api.request import Headers, error_reply
from service.errors import HeadTooLarge, MalformedRequest, RequestTimeout, ServiceError

EXTENSION = "cellstream.answer"
FAREWELL_SECONDS = 2.0
"""Seconds in which a client has to hang up on a server that stops."""
HEAD_LIMIT = 64 << 10
"""Most bytes of a request's line and headers."""


class AnsweringProtocol(HttpToolsProtocol):
    """The protocol of one connection; each request's scope offers the extension.

    `_begun` tells that a request has begun and is not whole, `_in_body` that its head is there; `_head` counts the
    bytes read while it was not. `_timer` runs while the client owes the rest of a request, and no answer is owed to it.
    `_running` is the request whose answer is next on the wire; `_upgraded` that the connection is a WebSocket's now.
    """

    request_seconds: ClassVar[float] = 10.0
    """Seconds within which a begun request has to arrive whole."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun = self._in_body = self._upgraded = False
        self._head = 0
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._extensions = cast(Any, {EXTENSION: self._answer})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._upgraded:
            return
        if self._begun:
            if not self._in_body:
                self._head += len(data)
                if self._head > HEAD_LIMIT:
                    self._refuse(HeadTooLarge(HEAD_LIMIT))
                    return
            self._await_rest()
        elif not self._answer_is_owed():
            self._await_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._in_body, self._head = True, False, 0

    def on_headers_complete(self) -> None:
        self._in_body = True
        super().on_headers_complete()
        if self.cycle is not None:
            self.scope["extensions"] = self._extensions

    def on_message_complete(self) -> None:
        self._begun = self._in_body = False
        if self._timer is not None:
            self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline and self.flow is not None:
            self.flow.pause_reading()  # one request after the other; more of them wait in the socket
        elif self._begun:
            self._await_rest()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn tells only the newest request
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        self._upgraded = True
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP with the typed error."""
        self._refuse(MalformedRequest())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _answer_is_owed(self) -> bool:
        """Tell whether a request before the one that is coming in has not been answered."""
        if self._in_body:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _await_request(self) -> None:
        """Give an idle connection as long as one that is kept alive."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _await_rest(self) -> None:
        if self._timer is None and not self.transport.is_closing() and not self._answer_is_owed():
            self._timer = self.loop.call_later(self.request_seconds, self._stalled)

    def _stalled(self) -> None:
        self._timer = None
        if not self._answer_is_owed():
            self._refuse(RequestTimeout(self.request_seconds))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ServiceError) -> None:
        """Close on a request that will never be whole; say why, unless that would be taken for another's answer."""
        answered = self._in_body and self.cycle is not None and self.cycle.response_started
        owed = self._answer_is_owed()
        self._begun = False
        self._stop_timer()
        if not self.transport.is_closing():
            if not owed and not answered:
                status, headers, body = error_reply(error)
                self.transport.write(self._wire(status, [*headers, (b"connection", b"close")], body))
            self.transport.close()

    def _answer(self, status: int, headers: Headers, body: bytes) -> bool:
        """Write a whole answer of a POST, and leave its cycle as if it had been sent message by message.

        Return whether that was done; it is not while the client does not read. (The running request is looked up, as a
        reference from its scope to itself would leave each request to the garbage collector.)
        """
        cycle = self._running
        if cycle is None:
            return False
        if cycle.disconnected or self.transport.is_closing():
            cycle.disconnected = True
            return True
        if cycle.response_started or self.flow is None or self.flow.write_paused:
            return False
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
        return True

    def _wire(self, status: int, headers: Headers, body: bytes) -> bytes:
        pieces = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
        pieces += (b"content-length: %d\r\n\r\n" % len(body), body)
        return b"".join(pieces)


class StreamingProtocol(WebSocketsSansIOProtocol):
    """The protocol of one WebSocket; a handshake that was refused by an HTTP answer counts as complete.

    When the server stops, a client that was told so has a while to read it and hang up: a socket closed on bytes that
    nobody read would take the farewell with it.
    """

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        if message["type"] == "websocket.http.response.body":
            return self._end_refusal(message)
        return super().send(message)

    def shutdown(self) -> None:
        if self.close_sent and self.close_timer is not None:
            self.stop_keepalive()
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(FAREWELL_SECONDS, self.transport.close)
        else:
            super().shutdown()

    async def _end_refusal(self, message: Any) -> None:
        await super().send(message)
        self.handshake_complete = not message.get("more_body", False)
