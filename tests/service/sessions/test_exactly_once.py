"""A numbered step takes effect once, on each way in; what it meets is what the number says, never a guess."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.network import Network
from service.app import Service
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import FEATURES, offline, random_inputs
from tests.service.ways_in import WAYS, Order, Refused, Taken, Wire, by_json, by_octets, fleet

INPUTS = random_inputs(6)


def order(start: int, stop: int, number: Any = None, epoch: Any = None, *, sign: int = 1) -> Order:
    """Ask for some rows of INPUTS; with a sign of -1, for other content of the same shape."""
    return Order((sign * INPUTS[start:stop]).tobytes(), number, epoch)


@pytest.fixture(scope="module")
def one_model(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the LSTM alone, which is loaded sooner."""
    return shutil.copytree(artifacts / "lstm", tmp_path_factory.mktemp("artifacts") / "lstm").parent


@pytest.fixture(scope="module")
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="module")
def service(one_model: Path, clock: FakeClock) -> Iterator[Service]:
    """One service for all tests here, each of which opens sessions of its own."""
    made = Service(Settings(artifacts=one_model), clock)
    made.load()
    yield made
    made.close()


@pytest.fixture
def wire(service: Service) -> Wire:
    return Wire(service.app, "lstm", FEATURES)


@pytest.fixture
async def session(wire: Wire) -> str:
    """A session after two requests: steps 1 to 2, and steps 3 to 5."""
    answer = await wire.send("POST", "/v1/models/lstm/sessions", {"keep": 2})
    made: str = answer.json()["session_id"]
    for first, last in ((1, 2), (3, 5)):
        assert isinstance(await by_json(wire, made, order(first - 1, last, first)), Taken)
    return made


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest) -> Any:
    return WAYS[request.param]


async def step_of(wire: Wire, session: str) -> int:
    step: int = (await wire.send("GET", f"/v1/sessions/{session}")).json()["step"]
    return step


async def test_a_step_without_a_number_is_taken(wire: Wire, session: str, way: Any) -> None:
    """Who does not number is trusted to send once."""
    for last in (6, 7):
        taken = await way(wire, session, order(5, 6))
        assert (taken.step, taken.replayed) == (last, False)


async def test_the_next_number_is_taken(wire: Wire, session: str, way: Any, networks: dict[str, Network]) -> None:
    """The state advances, and the answer is the offline run's."""
    taken = await way(wire, session, order(5, 6, 6))
    assert (taken.step, taken.replayed) == (6, False)
    np.testing.assert_allclose(np.frombuffer(taken.outputs, "<f4"), offline(networks["lstm"], INPUTS)[5], atol=1e-5)


async def test_the_last_request_again_gives_the_stored_answer(wire: Wire, session: str, way: Any) -> None:
    """Equal to the byte, however often, and the state stands still."""
    first = await way(wire, session, order(5, 6, 6))
    for _ in range(3):
        assert await way(wire, session, order(5, 6, 6)) == Taken(first.outputs, 6, True)
    assert await step_of(wire, session) == 6
    after = await way(wire, session, order(0, 1, 7))
    other = (await wire.send("POST", "/v1/models/lstm/sessions")).json()["session_id"]
    await by_json(wire, other, order(0, 6))
    assert (await by_json(wire, other, order(0, 1))).outputs == after.outputs  # type: ignore[union-attr]


async def test_a_chunk_again_gives_all_its_outputs(wire: Wire, session: str, way: Any) -> None:
    """A request of several steps is named by the first of them, and answered whole."""
    taken = await way(wire, session, order(2, 5, 3))
    assert (taken.step, taken.replayed) == (5, True)
    assert len(np.frombuffer(taken.outputs, "<f4")) == 3 * 2


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (order(2, 5, 3, sign=-1), Refused("step_conflict", 6)),
        (order(2, 4, 3), Refused("step_conflict", 6)),
        (order(0, 2, 1), Refused("step_too_old", 6)),
        (order(3, 5, 4), Refused("step_too_old", 6)),
        (order(5, 6, 7), Refused("step_gap", 6)),
        (order(5, 6, 2**63 - 1), Refused("step_gap", 6)),
        (order(5, 6, 6, 1), Refused("epoch_conflict", 0)),
        (order(2, 5, 3, 1), Refused("epoch_conflict", 0)),
        (order(5, 6, None, 1), Refused("epoch_conflict", 0)),
    ],
    ids=["other content", "shorter", "an older request", "amid a chunk", "gap", "far", "epoch", "again", "no number"],
)
async def test_what_cannot_be_taken_says_what_is_expected(
    wire: Wire, session: str, way: Any, asked: Order, refused: Refused
) -> None:
    """409 with the step, or the epoch, that the session is at; nothing has moved."""
    assert await way(wire, session, asked) == refused
    assert await step_of(wire, session) == 5
    assert (await way(wire, session, order(5, 6, 6, 0))).step == 6


async def test_an_unknown_session_is_not_found(wire: Wire, session: str, way: Any) -> None:
    """An id of this start that never was is unknown; one of an earlier start is lost, and nobody knows its step."""
    assert await way(wire, session[:-22] + "0" * 22, order(0, 1, 1)) == Refused("session_not_found")
    assert await way(wire, "r0-abcd-" + "0" * 22, order(0, 1, 1)) == Refused("session_lost")


async def test_a_deleted_session_tells_its_last_step(wire: Wire, session: str, way: Any) -> None:
    """410, never a start from zero, not even for its next number."""
    await wire.send("DELETE", f"/v1/sessions/{session}")
    for asked in (order(0, 1), order(0, 1, 1), order(5, 6, 6), order(2, 5, 3)):
        assert await way(wire, session, asked) == Refused("session_closed", 5)


async def test_an_idle_session_tells_its_last_step(wire: Wire, session: str, way: Any, clock: FakeClock) -> None:
    """410, likewise."""
    clock.advance(901)
    assert await way(wire, session, order(5, 6, 6)) == Refused("session_expired", 5)


async def test_bad_numbers_are_refused(wire: Wire, session: str, way: Any) -> None:
    """A number is a whole one from 1, an epoch one from 0; a header can hold no type, only digits."""
    bad: Any
    for bad in (-1, 2**63, 10**30, "six", 6.0, 6.5, True, [6], {}):
        assert await way(wire, session, order(5, 6, bad)) == Refused("invalid_input"), bad
        assert await way(wire, session, order(5, 6, 6, bad)) == Refused("invalid_input"), bad
    assert await way(wire, session, order(5, 6, 0)) == Refused("invalid_input")
    if way is not by_octets:
        assert await way(wire, session, order(5, 6, "6")) == Refused("invalid_input")
    assert await step_of(wire, session) == 5


async def test_null_is_no_number(wire: Wire, session: str) -> None:
    """A client that always writes the field need not leave it out."""
    body = {"inputs": INPUTS[5:].tolist(), "step": None, "epoch": None}
    answer = await wire.send("POST", f"/v1/sessions/{session}/steps", body)
    assert answer.json()["step"] == 6
    rows = {"sessions": [session], "inputs": [INPUTS[5:].tolist()], "steps": [None], "epochs": [None]}
    assert (await wire.send("POST", "/v1/models/lstm/fleet", rows)).json()["steps"] == [7]


async def test_a_retry_that_races_its_original_gets_its_answer(wire: Wire, session: str, way: Any) -> None:
    """Sent while the first is under way, it waits; the step is taken once."""
    answers = await asyncio.gather(*(way(wire, session, order(5, 6, 6)) for _ in range(4)))
    assert [answer.replayed for answer in answers] == [False, True, True, True]
    assert {(answer.outputs, answer.step) for answer in answers} == {(answers[0].outputs, 6)}
    assert await step_of(wire, session) == 6


async def test_two_clients_with_the_same_step_share_it(wire: Wire, session: str, way: Any) -> None:
    """The same content for one number is one step, whoever sent it first."""
    ours, theirs = await asyncio.gather(way(wire, session, order(5, 6, 6)), by_json(wire, session, order(5, 6, 6)))
    assert theirs == Taken(ours.outputs, 6, True)


async def test_of_two_clients_one_wins(wire: Wire, session: str, way: Any) -> None:
    """Two that send other content for one number cannot both be right, and the second is told so."""
    won, lost = await asyncio.gather(
        way(wire, session, order(5, 6, 6)), by_json(wire, session, order(5, 6, 6, sign=-1))
    )
    assert (won.step, won.replayed) == (6, False)
    assert lost == Refused("step_conflict", 7)


async def test_a_retry_after_a_cancelled_original_is_taken_once(wire: Wire, session: str, way: Any) -> None:
    """Whenever the client went away, the number sent again ends at the same step with the same answer."""
    outputs = set()
    for turns in range(6):
        fork = (await wire.send("POST", f"/v1/sessions/{session}/fork")).json()["session_id"]
        task = asyncio.ensure_future(way(wire, fork, order(5, 6, 6)))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        taken = await way(wire, fork, order(5, 6, 6))
        assert taken.step == await step_of(wire, fork) == 6
        outputs.add(taken.outputs)
    assert len(outputs) == 1


async def test_numbers_may_follow_steps_without(wire: Wire, session: str, way: Any) -> None:
    """The server counts every step; a request without a number can be named by a retry too."""
    first = await way(wire, session, order(5, 6))
    assert await way(wire, session, order(5, 6, 6)) == Taken(first.outputs, 6, True)
    assert (await way(wire, session, order(0, 1, 7))).step == 7


@pytest.mark.parametrize("first", sorted(WAYS))
async def test_a_retry_may_come_another_way(wire: Wire, session: str, way: Any, first: str) -> None:
    """The same numbers in another format are the same content, and the answer has the same bits."""
    taken = await WAYS[first](wire, session, order(4, 6, 6))
    assert isinstance(taken, Taken)
    assert await way(wire, session, order(4, 6, 6)) == Taken(taken.outputs, 7, True)


async def test_a_refused_step_leaves_the_last_answer(wire: Wire, session: str, way: Any) -> None:
    """What was not taken is not the last request."""
    assert await way(wire, session, order(5, 6, 9)) == Refused("step_gap", 6)
    assert (await way(wire, session, order(2, 5, 3))).replayed


async def test_after_a_rewind_the_request_before_is_the_last(wire: Wire, session: str, way: Any) -> None:
    """Its stored answer is back too, and the old epoch's late retry is refused where it names the epoch."""
    assert (await wire.send("POST", f"/v1/sessions/{session}/rewind", {"requests": 1})).json()["epoch"] == 1
    assert (await way(wire, session, order(0, 2, 1))).replayed
    assert await way(wire, session, order(2, 5, 3, 0)) == Refused("epoch_conflict", 1)
    again = await way(wire, session, order(2, 5, 3, 1))
    assert (again.step, again.replayed) == (5, False)


async def test_a_fork_replays_for_itself(wire: Wire, session: str, way: Any) -> None:
    """The last answer goes with the state; from there on, each has its own."""
    fork = (await wire.send("POST", f"/v1/sessions/{session}/fork")).json()["session_id"]
    assert (await way(wire, fork, order(2, 5, 3))).replayed
    assert (await way(wire, fork, order(5, 6, 6))).step == 6
    assert await way(wire, session, order(5, 6, 6, sign=-1)) != Refused("step_conflict", 6)


async def test_each_row_of_a_fleet_is_taken_once(wire: Wire) -> None:
    """A fleet sent again after half of it was taken takes the other half, and repeats the first."""
    names = ["a", "b", "c"]
    one = [order(row, row + 1, 1) for row in range(3)]
    first = await fleet(wire, names[:2], one[:2], create=True)
    again = await fleet(wire, names, one, framed=True, create=True)
    assert not isinstance(first, Refused)
    assert not isinstance(again, Refused)
    assert again.created == [2]
    taken = [row for row in again.rows if isinstance(row, Taken)]
    assert [row.replayed for row in taken] == [True, True, False]
    assert [row.step for row in taken] == [1, 1, 1]
    assert [row.outputs for row in taken[:2]] == [row.outputs for row in first.rows if isinstance(row, Taken)]


async def test_a_fleet_of_several_runs_is_taken_once(wire: Wire) -> None:
    """More rows than one run has room for: each keeps its own answer and its own content."""
    names = [f"row {row}" for row in range(600)]
    values = np.arange(600 * FEATURES, dtype="<f4").reshape(600, FEATURES) / 2000
    orders = [Order(row.tobytes(), 1) for row in values]
    first = await fleet(wire, names, orders, framed=True, create=True)
    again = await fleet(wire, names, orders)
    assert not isinstance(first, Refused)
    assert not isinstance(again, Refused)
    assert again.rows == [Taken(row.outputs, 1, True) for row in first.rows if isinstance(row, Taken)]
    other = await fleet(wire, names[::-1], orders)
    assert not isinstance(other, Refused)
    assert other.rows == [Refused("step_conflict", 2)] * 600
