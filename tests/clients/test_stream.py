"""Streams of both clients against a real server, through a cable that is cut."""

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


async def test_a_stream_and_its_session_count_together(client: Any, networks: dict[str, Network]) -> None:
    """Steps over the socket and over HTTP follow each other; the session outlives the stream."""
    inputs = random_inputs(6)
    async with await client.open("lstm") as session:
        async with session.stream() as stream:
            found = [await stream.step(inputs[0]), *await stream.steps(inputs[1:3])]
            found.append(await session.step(inputs[3]))
            found.append(await stream.step(inputs[4]))
            assert (stream.session_id, stream.last_step, stream.epoch) == (session.session_id, 5, 0)
        found.append(await session.step(inputs[5]))
    assert_close(found, offline(networks["lstm"], inputs))


async def test_a_cut_stream_resumes_where_it_was(shaky: Any, proxy: Proxy, networks: dict[str, Network]) -> None:
    """Whether the answer was lost or the socket cut between frames, every step is taken once."""
    inputs = random_inputs(8, seed=1)
    found = []
    async with await shaky.stream("lstm") as stream:
        for number, row in enumerate(inputs):
            if number % 3 == 1:
                proxy.lose_answers = 1
            elif number % 3 == 2:
                proxy.cut()
            found.append(await stream.step(row))
        assert stream.last_step == 8
    assert_close(found, offline(networks["lstm"], inputs))


async def test_a_stream_that_failed_can_be_called_again(connect: Connect, proxy: Proxy) -> None:
    """When all retries fail the stream has not moved, and the same call again is taken once."""
    hasty = await connect(proxy.url, retries=Retries(attempts=1))
    inputs = random_inputs(2, seed=2)
    async with await hasty.stream("lstm") as stream:
        first = await stream.step(inputs[0])
        proxy.lose_answers = 1
        with pytest.raises(Unavailable):
            await stream.step(inputs[1])
        assert stream.last_step == 1
        second = await stream.step(inputs[1])
        assert stream.last_step == 2
    (whole,) = await hasty.predict("lstm", [inputs])
    assert_close([first, second], whole)


async def test_closing_a_stream_ends_what_it_opened(client: Any) -> None:
    """The session that `Client.stream` opened ends with the stream."""
    async with await client.stream("lstm") as stream:
        await stream.step([0, 0, 0])
    with pytest.raises(SessionClosed):
        await client.session(stream.session_id)


async def test_a_second_stream_must_take_over(client: Any) -> None:
    """A session has one stream: a second one is refused, or ends the first, which does not fight back."""
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
    """Wrong inputs are refused over the same socket, and the stream goes on."""
    async with await client.stream("lstm") as stream:
        with pytest.raises(InvalidInput):
            await stream.step([0, 0])
        await stream.step([0, 0, 0])
        assert stream.last_step == 1


async def test_a_stream_of_a_service_that_went_says_that_the_session_is_lost(
    connect: Connect, artifacts: Path, server: RunningServer
) -> None:
    """When the service stops, the stream looks for it again, and finds one that does not have the session."""
    going = RunningServer(artifacts)
    try:
        async with Proxy(urlsplit(going.url).port or 0) as proxy:
            client = await connect(proxy.url)
            stream = await client.stream("lstm")
            await stream.step([0, 0, 0])
            proxy.target = urlsplit(server.url).port or 0
            await asyncio.to_thread(going.stop)
            with pytest.raises((SessionLost, SessionNotFound)):
                await stream.step([0, 0, 0])
            await stream.close()
    finally:
        going.process.kill()


@pytest.fixture
async def async_shaky(proxy: Proxy) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(proxy.url, retries=QUICK, timeout=2) as made:
        yield made


async def test_map_sends_ahead_and_answers_in_order(async_shaky: AsyncClient, networks: dict[str, Network]) -> None:
    """Inputs of either kind of iterable are answered one for one, in order."""
    inputs = random_inputs(40, seed=3)

    async def source() -> AsyncIterator[np.ndarray]:
        for row in inputs[20:]:
            yield row
            await asyncio.sleep(0)

    async with await async_shaky.stream("lstm", keep=8) as stream:
        found = [row async for row in stream.map(inputs[:20])]
        found += [row async for row in stream.map(source(), ahead=3)]
        assert stream.last_step == 40
    assert_close(found, offline(networks["lstm"], inputs))


@pytest.mark.parametrize("keep", [0, 1, 8])
async def test_a_cut_map_loses_and_doubles_nothing(
    async_shaky: AsyncClient, proxy: Proxy, networks: dict[str, Network], keep: int
) -> None:
    """With steps on their way ahead of their answers, cuts at any moment leave every step taken once."""
    inputs = random_inputs(120, seed=4)
    random = np.random.default_rng(keep)
    found = []
    async with await async_shaky.stream("lstm", keep=keep) as stream:
        async for row in stream.map(inputs):
            found.append(row)
            chance = random.integers(0, 12)
            if chance == 0:
                proxy.lose_answers = 1
            elif chance == 1:
                proxy.cut()
        assert stream.last_step == 120
    assert_close(found, offline(networks["lstm"], inputs))


async def test_what_was_sent_ahead_and_not_read_is_taken_back(
    async_shaky: AsyncClient, networks: dict[str, Network]
) -> None:
    """Who stops reading a map goes on behind the last row that was read."""
    inputs = random_inputs(12, seed=5)
    found = []
    async with await async_shaky.stream("lstm", keep=8) as stream:
        rows = stream.map(inputs)
        async for row in rows:
            found.append(row)
            if len(found) == 4:
                await asyncio.sleep(0.05)  # the rest is taken meanwhile
                break
        await rows.aclose()
        assert stream.last_step == 4
        found += [await stream.step(row) for row in inputs[4:]]
    assert_close(found, offline(networks["lstm"], inputs))


async def test_a_map_raises_what_its_inputs_raise(async_shaky: AsyncClient) -> None:
    """An error in the inputs comes out of the map, behind the rows before it; wrong inputs likewise."""

    async def source() -> AsyncIterator[list[float]]:
        yield [0, 0, 0]
        raise RuntimeError("the sensor broke")

    found: list[Any] = []

    async def collect(rows: AsyncIterator[Any]) -> None:
        async for row in rows:
            found.append(row)  # noqa: PERF401 — what came before an error is kept

    async with await async_shaky.stream("lstm", keep=4) as stream:
        with pytest.raises(RuntimeError, match="the sensor broke"):
            await collect(stream.map(source()))
        with pytest.raises(InvalidInput):
            await collect(stream.map([[0, 0, 0], [0, 0], [0, 0, 0], [0, 0, 0]]))
        assert len(found) == stream.last_step == 2
        await stream.step([0, 0, 0])
        with pytest.raises(ValueError, match="expected 1 to 4"):
            await collect(stream.map([], ahead=5))
