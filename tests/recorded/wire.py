"""HTTP/1.1 and WebSockets over plain sockets: whole answers, byte for byte as they came."""

import base64
import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

_SECONDS = 20.0
KEY = base64.b64encode(b"a key of 16 byte").decode()
"""The key of every handshake, so that each is answered alike."""


class Closed(Exception):
    """The server closed the connection before an answer began."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: the head as it came, up to its blank line, and the body as it came."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.encode():
                return value.strip().decode("latin-1")
        return None

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One TCP connection; `_left` is what was read beyond the last answer."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_until_full(self, data: bytes, seconds: float = 0.5) -> None:
        """Send the same again and again until it is not taken for some seconds."""
        self._socket.settimeout(seconds)
        with suppress(TimeoutError):
            while True:
                self._socket.sendall(data)

    def end(self) -> None:
        """Send no more, and still read."""
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self, method: str = "GET") -> Answer:
        """Read one answer.

        Raises:
            Closed: There is none any more.
        """
        while True:
            head = self._until(b"\r\n\r\n")
            status = int(head.split(b" ", 2)[1])
            if status != 100:
                break
        if status in (101, 204, 304) or method == "HEAD":
            return Answer(head, b"")
        found = Answer(head, b"")
        length = found.header("content-length")
        if length is not None:
            return Answer(head, self.exactly(int(length)))
        body = b""
        if found.header("transfer-encoding") == "chunked":
            while not body.endswith(b"0\r\n\r\n"):
                body += self.exactly(1)
            return Answer(head, body)
        while part := self._read():
            body += part
        return Answer(head, body)

    def exactly(self, count: int) -> bytes:
        while len(self._left) < count:
            part = self._read()
            if not part:
                raise Closed(f"after {self._left!r}")
            self._left += part
        data, self._left = self._left[:count], self._left[count:]
        return data

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        while part := self._read():
            self._left += part
        data, self._left = self._left, b""
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._left:
            part = self._read()
            if not part:
                raise Closed(f"after {self._left!r}")
            self._left += part
        data, _, self._left = self._left.partition(mark)
        return data

    def _read(self) -> bytes:
        try:
            return self._socket.recv(1 << 16)
        except ConnectionResetError:
            return b""


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "host: service"]
    if body or method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def handshake(path: str, headers: dict[str, str] | None = None) -> bytes:
    """Return the request that opens a WebSocket; a header without a value is left out."""
    fields = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13", "sec-websocket-key": KEY}
    named = {name: value for name, value in (fields | (headers or {})).items() if value}
    return request("GET", path, b"", named)


def frame(opcode: int, payload: bytes, *, last: bool = True, masked: bool = True) -> bytes:
    """Return a WebSocket frame of a client; its mask is zero, which leaves the payload as it is."""
    mask = 0x80 if masked else 0
    head = bytes([(0x80 if last else 0) | opcode])
    if len(payload) < 126:
        head += bytes([mask | len(payload)])
    elif len(payload) < 1 << 16:
        head += struct.pack(">BH", mask | 126, len(payload))
    else:
        head += struct.pack(">BQ", mask | 127, len(payload))
    return head + (bytes(4) if masked else b"") + payload


def read_frame(connection: Connection) -> tuple[int, bytes]:
    """Read one frame of the server: its opcode and its payload."""
    first, second = connection.exactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", connection.exactly(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", connection.exactly(8))
    return first, connection.exactly(size)
