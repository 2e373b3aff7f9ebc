"""A numbered step takes effect once in every encoding, and its number decides how it is answered."""

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
from tests.service.step_clients import (
    ENCODINGS,
    ApiClient,
    Refused,
    StepAnswer,
    StepSpec,
    send_fleet,
    send_json,
    send_raw,
)

INPUTS = random_inputs(6)


def spec(start: int, stop: int, number: Any = None, epoch: Any = None, *, sign: int = 1) -> StepSpec:
    """Return some rows of INPUTS as a step to send; a sign of -1 gives other content of the same shape."""
    return StepSpec((sign * INPUTS[start:stop]).tobytes(), number, epoch)


@pytest.fixture(scope="module")
def one_model(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the LSTM alone, which takes less time to load."""
    return shutil.copytree(artifacts / "lstm", tmp_path_factory.mktemp("artifacts") / "lstm").parent


@pytest.fixture(scope="module")
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="module")
def service(one_model: Path, clock: FakeClock) -> Iterator[Service]:
    """Return one service for all tests of this module, each of which opens its own sessions."""
    made = Service(Settings(artifacts=one_model), clock)
    made.load()
    yield made
    made.close()


@pytest.fixture
def client(service: Service) -> ApiClient:
    return ApiClient(service.app, "lstm", FEATURES)


@pytest.fixture
async def session(client: ApiClient) -> str:
    """Return a session after two requests: steps 1 to 2, and steps 3 to 5."""
    answer = await client.send("POST", "/v1/models/lstm/sessions", {"keep": 2})
    made: str = answer.json()["session_id"]
    for first, last in ((1, 2), (3, 5)):
        assert isinstance(await send_json(client, made, spec(first - 1, last, first)), StepAnswer)
    return made


@pytest.fixture(params=sorted(ENCODINGS))
def send_step(request: pytest.FixtureRequest) -> Any:
    return ENCODINGS[request.param]


async def step_of(client: ApiClient, session: str) -> int:
    step: int = (await client.send("GET", f"/v1/sessions/{session}")).json()["step"]
    return step


async def test_a_step_without_a_number_is_taken(client: ApiClient, session: str, send_step: Any) -> None:
    """A step without a number is taken each time it is sent."""
    for last in (6, 7):
        taken = await send_step(client, session, spec(5, 6))
        assert (taken.step, taken.replayed) == (last, False)


async def test_the_next_number_is_taken(
    client: ApiClient, session: str, send_step: Any, networks: dict[str, Network]
) -> None:
    """A step with the next number advances the state, and its outputs equal the offline run."""
    taken = await send_step(client, session, spec(5, 6, 6))
    assert (taken.step, taken.replayed) == (6, False)
    np.testing.assert_allclose(np.frombuffer(taken.outputs, "<f4"), offline(networks["lstm"], INPUTS)[5], atol=1e-5)


async def test_the_last_request_again_gives_the_stored_answer(client: ApiClient, session: str, send_step: Any) -> None:
    """The last request sent again gets the stored answer each time, and does not advance the state."""
    first = await send_step(client, session, spec(5, 6, 6))
    for _ in range(3):
        assert await send_step(client, session, spec(5, 6, 6)) == StepAnswer(first.outputs, 6, True)
    assert await step_of(client, session) == 6
    after = await send_step(client, session, spec(0, 1, 7))
    other = (await client.send("POST", "/v1/models/lstm/sessions")).json()["session_id"]
    await send_json(client, other, spec(0, 6))
    assert (await send_json(client, other, spec(0, 1))).outputs == after.outputs  # type: ignore[union-attr]


async def test_a_chunk_again_gives_all_its_outputs(client: ApiClient, session: str, send_step: Any) -> None:
    """A chunk is recognised by the number of its first step, and all its outputs are replayed."""
    taken = await send_step(client, session, spec(2, 5, 3))
    assert (taken.step, taken.replayed) == (5, True)
    assert len(np.frombuffer(taken.outputs, "<f4")) == 3 * 2


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        (spec(2, 5, 3, sign=-1), Refused("step_conflict", 6)),
        (spec(2, 4, 3), Refused("step_conflict", 6)),
        (spec(0, 2, 1), Refused("step_too_old", 6)),
        (spec(3, 5, 4), Refused("step_too_old", 6)),
        (spec(5, 6, 7), Refused("step_gap", 6)),
        (spec(5, 6, 2**63 - 1), Refused("step_gap", 6)),
        (spec(5, 6, 6, 1), Refused("epoch_conflict", 0)),
        (spec(2, 5, 3, 1), Refused("epoch_conflict", 0)),
        (spec(5, 6, None, 1), Refused("epoch_conflict", 0)),
    ],
    ids=["other content", "shorter", "an older request", "amid a chunk", "gap", "far", "epoch", "again", "no number"],
)
async def test_a_refused_step_states_what_is_expected(
    client: ApiClient, session: str, send_step: Any, asked: StepSpec, refused: Refused
) -> None:
    """A step that cannot be taken is refused with the expected step or epoch, and changes nothing."""
    assert await send_step(client, session, asked) == refused
    assert await step_of(client, session) == 5
    assert (await send_step(client, session, spec(5, 6, 6, 0))).step == 6


async def test_an_unknown_session_is_not_found(client: ApiClient, session: str, send_step: Any) -> None:
    """An id that never existed is not found, and one of an earlier process of this replica is lost."""
    assert await send_step(client, session[:-22] + "0" * 22, spec(0, 1, 1)) == Refused("session_not_found")
    assert await send_step(client, "r0-abcd-" + "0" * 22, spec(0, 1, 1)) == Refused("session_lost")


async def test_a_deleted_session_states_its_last_step(client: ApiClient, session: str, send_step: Any) -> None:
    """Every step of a deleted session is refused with `session_closed` and its last step."""
    await client.send("DELETE", f"/v1/sessions/{session}")
    for asked in (spec(0, 1), spec(0, 1, 1), spec(5, 6, 6), spec(2, 5, 3)):
        assert await send_step(client, session, asked) == Refused("session_closed", 5)


async def test_an_expired_session_states_its_last_step(
    client: ApiClient, session: str, send_step: Any, clock: FakeClock
) -> None:
    """A step of an expired session is refused with `session_expired` and its last step."""
    clock.advance(901)
    assert await send_step(client, session, spec(5, 6, 6)) == Refused("session_expired", 5)


async def test_bad_numbers_are_refused(client: ApiClient, session: str, send_step: Any) -> None:
    """A step number that is no whole number from 1, or an epoch that is none from 0, is refused."""
    bad: Any
    for bad in (-1, 2**63, 10**30, "six", 6.0, 6.5, True, [6], {}):
        assert await send_step(client, session, spec(5, 6, bad)) == Refused("invalid_input"), bad
        assert await send_step(client, session, spec(5, 6, 6, bad)) == Refused("invalid_input"), bad
    assert await send_step(client, session, spec(5, 6, 0)) == Refused("invalid_input")
    if send_step is not send_raw:
        assert await send_step(client, session, spec(5, 6, "6")) == Refused("invalid_input")
    assert await step_of(client, session) == 5


async def test_null_is_no_number(client: ApiClient, session: str) -> None:
    """A number or epoch of null means none."""
    body = {"inputs": INPUTS[5:].tolist(), "step": None, "epoch": None}
    answer = await client.send("POST", f"/v1/sessions/{session}/steps", body)
    assert answer.json()["step"] == 6
    rows = {"sessions": [session], "inputs": [INPUTS[5:].tolist()], "steps": [None], "epochs": [None]}
    assert (await client.send("POST", "/v1/models/lstm/fleet", rows)).json()["steps"] == [7]


async def test_a_concurrent_retry_gets_the_originals_answer(client: ApiClient, session: str, send_step: Any) -> None:
    """Copies that are sent while the original runs wait, and get its answer."""
    answers = await asyncio.gather(*(send_step(client, session, spec(5, 6, 6)) for _ in range(4)))
    assert [answer.replayed for answer in answers] == [False, True, True, True]
    assert {(answer.outputs, answer.step) for answer in answers} == {(answers[0].outputs, 6)}
    assert await step_of(client, session) == 6


async def test_two_clients_with_the_same_step_share_it(client: ApiClient, session: str, send_step: Any) -> None:
    """Two clients that send the same content with the same number get the same answer of one step."""
    ours, theirs = await asyncio.gather(
        send_step(client, session, spec(5, 6, 6)), send_json(client, session, spec(5, 6, 6))
    )
    assert theirs == StepAnswer(ours.outputs, 6, True)


async def test_of_two_clients_with_other_content_one_is_refused(
    client: ApiClient, session: str, send_step: Any
) -> None:
    """Of two clients that send other content with the same number, the second gets `step_conflict`."""
    won, lost = await asyncio.gather(
        send_step(client, session, spec(5, 6, 6)), send_json(client, session, spec(5, 6, 6, sign=-1))
    )
    assert (won.step, won.replayed) == (6, False)
    assert lost == Refused("step_conflict", 7)


async def test_a_retry_after_a_cancelled_original_is_taken_once(
    client: ApiClient, session: str, send_step: Any
) -> None:
    """A step is taken once if its request is cancelled at any time, and then sent again."""
    outputs = set()
    for iterations in range(6):
        fork = (await client.send("POST", f"/v1/sessions/{session}/fork")).json()["session_id"]
        task = asyncio.ensure_future(send_step(client, fork, spec(5, 6, 6)))
        for _ in range(iterations):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        taken = await send_step(client, fork, spec(5, 6, 6))
        assert taken.step == await step_of(client, fork) == 6
        outputs.add(taken.outputs)
    assert len(outputs) == 1


async def test_numbered_steps_may_follow_unnumbered_ones(client: ApiClient, session: str, send_step: Any) -> None:
    """Steps without a number are counted, and can be repeated with the number that they had."""
    first = await send_step(client, session, spec(5, 6))
    assert await send_step(client, session, spec(5, 6, 6)) == StepAnswer(first.outputs, 6, True)
    assert (await send_step(client, session, spec(0, 1, 7))).step == 7


@pytest.mark.parametrize("first", sorted(ENCODINGS))
async def test_a_retry_may_use_another_encoding(client: ApiClient, session: str, send_step: Any, first: str) -> None:
    """A request may be repeated in another encoding, and gets the same bits."""
    taken = await ENCODINGS[first](client, session, spec(4, 6, 6))
    assert isinstance(taken, StepAnswer)
    assert await send_step(client, session, spec(4, 6, 6)) == StepAnswer(taken.outputs, 7, True)


async def test_a_refused_step_leaves_the_last_answer(client: ApiClient, session: str, send_step: Any) -> None:
    """A refused step does not replace the stored answer of the last one."""
    assert await send_step(client, session, spec(5, 6, 9)) == Refused("step_gap", 6)
    assert (await send_step(client, session, spec(2, 5, 3))).replayed


async def test_after_a_rewind_the_request_before_it_is_replayed(
    client: ApiClient, session: str, send_step: Any
) -> None:
    """After a rewind, the request before it can be replayed, and a step of the old epoch is refused."""
    assert (await client.send("POST", f"/v1/sessions/{session}/rewind", {"requests": 1})).json()["epoch"] == 1
    assert (await send_step(client, session, spec(0, 2, 1))).replayed
    assert await send_step(client, session, spec(2, 5, 3, 0)) == Refused("epoch_conflict", 1)
    again = await send_step(client, session, spec(2, 5, 3, 1))
    assert (again.step, again.replayed) == (5, False)


async def test_a_fork_replays_its_own_last_request(client: ApiClient, session: str, send_step: Any) -> None:
    """A fork can replay its parent's last request, and then has its own steps and answers."""
    fork = (await client.send("POST", f"/v1/sessions/{session}/fork")).json()["session_id"]
    assert (await send_step(client, fork, spec(2, 5, 3))).replayed
    assert (await send_step(client, fork, spec(5, 6, 6))).step == 6
    assert await send_step(client, session, spec(5, 6, 6, sign=-1)) != Refused("step_conflict", 6)


async def test_each_row_of_a_fleet_is_taken_once(client: ApiClient) -> None:
    """A fleet request that repeats some rows replays these, and takes the others."""
    names = ["a", "b", "c"]
    one = [spec(row, row + 1, 1) for row in range(3)]
    first = await send_fleet(client, names[:2], one[:2], create=True)
    again = await send_fleet(client, names, one, framed=True, create=True)
    assert not isinstance(first, Refused)
    assert not isinstance(again, Refused)
    assert again.created == [2]
    taken = [row for row in again.rows if isinstance(row, StepAnswer)]
    assert [row.replayed for row in taken] == [True, True, False]
    assert [row.step for row in taken] == [1, 1, 1]
    assert [row.outputs for row in taken[:2]] == [row.outputs for row in first.rows if isinstance(row, StepAnswer)]


async def test_a_fleet_of_several_runs_is_taken_once(client: ApiClient) -> None:
    """The rows of a fleet step of several runs each have their own stored answer and digest."""
    names = [f"row {row}" for row in range(600)]
    values = np.arange(600 * FEATURES, dtype="<f4").reshape(600, FEATURES) / 2000
    specs = [StepSpec(row.tobytes(), 1) for row in values]
    first = await send_fleet(client, names, specs, framed=True, create=True)
    again = await send_fleet(client, names, specs)
    assert not isinstance(first, Refused)
    assert not isinstance(again, Refused)
    assert again.rows == [StepAnswer(row.outputs, 1, True) for row in first.rows if isinstance(row, StepAnswer)]
    other = await send_fleet(client, names[::-1], specs)
    assert not isinstance(other, Refused)
    assert other.rows == [Refused("step_conflict", 2)] * 600
