"""A TCP proxy with which a test loses answers and cuts connections."""

import asyncio
from typing import Self


class Proxy:
    """Forward connections to a port, and lose answers on demand.

    `lose_answers` is the number of answers still to be lost: the connection is cut at the first byte of each.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.lose_answers = 0
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Abort every open connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        pair = {writer, other_writer}
        self._writers |= pair
        try:
            await asyncio.gather(self._pump(reader, other_writer), self._pump(other_reader, writer, answers=True))
        except OSError:
            pass
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool = False) -> None:
        while data := await reader.read(65536):
            if answers and self.lose_answers:
                self.lose_answers -= 1
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()
