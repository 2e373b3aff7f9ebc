"""Sessions of both kinds of client with a real server."""

from typing import Any

import numpy as np
import pytest

from cellstream_client import (
    EpochConflict,
    InvalidInput,
    ModelNotFound,
    Retries,
    RewindTooFar,
    SessionClosed,
    SessionNotFound,
    SnapshotRefused,
    StepConflict,
    Unavailable,
)
from models.network import Network
from tests.clients.conftest import Connect, assert_close
from tests.clients.proxy import Proxy
from tests.service.conftest import RunningServer, offline, random_inputs


async def test_steps_equal_the_whole_sequence(client: Any, networks: dict[str, Network]) -> None:
    """Steps and chunks, from arrays and lists, give the outputs of the network's run over the whole sequence."""
    inputs = random_inputs(8)
    async with await client.open("lstm", idle_limit=60) as session:
        found = [await session.step(inputs[0]), await session.step(inputs[1].tolist())]
        found += await session.steps(inputs[2:5])
        found += await session.steps([tuple(row) for row in inputs[5:].tolist()])
        assert session.last_step == 8
    assert_close(found, offline(networks["lstm"], inputs))
    (whole,) = await client.predict("lstm", [inputs])
    assert_close(whole, found)


async def test_token_ids_are_single_numbers(client: Any, networks: dict[str, Network]) -> None:
    """A model of token ids takes one number for each step."""
    async with await client.open("tokens") as session:
        found = [await session.step(7), *await session.steps(np.array([3, 19]))]
    assert_close(found, offline(networks["tokens"], np.array([7, 3, 19])))


async def test_a_lost_answer_is_requested_again(proxied: Any, proxy: Proxy, networks: dict[str, Network]) -> None:
    """A step whose answer is lost is taken once: the client repeats it and gets the stored answer."""
    inputs = random_inputs(6, seed=1)
    session = await proxied.open("lstm")
    found = []
    for number, row in enumerate(inputs, start=1):
        proxy.lose_answers = number % 3
        found.append(await session.step(row))
        assert (await session.describe()).step == session.last_step == number
    await session.close()
    assert_close(found, offline(networks["lstm"], inputs))


async def test_a_lost_creation_opens_one_session(proxied: Any, proxy: Proxy) -> None:
    """A creation whose answer is lost is repeated with its idempotency key, and opens no second session."""
    before = {info.session_id async for info in proxied.sessions()}
    proxy.lose_answers = 2
    async with await proxied.open("lstm") as session:
        after = {info.session_id async for info in proxied.sessions()}
        assert after - before == {session.session_id}


async def test_a_call_that_failed_can_be_made_again(connect: Connect, proxy: Proxy, server: RunningServer) -> None:
    """When all attempts fail `last_step` is unchanged, and the same call, made again, takes the step once."""
    without_retries = await connect(proxy.url, retries=Retries(attempts=1))
    inputs = random_inputs(2, seed=2)
    session = await without_retries.open("lstm")
    await session.step(inputs[0])
    proxy.lose_answers = 1
    with pytest.raises(Unavailable) as caught:
        await session.step(inputs[1])
    assert caught.value.maybe_taken
    assert session.last_step == 1
    direct = await connect(server.url)
    assert (await direct.session(session.session_id)).last_step == 2
    again = await session.step(inputs[1])
    assert session.last_step == 2
    uninterrupted = await direct.open("lstm")
    assert (await uninterrupted.steps(inputs))[1] == pytest.approx(again)


async def test_of_two_clients_that_step_one_session_one_succeeds(client: Any) -> None:
    """A step that another client took with other inputs is a conflict, which names the session's next step."""
    inputs = random_inputs(2, seed=3)
    mine = await client.open("lstm")
    theirs = await client.session(mine.session_id)
    answer = await mine.step(inputs[0])
    with pytest.raises(StepConflict) as caught:
        await theirs.step(inputs[1])
    assert (caught.value.status, caught.value.expected_step, theirs.last_step) == (409, 2, 0)
    assert await theirs.step(inputs[0]) == answer


async def test_peek_and_fork_leave_the_session(client: Any) -> None:
    """A peek returns the outputs of steps without taking them; a fork continues independently from the same state."""
    inputs = random_inputs(3, seed=4)
    async with await client.open("lstm") as session:
        await session.step(inputs[0])
        peeked = await session.peek(inputs[1:])
        async with await session.fork(keep=2, idle_limit=30) as fork:
            assert (fork.last_step, session.last_step) == (1, 1)
            assert await fork.steps(inputs[1:]) == peeked
            assert (await fork.describe()).keep == 2
        assert await session.steps(inputs[1:]) == peeked


async def test_rewind_undoes_requests(client: Any) -> None:
    """After a rewind the same steps give the same outputs, and a client with the old epoch gets a conflict."""
    inputs = random_inputs(4, seed=5)
    async with await client.open("lstm", keep=2) as session:
        await session.steps(inputs[:2])
        found = [await session.step(inputs[2]), await session.step(inputs[3])]
        other = await client.session(session.session_id)
        assert (await session.rewind(2)).step == session.last_step == 2
        assert session.epoch == 1
        with pytest.raises(EpochConflict):
            await other.step(inputs[0])
        assert [await session.step(inputs[2]), await session.step(inputs[3])] == found
        with pytest.raises(RewindTooFar) as caught:
            await session.rewind(9)
        assert caught.value.kept == 2


async def test_a_snapshot_continues_in_another_session(client: Any) -> None:
    """A snapshot opens a session that continues from its state, and restores the state of an existing one."""
    inputs = random_inputs(4, seed=6)
    async with await client.open("lstm") as session:
        await session.steps(inputs[:2])
        state = await session.snapshot()
        found = await session.steps(inputs[2:])
        async with await client.open("lstm", state=state) as other:
            assert other.last_step == 2
            assert await other.steps(inputs[2:]) == found
        assert (await session.restore(state)).step == session.last_step == 2
        assert await session.steps(inputs[2:]) == found
        with pytest.raises(SnapshotRefused):
            await session.restore(state[:-1])
        with pytest.raises(SnapshotRefused):
            await client.open("rnn-tanh", state=state)


async def test_a_history_is_read_at_opening(client: Any, networks: dict[str, Network]) -> None:
    """A session that is opened with a history continues after its last step."""
    inputs = random_inputs(5, seed=7)
    async with await client.open("lstm", history=inputs[:4]) as session:
        assert session.last_step == 4
        assert_close(await session.step(inputs[4]), offline(networks["lstm"], inputs)[4])


async def test_sessions_are_listed_page_by_page(client: Any) -> None:
    """All sessions are listed over several pages, each with the options that it was opened with."""
    opened = [await client.open("lstm", idle_limit=50) for _ in range(5)]
    listed = [info async for info in client.sessions(page=2)]
    assert [info.session_id for info in listed][-5:] == [session.session_id for session in opened]
    assert (listed[-1].idle_limit, listed[-1].model) == (50, "lstm")
    assert (await opened[-1].extend(70)).idle_limit == 70
    for session in opened:
        await session.close()


async def test_each_missing_thing_has_its_error(client: Any) -> None:
    """Closed sessions, unknown sessions and unknown models each raise their own error; closing twice is no error."""
    session = await client.open("lstm")
    await session.step([0, 0, 0])
    await session.close()
    await session.close()
    with pytest.raises(SessionClosed) as caught:
        await session.step([0, 0, 0])
    assert (caught.value.code, caught.value.status, caught.value.last_step) == ("session_closed", 410, 1)
    with pytest.raises(SessionNotFound):
        await client.session("r0-unknown")
    with pytest.raises(ModelNotFound):
        await client.open("unknown")


async def test_wrong_inputs_are_refused_and_leave_the_session(client: Any) -> None:
    """Inputs of the wrong shape or type, and NaN, are refused, and the session can be stepped afterwards."""
    async with await client.open("lstm") as session:
        with pytest.raises(InvalidInput) as caught:
            await session.step([0, 0])
        assert {"where", "expected", "got"} <= caught.value.details.keys()
        with pytest.raises(InvalidInput):
            await session.step([0, 0, float("nan")])
        with pytest.raises(TypeError):
            await session.step(object())
        await session.step([0, 0, 0])
        assert session.last_step == 1


async def test_wait_ready_ends_after_its_time_limit(connect: Connect, server: RunningServer) -> None:
    """The models of a ready service are listed; waiting for one that does not answer ends after the given time."""
    client = await connect(server.url)
    assert "lstm" in {model.name for model in await client.models()}
    await client.wait_ready(5)
    unreachable = await connect("http://127.0.0.1:9")
    assert not await unreachable.ready()
    with pytest.raises(Unavailable, match=r"http://127\.0\.0\.1:9 was not ready within 0\.05 s"):
        await unreachable.wait_ready(0.05, pause=0.01)
