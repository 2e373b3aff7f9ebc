"""Connections on which no request is under way are closed after a time, and others are not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from service.api.uvicorn_protocol import AnsweringProtocol

KEEP_ALIVE = 0.4
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@asynccontextmanager
async def connected(answer_seconds: float = 0.0) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server of one application, which answers after some seconds."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(answer_seconds)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
    config.load()
    config.timeout_keep_alive = KEEP_ALIVE  # type: ignore[assignment]
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: AnsweringProtocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        await server.wait_closed()
        assert not state.tasks


async def seconds_until_closed(reader: asyncio.StreamReader) -> float:
    start = time.monotonic()
    assert await asyncio.wait_for(reader.read(), 10) == b""
    return time.monotonic() - start


async def test_a_connection_without_a_request_is_closed() -> None:
    """A client that sends nothing loses the connection."""
    async with connected() as (reader, _):
        assert await seconds_until_closed(reader) > KEEP_ALIVE / 2


async def test_each_response_starts_the_time_anew() -> None:
    """Requests that follow each other in less than the time are answered; the last one is followed by the close."""
    async with connected() as (reader, writer):
        for _ in range(4):
            writer.write(REQUEST)
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(KEEP_ALIVE * 0.6)
        assert await seconds_until_closed(reader) < KEEP_ALIVE * 5


@pytest.mark.parametrize("requests", [1, 3])
async def test_a_request_that_takes_long_is_answered(requests: int) -> None:
    """The time does not run while requests are being answered, pipelined ones included."""
    async with connected(KEEP_ALIVE * 1.6) as (reader, writer):
        writer.write(REQUEST * requests)
        for _ in range(requests):
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        assert await seconds_until_closed(reader) > KEEP_ALIVE / 2


async def test_tasks_of_clients_that_left_are_forgotten() -> None:
    """A client that leaves before its answer leaves no task behind; `connected` checks that there is none."""
    async with connected(0.1) as (_, writer):
        writer.write(REQUEST)
        await asyncio.sleep(0.02)
        writer.close()
        await asyncio.sleep(0.3)
