"""A minimal HTTP/1.1 client over asyncio streams, so that the load takes less CPU time than the service."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """Sends requests to one port of this machine over keep-alive connections; the timeout is in seconds.

    `_idle` are the connections on which no response is pending.
    """

    def __init__(self, port: int, timeout: float) -> None:
        self.port, self._timeout = port, timeout
        self._idle: list[Stream] = []

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()
        self._idle.clear()

    async def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Response:
        """Send one request and return its response.

        Raises:
            OSError: There was no complete response in time (TimeoutError is a subclass of OSError).
        """
        lines = [f"{method} {path} HTTP/1.1", "host: service", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        async with asyncio.timeout(self._timeout):
            message = await self.exchange("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        head, _, content = message.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in rest)
        return Response(int(first.split(" ", 2)[1]), {name.lower(): value for name, value in pairs}, content)

    async def exchange(self, message: bytes) -> bytes:
        """Send the bytes of a request, and return the bytes of the response.

        Raises:
            OSError: The connection ended before the response was complete.
        """
        reader, writer = await self._connection()
        try:
            writer.write(message)
            answer = await read_message(reader)
            if answer is None:
                raise ConnectionResetError
        except asyncio.IncompleteReadError as exc:
            writer.transport.abort()
            raise ConnectionResetError from exc
        except BaseException:
            writer.transport.abort()
            raise
        if b"\r\nconnection: close\r\n" in answer:
            writer.transport.abort()
        else:
            self._idle.append((reader, writer))
        return answer

    async def _connection(self) -> Stream:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return await connect(self.port)


async def connect(port: int) -> Stream:
    """Return a new connection to a port of this machine."""
    return await asyncio.open_connection("127.0.0.1", port)


async def read_message(reader: asyncio.StreamReader) -> bytes | None:
    """Return the bytes of one request or response, or None at the end of the connection.

    Raises:
        IncompleteReadError: The connection ended within a message.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as exc:
        if exc.partial:
            raise
        return None
    start = head.lower().find(b"\r\ncontent-length:")
    size = int(head[start + 17 : head.index(b"\r\n", start + 2)]) if start >= 0 else 0
    return head + await reader.readexactly(size) if size else head
