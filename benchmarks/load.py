"""The load generator: closed loops over keep-alive connections, with all requests built before the measurement."""

import asyncio
import base64
import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import numpy as np


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its bytes on the wire, and the number of time steps in it."""

    wire: bytes
    steps: int = 1


@dataclass(slots=True)
class Load:
    """Result of a measurement: requests and steps answered, its seconds, the server's CPU seconds, latencies in s."""

    requests: int = 0
    steps: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Return the steps answered per second."""
        return self.steps / self.seconds

    @property
    def cpu_of_request(self) -> float:
        """Return the server's CPU seconds per request."""
        return self.cpu / self.requests

    def percentile(self, q: float) -> float:
        """Return a percentile of the latencies, in milliseconds; `q` is from 0 to 100."""
        return float(np.percentile(self.latencies, q)) * 1e3


def post(path: str, body: bytes, **headers: str) -> bytes:
    """Return the bytes of an HTTP/1.1 POST; an underscore in a header's name stands for a hyphen."""
    lines = [f"POST {path} HTTP/1.1", "host: bench", f"content-length: {len(body)}"]
    headers.setdefault("content_type", "application/json")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def frame(payload: bytes) -> bytes:
    """Return a masked binary WebSocket frame of less than 64 KiB; the mask is zero, so the payload is unchanged."""
    size = len(payload)
    head = bytes([0x82, 0x80 | size]) if size < 126 else struct.pack(">BBH", 0x82, 0x80 | 126, size)
    return head + bytes(4) + payload


class _Connection(asyncio.Protocol):
    """Send requests over one HTTP connection in a cycle, each when the one before it has been answered."""

    def __init__(self, run: "_Run", requests: list[Request]) -> None:
        self.run, self.requests, self.next = run, requests, 0
        self.buffer = b""
        self.sent = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ready()

    def ready(self) -> None:
        self.run.connected(self)

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.requests[self.next % len(self.requests)].wire)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.is_complete():
            self.buffer = b""
            request = self.requests[self.next % len(self.requests)]
            self.next += 1
            if self.run.answered(self, request.steps):
                self.send()

    def is_complete(self) -> bool:
        """Return whether the buffer holds a complete HTTP response."""
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return False
        if head[9:11] != b"20":
            self.run.fail(f"answered {self.buffer[:300]!r}")
            return False
        start = head.lower().index(b"content-length:") + 15
        return len(body) >= int(head[start:].split(b"\r\n", 1)[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.run.over:
            self.run.fail(f"a connection was lost: {exc}")


class _Socket(_Connection):
    """Send frames over one WebSocket in a cycle, each when the one before it has been answered."""

    path = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open = False
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            f"GET {self.path} HTTP/1.1\r\nhost: bench\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        if self.open:
            super().data_received(data)
            return
        self.buffer += data
        if b"\r\n\r\n" in self.buffer:
            if self.buffer[9:12] != b"101":
                self.run.fail(f"the WebSocket was refused: {self.buffer[:300]!r}")
            self.open, self.buffer = True, b""
            self.ready()

    def is_complete(self) -> bool:
        """Return whether the buffer holds a complete binary frame."""
        if len(self.buffer) < 2:
            return False
        if self.buffer[0] != 0x82:
            self.run.fail(f"answered {self.buffer[:300]!r}")
            return False
        size, head = self.buffer[1], 2
        if size == 126:
            size, head = (struct.unpack_from(">H", self.buffer, 2)[0], 4) if len(self.buffer) >= 4 else (1 << 16, 4)
        return len(self.buffer) >= head + size


class _Run:
    """One measurement: wait until all connections are open, warm up, then measure for a fixed time."""

    def __init__(self, connections: int, seconds: float, warm_up: int, pid: int) -> None:
        self._waiting, self._seconds, self._warm_up, self._pid = connections, seconds, warm_up, pid
        self._connections: list[_Connection] = []
        self._start = self._warm = 0.0
        self.load, self.over = Load(), False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connected(self, connection: _Connection) -> None:
        self._connections.append(connection)
        self._waiting -= 1
        if self._waiting == 0:
            for each in self._connections:
                each.send()

    def answered(self, connection: _Connection, steps: int) -> bool:
        now = time.perf_counter()
        if self.over:
            return False
        if not self._start:
            self._warm += 1
            if self._warm >= self._warm_up * len(self._connections):
                self._start, self.load.cpu = now, -cpu_seconds(self._pid)
            return True
        load = self.load
        load.requests += 1
        load.steps += steps
        load.latencies.append(now - connection.sent)
        if now - self._start >= self._seconds:
            load.seconds = now - self._start
            load.cpu += cpu_seconds(self._pid)
            self.over = True
            self.done.set_result(None)
        return True

    def fail(self, reason: str) -> None:
        self.over = True
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))


async def closed_loop(
    url: str,
    connections: list[list[Request]],
    *,
    pid: int,
    seconds: float = 1.0,
    warm_up: int = 10,
    socket_path: str = "",
) -> Load:
    """Send each connection's requests one at a time for `seconds`, after `warm_up` requests per connection.

    With a `socket_path` the connections are WebSockets. `pid` is the server process, whose CPU time is measured.

    Raises:
        RuntimeError: A response was an error, or a connection was lost.
        TimeoutError: The measurement did not end within `seconds` + 60.
    """
    run = _Run(len(connections), seconds, warm_up, pid)
    host, port = urlsplit(url).netloc.split(":")
    loop = asyncio.get_running_loop()

    def make(requests: list[Request]) -> _Connection:
        if not socket_path:
            return _Connection(run, requests)
        socket = _Socket(run, requests)
        socket.path = socket_path
        return socket

    made = []
    for requests in connections:
        _, connection = await loop.create_connection(partial(make, requests), host, int(port))
        made.append(connection)
    try:
        await asyncio.wait_for(run.done, 60 + seconds)
    finally:
        run.over = True
        for connection in made:
            connection.transport.close()
    return run.load


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds; to the nanosecond where the kernel reports that."""
    nanoseconds = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError), open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            nanoseconds += int(file.read().split()[0])
    if nanoseconds:
        return nanoseconds / 1e9
    with open(f"/proc/{pid}/stat") as file:  # in ticks, of 10 ms mostly
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
