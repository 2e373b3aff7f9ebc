"""uvicorn's HTTP protocol, with a shorter way for whole answers.

uvicorn sends the head and the body of an answer one after the other, and uvloop makes a system call of each; on a
short answer the second one costs more than the model. This protocol offers an ASGI extension, `cellstream.answer`: a
function that takes status, headers and body and puts them on the wire in one write. Whoever does not know of it sends
the two ordinary messages.
"""

from functools import partial

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

EXTENSION = "cellstream.answer"

_LENGTH = b"content-length: %d\r\n\r\n"
_CLOSING = b"connection: close\r\n"


class AnsweringProtocol(HttpToolsProtocol):
    """The protocol of one connection; each request's scope offers the extension."""

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.scope["extensions"] = {EXTENSION: partial(self._answer, self.cycle)}

    def _answer(
        self, cycle: RequestResponseCycle, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """Write a whole answer of a POST, and leave the cycle as if it had been sent message by message."""
        if cycle.disconnected or cycle.response_started:
            return
        cycle.response_started = cycle.response_complete = True
        pieces = [STATUS_LINE[status]]
        for name, value in (*self.server_state.default_headers, *headers):
            pieces += (name, b": ", value, b"\r\n")
        if (b"connection", b"close") in headers:
            cycle.keep_alive = False
        elif not cycle.keep_alive:
            pieces.append(_CLOSING)
        pieces += (_LENGTH % len(body), body)
        self.transport.write(b"".join(pieces))
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
