"""uvicorn's WebSocket protocol, extended by an orderly close and by limits that uvicorn lacks."""

from collections.abc import Coroutine
from typing import Any, ClassVar

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import State

from service.api.parse_queue import FIRST_SECONDS, SECONDS, SMALLEST_PIECE, ParseQueue, parse_pieces

CLOSE_SECONDS = 2.0
"""Seconds that a WebSocket's client has to close the connection when the server stops."""
FRAGMENTS = 1024
"""Most frames that one message may come in."""
_LARGEST_PIECE = 4 << 10
_INVALID_TEXT, _POLICY = 1007, 1008


class StreamingProtocol(WebSocketsSansIOProtocol):
    """The protocol of one WebSocket; a handshake that was refused by an HTTP response counts as complete.

    When the server stops, a client that was sent a close frame has CLOSE_SECONDS to close the connection. The server
    does not close it at once: a socket that is closed with unread bytes resets the connection, and the frame is lost.

    `_rest` has the bytes that are not parsed, and nothing is read while there are any; `_queued` is whether they will
    be parsed by and by. They are not parsed before the handshake is answered, while a message waits for the
    application, nor while the client does not read, as each ping and each message makes more to send.
    """

    parsing: ClassVar[ParseQueue] = ParseQueue()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rest = b""
        self._queued = False

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            super().data_received(data)  # the head of the handshake, as a whole
        elif self._rest or self._waits():
            self._rest += data
            self.transport.pause_reading()
        elif len(data) <= SMALLEST_PIECE:
            super().data_received(data)
        else:
            self._parse_all(data, FIRST_SECONDS)

    def take_over(self, rest: bytes) -> None:
        """Read on behind the head of the handshake, `rest` first, which came with it."""
        if rest:
            self.data_received(rest)
        else:
            self.transport.resume_reading()

    def parse_on(self) -> None:
        """Parse what is left of the bytes received."""
        self._queued = False
        if not self._waits() and not self.transport.is_closing():
            self._parse_all(self._rest, SECONDS)

    def send(self, message: Any) -> Coroutine[Any, Any, None]:
        if message["type"] == "websocket.send":
            return super().send(message)
        return self._send_rarely(message)

    async def receive(self) -> Any:
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            self._go_on()
        return message

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._rest and not self._queued and not self._waits():
            self._queued = True
            self.parsing.add(self)  # a client that reads slowly what many small frames give is in no hurry
        else:
            self._go_on()

    def shutdown(self) -> None:
        if self.close_sent and self.close_timer is not None:
            self.stop_keepalive()
            self.close_timer.cancel()
            self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.close)
        elif self.conn.state in (State.CONNECTING, State.OPEN) and self.handshake_initiated:
            super().shutdown()
        else:
            self.stop_keepalive()
            self.transport.close()

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= FRAGMENTS:
            self._fail(_POLICY, f"expected a message in at most {FRAGMENTS} frames")
        else:
            super().handle_cont(event)

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self.disconnected = True  # what the application sends from now on is not sent, and no error of its own

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.disconnected = self.disconnected or self.close_sent

    def send_receive_event_to_app(self) -> None:
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": data})
        else:
            try:
                self.queue.put_nowait({"type": "websocket.receive", "text": data.decode()})
            except UnicodeDecodeError:
                self.logger.warning("Invalid UTF-8 sequence received from client.")
                self._fail(_INVALID_TEXT)
                return
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _waits(self) -> bool:
        """Return whether nothing may be parsed now."""
        return self.read_paused or not self.handshake_complete or not self.writable.is_set()

    def _parse(self, data: bytes) -> bool:
        """Parse a piece of what was received; return whether the next one may be parsed now."""
        super().data_received(data)
        return not self._waits() and not self.transport.is_closing()

    def _parse_all(self, data: bytes, seconds: float) -> None:
        """Parse for some seconds; what is left is parsed later, and nothing is read until then."""
        self._rest = parse_pieces(data, self._parse, _LARGEST_PIECE, seconds)
        if self.transport.is_closing() or self._waits():
            return
        if self._rest:
            self.transport.pause_reading()
            self._queued = True
            self.parsing.add(self)
        else:
            self.transport.resume_reading()

    def _go_on(self) -> None:
        """Parse what is left, or read, unless there is still a reason not to."""
        if self._queued or self._waits() or self.transport.is_closing():
            return
        if self._rest:
            self._queued = True
            self.loop.call_soon(self.parse_on)
        else:
            self.transport.resume_reading()

    async def _send_rarely(self, message: Any) -> None:
        """Send anything but a frame of a stream."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = not message.get("more_body", False)
        elif message["type"] in ("websocket.accept", "websocket.close"):
            self._go_on()

    def _fail(self, code: int, reason: str = "") -> None:
        """Close the WebSocket on what its client sent."""
        self.frames = []
        if self.conn.state is State.OPEN:
            self.conn.send_close(code, reason)
        self.handle_parser_exception()
