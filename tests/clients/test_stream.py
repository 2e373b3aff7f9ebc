"""Streams of both kinds of client with a real server, over connections that are cut."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from cellstream_client import (
    AsyncClient,
    InvalidInput,
    Retries,
    SessionClosed,
    SessionLost,
    SessionNotFound,
    StreamTaken,
    Unavailable,
)
from models.network import Network
from tests.clients.conftest import QUICK, Connect, assert_close
from tests.clients.proxy import Proxy
from tests.service.conftest import RunningServer, offline, random_inputs


async def test_a_stream_and_its_session_share_their_step(client: Any, networks: dict[str, Network]) -> None:
    """Steps over the WebSocket and over HTTP continue each other, and the session remains after the stream."""
    inputs = random_inputs(6)
    async with await client.open("lstm") as session:
        async with session.stream() as stream:
            found = [await stream.step(inputs[0]), *await stream.steps(inputs[1:3])]
            found.append(await session.step(inputs[3]))
            found.append(await stream.step(inputs[4]))
            assert (stream.session_id, stream.last_step, stream.epoch) == (session.session_id, 5, 0)
        found.append(await session.step(inputs[5]))
    assert_close(found, offline(networks["lstm"], inputs))


async def test_a_cut_stream_resumes(proxied: Any, proxy: Proxy, networks: dict[str, Network]) -> None:
    """Whether an answer was lost or the connection cut between frames, every step is taken once."""
    inputs = random_inputs(8, seed=1)
    found = []
    async with await proxied.stream("lstm") as stream:
        for number, row in enumerate(inputs):
            if number % 3 == 1:
                proxy.lose_answers = 1
            elif number % 3 == 2:
                proxy.cut()
            found.append(await stream.step(row))
        assert stream.last_step == 8
    assert_close(found, offline(networks["lstm"], inputs))


async def test_a_stream_that_failed_can_be_called_again(connect: Connect, proxy: Proxy) -> None:
    """When all attempts fail `last_step` is unchanged, and the same call, made again, takes the step once."""
    without_retries = await connect(proxy.url, retries=Retries(attempts=1))
    inputs = random_inputs(2, seed=2)
    async with await without_retries.stream("lstm") as stream:
        first = await stream.step(inputs[0])
        proxy.lose_answers = 1
        with pytest.raises(Unavailable):
            await stream.step(inputs[1])
        assert stream.last_step == 1
        second = await stream.step(inputs[1])
        assert stream.last_step == 2
    (whole,) = await without_retries.predict("lstm", [inputs])
    assert_close([first, second], whole)


async def test_closing_a_stream_ends_the_session_it_opened(client: Any) -> None:
    """The session that `Client.stream` opened ends when the stream is closed."""
    async with await client.stream("lstm") as stream:
        await stream.step([0, 0, 0])
    with pytest.raises(SessionClosed):
        await client.session(stream.session_id)


async def test_a_second_stream_must_take_over(client: Any) -> None:
    """A session has one stream: a second one is refused, or ends the first, which then does not take over again."""
    session = await client.open("lstm")
    async with session.stream() as first, session.stream() as second, session.stream(takeover=True) as third:
        await first.step([0, 0, 0])
        with pytest.raises(StreamTaken):
            await second.step([0, 0, 0])
        await third.step([0, 0, 0])
        with pytest.raises(StreamTaken):
            await first.step([0, 0, 0])
        assert session.last_step == 2
    await session.close()


async def test_a_refused_frame_leaves_the_stream(client: Any) -> None:
    """Wrong inputs are refused over the same WebSocket, and the stream continues."""
    async with await client.stream("lstm") as stream:
        with pytest.raises(InvalidInput):
            await stream.step([0, 0])
        await stream.step([0, 0, 0])
        assert stream.last_step == 1


async def test_a_stream_whose_service_stopped_reports_the_session_as_lost(
    connect: Connect, artifacts: Path, server: RunningServer
) -> None:
    """When the service stops, the stream reconnects; if the service it finds lacks the session, that is the error."""
    stopping = RunningServer(artifacts)
    try:
        async with Proxy(urlsplit(stopping.url).port or 0) as proxy:
            client = await connect(proxy.url)
            stream = await client.stream("lstm")
            await stream.step([0, 0, 0])
            proxy.target = urlsplit(server.url).port or 0
            await asyncio.to_thread(stopping.stop)
            with pytest.raises((SessionLost, SessionNotFound)):
                await stream.step([0, 0, 0])
            await stream.close()
    finally:
        stopping.process.kill()


@pytest.fixture
async def async_proxied(proxy: Proxy) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(proxy.url, retries=QUICK, timeout=2) as made:
        yield made


async def test_map_sends_ahead_and_answers_in_order(async_proxied: AsyncClient, networks: dict[str, Network]) -> None:
    """Each input of an ordinary or asynchronous iterable gets its output, in order."""
    inputs = random_inputs(40, seed=3)

    async def source() -> AsyncIterator[np.ndarray]:
        for row in inputs[20:]:
            yield row
            await asyncio.sleep(0)

    async with await async_proxied.stream("lstm", keep=8) as stream:
        found = [row async for row in stream.map(inputs[:20])]
        found += [row async for row in stream.map(source(), ahead=3)]
        assert stream.last_step == 40
    assert_close(found, offline(networks["lstm"], inputs))


@pytest.mark.parametrize("keep", [0, 1, 8])
async def test_a_cut_map_loses_and_repeats_no_step(
    async_proxied: AsyncClient, proxy: Proxy, networks: dict[str, Network], keep: int
) -> None:
    """With steps sent before earlier answers arrive, cuts at random times leave every step taken once."""
    inputs = random_inputs(120, seed=4)
    random = np.random.default_rng(keep)
    found = []
    async with await async_proxied.stream("lstm", keep=keep) as stream:
        async for row in stream.map(inputs):
            found.append(row)
            draw = random.integers(0, 12)
            if draw == 0:
                proxy.lose_answers = 1
            elif draw == 1:
                proxy.cut()
        assert stream.last_step == 120
    assert_close(found, offline(networks["lstm"], inputs))


async def test_steps_sent_ahead_and_not_read_are_rewound(
    async_proxied: AsyncClient, networks: dict[str, Network]
) -> None:
    """After iteration over a map has stopped, the session continues after the last row that was read."""
    inputs = random_inputs(12, seed=5)
    found = []
    async with await async_proxied.stream("lstm", keep=8) as stream:
        rows = stream.map(inputs)
        async for row in rows:
            found.append(row)
            if len(found) == 4:
                await asyncio.sleep(0.05)  # the service takes the steps sent ahead meanwhile
                break
        await rows.aclose()
        assert stream.last_step == 4
        found += [await stream.step(row) for row in inputs[4:]]
    assert_close(found, offline(networks["lstm"], inputs))


async def test_a_map_raises_what_its_inputs_raise(async_proxied: AsyncClient) -> None:
    """An error raised by the inputs is raised after the rows before it, and so is InvalidInput for wrong inputs."""

    async def source() -> AsyncIterator[list[float]]:
        yield [0, 0, 0]
        raise RuntimeError("the sensor broke")

    found: list[Any] = []

    async def collect(rows: AsyncIterator[Any]) -> None:
        async for row in rows:
            found.append(row)  # noqa: PERF401 — the rows before an error are kept

    async with await async_proxied.stream("lstm", keep=4) as stream:
        with pytest.raises(RuntimeError, match="the sensor broke"):
            await collect(stream.map(source()))
        with pytest.raises(InvalidInput):
            await collect(stream.map([[0, 0, 0], [0, 0], [0, 0, 0], [0, 0, 0]]))
        assert len(found) == stream.last_step == 2
        await stream.step([0, 0, 0])
        with pytest.raises(ValueError, match="expected 1 to 4"):
            await collect(stream.map([], ahead=5))
