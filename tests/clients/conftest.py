"""Fixtures: both kinds of client behind one asyncio interface, and a proxy to a real server that can lose answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from cellstream_client import AsyncClient, Client, Retries, Session, Stream
from tests.clients.proxy import Proxy
from tests.service.conftest import RunningServer

QUICK = Retries(attempts=6, seconds=10, pause=0.01, longest_pause=0.05, jitter=0.01)

Connect = Callable[..., Any]


def assert_close(found: Any, expected: Any) -> None:
    """Compare outputs within the accuracy of float32."""
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


class Awaited:
    """Wrap a `Client`, `Session` or `Stream` so that its calls can be awaited; each call runs in a thread."""

    def __init__(self, inner: Client | Session | Stream) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return found
        if name == "sessions":
            return lambda **options: _spread(found(**options))
        if name == "stream" and isinstance(self.inner, Session):
            return lambda **options: wrapped(found(**options))

        async def call(*args: Any, **options: Any) -> Any:
            return wrapped(await asyncio.to_thread(found, *args, **options))

        return call

    async def __aenter__(self) -> "Awaited":
        return self

    async def __aexit__(self, *error: Any) -> None:
        await asyncio.to_thread(self.inner.__exit__, *error)


def wrapped(value: Any) -> Any:
    return Awaited(value) if isinstance(value, Client | Session | Stream) else value


async def _spread(values: Any) -> AsyncIterator[Any]:
    for value in await asyncio.to_thread(list, values):
        yield value


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Return a function that makes a client of either kind, which is closed at the end."""
    async with AsyncExitStack() as stack:

        async def make(url: str, **options: Any) -> Any:
            settings: dict[str, Any] = {"retries": QUICK, "timeout": 2.0} | options
            made = AsyncClient(url, **settings) if request.param == "async" else Awaited(Client(url, **settings))
            return await stack.enter_async_context(made)

        yield make


@pytest.fixture
async def client(connect: Connect, server: RunningServer) -> Any:
    return await connect(server.url)


@pytest.fixture
async def proxy(server: RunningServer) -> AsyncIterator[Proxy]:
    async with Proxy(urlsplit(server.url).port or 0) as made:
        yield made


@pytest.fixture
async def proxied(connect: Connect, proxy: Proxy) -> Any:
    """A client that reaches the server through the proxy."""
    return await connect(proxy.url)
