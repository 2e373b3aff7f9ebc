"""uvicorn's HTTP protocol, with the head and the body of an answer leaving in one write.

uvicorn writes them one after the other, and uvloop makes a system call of each; on a short answer the second call
costs more than the model.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class GatheringTransport:
    """A transport that gathers what is written within one turn of the loop and passes it on as one piece.

    `_pieces` is empty, or a flush at the end of this turn is scheduled. Everything else is the inner transport's.
    """

    __slots__ = ("_inner", "_loop", "_pieces")

    def __init__(self, inner: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._inner, self._loop = inner, loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        if self._pieces:
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._inner.write(data)

    def close(self) -> None:
        self.flush()
        self._inner.close()

    def write_eof(self) -> None:
        self.flush()
        self._inner.write_eof()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class GatheringProtocol(HttpToolsProtocol):
    """The protocol of one connection, over a transport that gathers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, GatheringTransport(transport, self.loop)))
