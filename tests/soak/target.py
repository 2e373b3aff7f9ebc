"""The service that is attacked, as a client sees it, and the bytes of requests and WebSocket frames."""

import base64
import json
import socket
from dataclasses import dataclass
from typing import Any

MASK = bytes(4)


@dataclass(frozen=True, slots=True)
class Target:
    """A service on a port of this machine, whose model `lstm` has some features, and the key of one client or ""."""

    port: int
    features: int
    key: str = ""

    def connect(self, seconds: float = 20.0) -> socket.socket:
        """Return a new connection, whose calls may take that many seconds."""
        connection = socket.create_connection(("127.0.0.1", self.port), seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def head(self, method: str, path: str, *headers: str) -> bytes:
        """Return the head of a request, without the line that ends it."""
        key = (f"x-api-key: {self.key}",) if self.key else ()
        return "\r\n".join((f"{method} {path} HTTP/1.1", "host: a", *key, *headers, "")).encode()

    def request(self, method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
        """Return the bytes of a whole request."""
        return self.head(method, path, *headers, f"content-length: {len(body)}") + b"\r\n" + body

    def post(self, path: str, body: bytes = b"") -> bytes:
        """Return the bytes of a POST."""
        return self.request("POST", path, body)

    def handshake(self, query: str = "") -> bytes:
        """Return the handshake of a WebSocket that opens a session."""
        key = base64.b64encode(bytes(16)).decode()
        upgrade = ("connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13")
        return self.head("GET", f"/v1/models/lstm/stream{query}", *upgrade, f"sec-websocket-key: {key}") + b"\r\n"

    def chunked(self) -> bytes:
        """Return the head of a prediction whose body comes in chunks."""
        return self.head("POST", "/v1/models/lstm/predict", "transfer-encoding: chunked") + b"\r\n"

    def row(self) -> bytes:
        """Return one step as JSON."""
        return json.dumps([0.01 * n for n in range(self.features)], separators=(",", ":")).encode()


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """Return a client's frame with a mask of zeros; `opcode` is its first byte."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([opcode]) + length + MASK + payload


class Reader:
    """Reads the responses on one connection; they all have a Content-Length or no body."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._received = connection, b""

    def response(self, *, head_only: bool = False) -> tuple[int, bytes]:
        """Return the status and the body of the next response; that to a HEAD has no body.

        Raises:
            OSError: There was none in time, or the connection was closed.
        """
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status, size = int(head.split(b" ", 2)[1]), 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                size = int(line[15:])
        size = 0 if head_only or status in (204, 304) else size
        while len(self._received) < size:
            self._receive()
        body, self._received = self._received[:size], self._received[size:]
        return status, body

    def _receive(self) -> None:
        received = self._connection.recv(1 << 16)
        if not received:
            raise ConnectionResetError("the connection was closed before the response was complete")
        self._received += received


def call(connection: socket.socket, reader: Reader, request: bytes) -> tuple[int, Any]:
    """Send a request; return the status and the JSON of its response."""
    connection.sendall(request)
    status, body = reader.response()
    return status, json.loads(body) if body else None
