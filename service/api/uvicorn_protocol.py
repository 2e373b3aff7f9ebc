"""uvicorn's protocols, extended by responses sent in one write, and by limits that uvicorn lacks.

uvicorn writes the head and the body of a response separately, and uvloop makes a system call for each; for a short
response the second call costs more than the model. `AnsweringProtocol` offers an ASGI extension, `cellstream.answer`: a
function that takes status, headers and body and sends them in one write, or returns False while the client does not
read. Applications that do not use it send the two ordinary ASGI messages.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from service.api.request import Headers, error_reply
from service.errors import HeadTooLarge, MalformedRequest, RequestTimeout, ServiceError

EXTENSION = "cellstream.answer"
CLOSE_SECONDS = 2.0
"""Seconds that a WebSocket's client has to close the connection when the server stops."""
HEAD_LIMIT = 64 << 10
"""Largest request line and headers, in bytes."""


class AnsweringProtocol(HttpToolsProtocol):
    """The protocol of one HTTP connection; the scope of each request offers the extension.

    `_receiving` is whether a request has begun and is not complete, `_in_body` whether its head is complete, and
    `_head_bytes` counts the bytes received before that. `_timer` runs while the client has to send the rest of a
    request and waits for no response to an earlier one. `_running` is the request whose response is sent next.
    `_upgraded` is whether the connection has become a WebSocket.
    """

    request_seconds: ClassVar[float] = 10.0
    """Seconds within which a request that has begun has to be complete."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiving = self._in_body = self._upgraded = False
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._extensions = cast(Any, {EXTENSION: self._respond})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_idle_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._upgraded:
            return
        if self._receiving:
            if not self._in_body:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_LIMIT:
                    self._refuse(HeadTooLarge(HEAD_LIMIT))
                    return
            self._start_timer()
        elif not self._response_pending():
            self._start_idle_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._in_body, self._head_bytes = True, False, 0

    def on_headers_complete(self) -> None:
        self._in_body = True
        super().on_headers_complete()
        if self.cycle is not None:
            self.scope["extensions"] = self._extensions

    def on_message_complete(self) -> None:
        self._receiving = self._in_body = False
        if self._timer is not None:
            self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline and self.flow is not None:
            self.flow.pause_reading()  # pipelined requests are answered one by one; further ones stay in the socket
        elif self._receiving:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn notifies only the newest request
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._stop_timer()
        self._upgraded = True
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with the service's error."""
        self._refuse(MalformedRequest())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _response_pending(self) -> bool:
        """Return whether a request before the one that is being received has not been answered."""
        if self._in_body:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _start_idle_timer(self) -> None:
        """Close the connection if it stays idle as long as a connection may be kept alive."""
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _start_timer(self) -> None:
        """Limit the time for the rest of a request, unless a response to an earlier one is pending."""
        if self._timer is None and not self.transport.is_closing() and not self._response_pending():
            self._timer = self.loop.call_later(self.request_seconds, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        if not self._response_pending():
            self._refuse(RequestTimeout(self.request_seconds))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, error: ServiceError) -> None:
        """Close the connection on an invalid request; send the error, unless it would be taken for another response."""
        answered = self._in_body and self.cycle is not None and self.cycle.response_started
        pending = self._response_pending()
        self._receiving = False
        self._stop_timer()
        if not self.transport.is_closing():
            if not pending and not answered:
                status, headers, body = error_reply(error)
                self.transport.write(self._encoded(status, [*headers, (b"connection", b"close")], body))
            self.transport.close()

    def _respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole response to a POST in one write, and complete its cycle as the two ASGI messages would.

        Return False, and do nothing, while the client does not read or where the response has already begun. The
        request is taken from `_running`, as a reference in its own scope would be a cycle for the garbage collector.
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
        self.transport.write(self._encoded(status, headers, body))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def _encoded(self, status: int, headers: Headers, body: bytes) -> bytes:
        pieces = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
        pieces += (b"content-length: %d\r\n\r\n" % len(body), body)
        return b"".join(pieces)


class StreamingProtocol(WebSocketsSansIOProtocol):
    """The protocol of one WebSocket; a handshake that was refused by an HTTP response counts as complete.

    When the server stops, a client that was sent a close frame has CLOSE_SECONDS to close the connection. The server
    does not close it at once: a socket that is closed with unread bytes resets the connection, and the frame is lost.
    """

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        if message["type"] == "websocket.http.response.body":
            return self._end_refusal(message)
        return super().send(message)

    def shutdown(self) -> None:
        if self.close_sent and self.close_timer is not None:
            self.stop_keepalive()
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.close)
        else:
            super().shutdown()

    async def _end_refusal(self, message: Any) -> None:
        """Send a part of the body of a response that refuses the handshake."""
        await super().send(message)
        self.handshake_complete = not message.get("more_body", False)
