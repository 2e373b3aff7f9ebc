"""A client that sends one request after the other to one server, and records each with its answer."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.recorded.masks import Masks, shown
from tests.recorded.server import Server
from tests.recorded.wire import Answer, Closed, Connection, frame, handshake, read_frame, request

OCTETS = {"content-type": "application/octet-stream"}
Headers = dict[str, str] | None
_LONG = 3000
"""A longer request is shown by its length and digest."""

_MODEL, _VERSIONED = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
TEMPLATES = (
    *("/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/redoc", "/v1/models", "/v1/models/{model}"),
    *(f"/v1/models/{{model}}/{verb}" for verb in ("predict", "fleet", "sessions")),
    *("/v1/sessions", "/v1/sessions/{session_id}"),
    *(f"/v1/sessions/{{session_id}}/{verb}" for verb in ("steps", "peek", "fork", "rewind", "state")),
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"),
    *(base + rest for base in (_MODEL, _VERSIONED) for rest in ("", "/ready", "/config", "/stats", "/infer")),
    *("/v2/repository/index", "/v2/repository/models/{model}/load", "/v2/repository/models/{model}/unload"),
)
STREAMS = ("/v1/models/{model}/stream", "/v1/sessions/{session_id}/stream")
_HANDSHAKE = handshake("/").partition(b"host: service")[2].removesuffix(b"\r\n")
"""What every handshake says, which is not shown."""
_PATTERNS = [(path, re.compile(re.sub(r"\{\w+\}", "[^/]+", path))) for path in (*TEMPLATES, *STREAMS)]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer as text, its operation, and its status: 0 where there is none."""

    operation: str
    status: int
    text: str


def operation_of(method: str, path: str) -> str:
    """Return the method and the path as the API's description names it."""
    plain = path.partition("?")[0]
    found = next((template for template, pattern in _PATTERNS if pattern.fullmatch(plain)), "(no operation)")
    return f"{method} {found}"


def json_bytes(value: Any) -> bytes:
    """Return bytes as they are, None as nothing, and all else as compact JSON."""
    if value is None or isinstance(value, bytes):
        return value or b""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


class Client:
    """Sends requests to a server and keeps what came of them in `exchanges`.

    Requests go over one connection that is opened again where the server closed it. `artifacts` is the server's folder
    of models, `folder` one for files of the script's own, `next_versions` holds artefacts to copy into `artifacts`.
    """

    def __init__(self, server: Server, artifacts: Path, folder: Path, next_versions: Path) -> None:
        self.server, self.artifacts, self.folder, self.next_versions = server, artifacts, folder, next_versions
        self.exchanges: list[Exchange] = []
        self.masks = Masks()
        self.headers: dict[str, str] = {}
        self._connection: Connection | None = None
        self._streams: list[Stream] = []

    def close(self) -> None:
        """Close everything that is open."""
        self.hang_up()
        for stream in self._streams:
            stream.abort()

    def hang_up(self) -> None:
        """Close the connection that is kept between requests."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, headers: Headers = None) -> Answer:
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any = None, headers: Headers = None) -> Answer:
        return self.request("POST", path, body, headers)

    def request(self, method: str, path: str, body: Any = None, headers: Headers = None) -> Answer:
        """Send one request over the connection that is kept."""
        named = self.headers | (headers or {})
        sent = request(method, path, json_bytes(body), named)
        connection = self._connection = self._connection or Connection(self.server.port)
        connection.send(sent)
        answer = connection.answer(method)
        if answer.header("connection") == "close":
            self.hang_up()
        self._record(method, path, sent, answer)
        return answer

    def open(self, model: str = "sum", headers: Headers = None, **fields: Any) -> str:
        """Open a session and return its path."""
        answer = self.post(f"/v1/models/{model}/sessions", fields or None, headers)
        return f"/v1/sessions/{answer.json()['session_id']}"

    def raw(self, sent: bytes, methods: Sequence[str] = ("GET",), *, operation: str = "", end: bool = False) -> None:
        """Send bytes on a connection of their own, read an answer for each method, and see whether it stays open."""
        connection = Connection(self.server.port)
        connection.send(sent)
        if end:
            connection.end()
        parts, status = [], 0
        for method in methods:
            try:
                answer = connection.answer(method)
            except Closed:
                parts.append("(closed without an answer)\n")
                break
            parts.append(self._shown(answer))
            status = answer.status
        parts.append(f"(then {self._after(connection)})\n")
        self.note(operation or "raw", status, sent, "".join(parts))

    def together(self, *requests: tuple[str, str, Any] | tuple[str, str, Any, dict[str, str]]) -> list[Answer]:
        """Have the server read several requests at once, each on a connection of its own, in this order."""
        connections = [Connection(self.server.port) for _ in (*requests, None)]
        for connection in connections:  # each is known to the server, and the engine's last run had two rows:
            connection.send(request("POST", "/v1/models/sum/predict", b'{"inputs":[[[1]],[[1]]]}', self.headers))
            connection.answer()  # after it, work is queued for others to join, even if there is no other
        connections.pop().close()  # it was the newest of those that the server's poll may still report as ready
        self.server.freeze()
        sent = []
        for connection, (method, path, body, *rest) in zip(connections, requests, strict=True):
            sent.append(request(method, path, json_bytes(body), self.headers | (rest[0] if rest else {})))
            connection.send(sent[-1])
        self.server.thaw()
        answers = []
        for connection, (method, path, *_), data in zip(connections, requests, sent, strict=True):
            answers.append(connection.answer(method))
            connection.close()
            self._record(method, path, data, answers[-1], "(read together with others)\n")
        return answers

    def stream(self, path: str, headers: Headers = None, *, sent: bytes | None = None) -> "Stream":
        """Open a WebSocket, or be refused."""
        self._streams.append(Stream(self, path, sent or handshake(path, self.headers | (headers or {}))))
        return self._streams[-1]

    def wait_until(self, path: str, status: int, seconds: float = 10.0) -> None:
        """Ask again and again, unrecorded, until the answer has a status."""
        for _ in range(int(seconds / 0.02)):
            connection = Connection(self.server.port)
            connection.send(request("GET", path, b"", self.headers))
            found = connection.answer().status
            connection.close()
            if found == status:
                return
            time.sleep(0.02)
        raise TimeoutError(f"{path} was not answered by {status} within {seconds} s")

    def note(self, operation: str, status: int, sent: bytes, answer: str) -> None:
        """Record an exchange."""
        text = shown(self.masks.sessions(sent), _LONG, lambda data: hashlib.sha256(data).hexdigest()[:16])
        text = text.replace(" HTTP/1.1\\r\\n\n\\r\\n\n", "\n")
        self.exchanges.append(Exchange(operation, status, f"{_lines('> ', text)}{_lines('< ', answer)}"))

    def _record(self, method: str, path: str, sent: bytes, answer: Answer, before: str = "") -> None:
        plain = re.sub(rb"\r\nhost: service(?:\r\ncontent-length: \d+)?(?=\r\n)", b"", sent, count=1)
        plain = plain.replace(_HANDSHAKE, b"\r\n")
        self.note(operation_of(method, path), answer.status, plain, before + self._shown(answer))

    def _shown(self, answer: Answer) -> str:
        head, body = self.masks.answer(answer.head, answer.body)
        text = shown(head.replace(b"\r\n", b"\n"), 1 << 20).replace("\\n\n", "\n")
        return f"{text}\n{shown(body)}\n" if body else f"{text}\n"

    def _after(self, connection: Connection) -> str:
        """Tell whether a connection is still served."""
        try:
            connection.send(request("GET", "/livez"))
            after = connection.answer()
        except (Closed, BrokenPipeError, ConnectionResetError):
            return "closed"
        finally:
            connection.close()
        return "open" if after.body == b'{"status":"live"}' else f"another answer, {after.status}"


class Stream:
    """A WebSocket that records every frame sent and received; `answer` is the handshake's."""

    def __init__(self, client: Client, path: str, sent: bytes) -> None:
        self._client = client
        self._connection = Connection(client.server.port)
        self._connection.send(sent)
        self.answer = self._connection.answer()
        client._record("WS", path, sent, self.answer)
        self.session = f"/v1/sessions/{self.answer.header('x-session-id')}"
        if self.answer.status != 101:
            self._connection.close()

    def text(self, value: Any, frames: int = 1) -> None:
        """Send a text frame, JSON or as it is, and record the frames that come back."""
        self.send(frame(1, json_bytes(value)), frames)

    def binary(self, payload: bytes, frames: int = 1) -> None:
        """Send a binary frame and record the frames that come back."""
        self.send(frame(2, payload), frames)

    def send(self, data: bytes, frames: int = 1) -> None:
        """Send bytes as they are, and record the frames that come back."""
        self._connection.send(data)
        self._client.note("WS frame", 0, data, "".join(self._read() for _ in range(frames)))

    def receive(self, frames: int = 1) -> None:
        """Record frames that come without being asked for."""
        self._client.note("WS frame", 0, b"", "".join(self._read() for _ in range(frames)))

    def send_without_reading(self, value: Any) -> None:
        """Send a text frame again and again, unrecorded, until the server waits for its answers to be read."""
        self._connection.send_until_full(frame(1, json_bytes(value)))

    def leave(self) -> None:
        """Close it in the ordinary way."""
        self.send(frame(8, b"\x03\xe8bye"))
        self._connection.close()

    def abort(self) -> None:
        """Close the connection without a word."""
        self._connection.close()

    def _read(self) -> str:
        try:
            first, payload = read_frame(self._connection)
        except Closed:
            return "(closed without a frame)\n"
        if first & 15 == 8:
            code, reason = int.from_bytes(payload[:2], "big"), payload[2:]
            self._answer_close(payload)
            return f"close {code} {shown(reason)}\n"
        kind = {1: "text", 2: "binary", 9: "ping", 10: "pong"}.get(first & 15, f"opcode {first & 15}")
        return f"{kind} {shown(self._client.masks.answer(b'', payload)[1])}\n"

    def _answer_close(self, payload: bytes) -> None:
        with suppress(OSError):
            self._connection.send(frame(8, payload[:2]))


def _lines(mark: str, text: str) -> str:
    return "".join(f"{mark}{line}\n" for line in text.removesuffix("\n").split("\n")) if text else ""
