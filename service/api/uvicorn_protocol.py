"""uvicorn's HTTP protocol, extended by responses sent in one write, and by limits that uvicorn lacks.

uvicorn writes the head and the body of a response separately, and uvloop makes a system call for each; for a short
response the second call costs more than the model. `AnsweringProtocol` offers an ASGI extension, `cellstream.answer`: a
function that takes status, headers and body and sends them in one write, or returns False while the client does not
read. Applications that do not use it send the two ordinary ASGI messages.
"""

import asyncio
from typing import Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api.flow import Flow
from service.api.handshake import handshake_fault
from service.api.parse_queue import FIRST_SECONDS, SECONDS, SMALLEST_PIECE, ParseQueue, parse_pieces
from service.api.request import Headers, error_reply
from service.api.websocket_protocol import StreamingProtocol
from service.errors import (
    HeadTooLarge,
    MalformedHandshake,
    MalformedHost,
    MalformedRequest,
    RequestTimeout,
    ServiceError,
    TooManyConnections,
)

EXTENSION = "cellstream.answer"
HEAD_LIMIT = 64 << 10
"""Largest request line and headers, in bytes, and largest part of a chunked body that holds nothing of the body."""
_LARGEST_PIECE = 16 << 10
_PIPELINED = 16
"""Requests that wait for the response to one before them; no further ones are parsed meanwhile."""
_FULL_SECONDS = 1.0
"""Seconds that a connection over the limit has to send a request, which is answered 503."""
_REFUSALS = 128
"""Connections over the limit that may wait for that answer; further ones are closed at once."""
_PROBED = (b"/livez", b"/readyz")
"""Paths whose GET is answered on a connection over the limit too: restarting the service would not help."""
_PROBES = tuple(b"GET %b " % path for path in _PROBED)


class AnsweringProtocol(HttpToolsProtocol):
    """The protocol of one HTTP connection; the scope of each request offers the extension.

    `_receiving` is whether a request has begun and is not complete, `_in_body` whether its head is complete, and
    `_silent_bytes` counts the bytes received since it began or since a part of its body came. `_timer` runs while the
    client has to send the rest of a request and waits for no response to an earlier one. `_running` is the request
    whose response is sent next, and `_task` answers it. The connection is idle since `_idle_since` (seconds on the
    loop's clock) if no request has begun and none is being answered. `_rest` has the bytes that are not parsed, and
    nothing is read while there are any; `_queued` is whether the queue will parse them. `_handshake` is whether the
    head of a WebSocket's handshake has been parsed, `_upgraded` whether the connection has become that WebSocket.
    `_fault` is why the parser was stopped.
    """

    request_seconds: ClassVar[float] = 10.0
    """Seconds within which a request that has begun has to be complete."""
    max_connections: ClassVar[int] = 10_000
    """Most open connections, WebSockets included."""
    parsing: ClassVar[ParseQueue] = StreamingProtocol.parsing

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._receiving = self._in_body = self._upgraded = self._handshake = self._queued = self._full = False
        self._silent_bytes = self._hosts = 0
        self._rest = b""
        self._fault: ServiceError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle_since = 0.0
        self._extensions = cast(Any, {EXTENSION: self._respond})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: Flow = Flow(transport)
        over = len(self.connections) - self.max_connections
        if over > _REFUSALS:
            transport.abort()
        elif over > 0:
            self._full = True
            self._timer = self.loop.call_later(_FULL_SECONDS, transport.close)
        else:
            self._start_idle_timer()

    def data_received(self, data: bytes) -> None:
        if self._full and not data.startswith(_PROBES):
            self._refuse(TooManyConnections(self.max_connections))
        elif self._rest or self._handshake:
            self._rest += data
        elif len(data) > SMALLEST_PIECE:
            self._parse_all(data, FIRST_SECONDS)
        elif not self._parse(data) and self._handshake:
            self._shake_hands()

    def parse_on(self) -> None:
        """Parse what is left of the bytes received."""
        self._queued = False
        if not self._upgraded and not self.transport.is_closing():
            self._parse_all(self._rest, SECONDS)

    def _parse_all(self, data: bytes, seconds: float) -> None:
        """Parse for some seconds; the queue parses what is left, and nothing is read until then."""
        self._rest = b""
        left = parse_pieces(data, self._parse, _LARGEST_PIECE, seconds)
        self._rest += left
        if self.transport.is_closing():
            return
        if self._handshake:
            self._shake_hands()
        elif len(self.pipeline) >= _PIPELINED:
            self.flow.hold()  # on_response_complete goes on
        elif self._rest:
            self.flow.hold()
            self._queued = True
            self.parsing.add(self)
        elif self.flow.held:
            self.flow.release()

    def _parse(self, data: bytes) -> bool:
        """Parse a piece of what was received; return whether the next one may be parsed now."""
        self._silent_bytes += len(data)
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._after_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._refuse(self._fault or MalformedRequest())
                return False
        if self._receiving:
            if self._silent_bytes > HEAD_LIMIT:
                self._refuse(HeadTooLarge(HEAD_LIMIT))
                return False
            self._start_timer()
        elif self._handshake:
            return False
        elif not self._response_pending():
            self._start_idle_timer()
        return len(self.pipeline) < _PIPELINED

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._receiving, self._in_body, self._silent_bytes, self._hosts = True, False, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body:
            return  # the trailer of a chunked body
        name = name.lower()
        if name == b"host":
            self._hosts += 1
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._hosts != 1 and (self._hosts or self.parser.get_http_version() != "1.0"):
            self._fault = MalformedHost()
            raise self._fault  # it stops the parser
        if self._full and self.url not in _PROBED:
            self._fault = TooManyConnections(self.max_connections)
            raise self._fault
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            if self._full:
                self.cycle.keep_alive = False
            self.scope["extensions"] = self._extensions
            self._in_body = True

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._receiving = self._in_body = False
        if self._timer is not None:
            self._stop_timer()
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Have the next pipelined request answered, or else wait for one.

        It does what uvicorn's does, but starts no timer for each response.
        """
        self.server_state.total_requests += 1
        self._release_task()
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._handshake:
            self._shake_hands()
            return
        else:
            self._start_idle_timer()
        if self.pipeline:
            self.flow.pause_reading()  # pipelined requests are answered one by one; further ones stay in the socket
        elif self._receiving:
            self._start_timer()
        if self.flow.held and not self._queued and len(self.pipeline) < _PIPELINED:
            self._queued = True
            self.loop.call_soon(self.parse_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._unset_keepalive_if_required()
        self._release_task()
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn notifies only the newest request
            running.disconnected = True
            running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def _after_upgrade(self, rest: bytes) -> bytes:
        """Act on a head that asks for another protocol, where the parser stopped; return what it parses next.

        A WebSocket's handshake waits for the response to the request before it. Any other protocol is ignored: a parser
        that does not see the header reads the body and what follows.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(MalformedRequest())
            return b""
        if version == "1.1" and self._get_upgrade() == b"websocket":
            self._receiving = False
            self._stop_timer()
            self.scope["method"], self._handshake, self._rest = method.decode(), True, rest
            return b""
        head = [method, b" ", self.url, b" HTTP/", version.encode(), b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += (name, b": ", value, b"\r\n")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"".join([*head, b"\r\n", rest])

    def _shake_hands(self) -> None:
        """Turn the connection into a WebSocket, unless its handshake is not valid, once nothing is left to answer."""
        if self._response_pending():
            self.flow.hold()
            return
        self._unset_keepalive_if_required()
        fault = handshake_fault(self.scope["method"], self.url, self.headers)
        if fault is not None:
            self._refuse(fault)
            return
        self._upgraded = True
        self.handle_websocket_upgrade()
        protocol = cast(StreamingProtocol, self.transport.get_protocol())
        if not protocol.handshake_initiated:  # it could not be parsed
            self._refuse(MalformedHandshake())
        elif not self.transport.is_closing():
            protocol.take_over(self._rest)

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with the service's error."""
        self._refuse(MalformedRequest())

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(self._task)

    def _release_task(self) -> None:
        """Forget the task of a request that was answered, or whose client has gone, as soon as it is done."""
        if self._task is not None:
            self._task.add_done_callback(self.tasks.discard)
            self._task = None

    def _response_pending(self) -> bool:
        """Return whether a request before the one that is being received has not been answered."""
        if self._in_body:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def _start_idle_timer(self) -> None:
        """Close the connection if it stays idle as long as a connection may be kept alive.

        A timer that runs already is left as it is, as a timer for each request would cost more than parsing it.
        """
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._wait_while_idle(self.timeout_keep_alive)

    def _wait_while_idle(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been idle since the timer was started, or else wait for the rest."""
        self.timeout_keep_alive_task = None
        if self._receiving or self._handshake or self._rest or self._response_pending():
            return  # the response starts the timer again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._wait_while_idle(left)
        elif not self.transport.is_closing():
            self.transport.close()

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
        self.tasks.discard(self._task)  # it is about to end
        self._task = None
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
