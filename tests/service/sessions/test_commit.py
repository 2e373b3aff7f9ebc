"""A step takes effect by its commit, and not before: held with a store that delays, fails and loses races."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.network import Network
from service.app import Service
from service.engine.chunk import Chunk, ChunkBatch
from service.engine.outputs import output_tensor
from service.engine.work import Commit, Done
from service.errors import DeadlineExceeded, EngineFailed, ServiceError, SessionClosed, SessionInUse, ShuttingDown
from service.repository.served_model import ServedModel
from service.sessions.commit import MemoryCommitter
from service.sessions.fleet import Fleet, FleetRequest
from service.sessions.session import Session
from service.sessions.steps import StepRequest, StepResult, Steps
from service.settings import Settings
from tests.service.conftest import offline, random_inputs


class StoreUnavailable(ServiceError):
    code, status = "store_unavailable", 503

    def __init__(self) -> None:
        super().__init__("the store did not answer")


class RaceLost(ServiceError):
    code, status = "step_conflict", 409

    def __init__(self) -> None:
        super().__init__("another replica was quicker")


class TestStore:
    """A committer with a store of its own time: it applies a commit when its write is over, or refuses it.

    `write` is awaited for each commit, and may raise. `writing` holds the sessions of the commits that are under way,
    `most` the most of them at once.
    """

    __test__ = False

    def __init__(self) -> None:
        self.pending_rows = 100
        self.write: Callable[[Commit], Awaitable[None]] = self.at_once
        self.writing: list[Session] = []
        self.most = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def hold(self) -> asyncio.Event:
        """Have every write wait for the event that is returned."""
        written = asyncio.Event()

        async def wait(commit: Commit) -> None:
            await written.wait()

        self.write = wait
        return written

    async def at_once(self, commit: Commit) -> None:
        await asyncio.sleep(0)

    def apply(self, commits: Sequence[Commit], now: float, done: Done) -> None:
        for commit in commits:
            task = asyncio.get_running_loop().create_task(self._apply(commit, now, done))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _apply(self, commit: Commit, now: float, done: Done) -> None:
        session = commit.session
        assert isinstance(session, Session)
        assert session not in self.writing, "two commits of one session at once"
        self.writing.append(session)
        self.most = max(self.most, len(self.writing))
        try:
            await self.write(commit)
        except ServiceError as error:
            self.writing.remove(session)
            done([commit], [commit.slot], {0: error})
        else:
            self.writing.remove(session)
            MemoryCommitter().apply([commit], now, done)


@pytest.fixture
def store() -> TestStore:
    return TestStore()


@pytest.fixture(params=["on the loop", "in a thread"])
def settings(request: pytest.FixtureRequest, artifacts: Path) -> Settings:
    return Settings(artifacts=artifacts, max_sessions=50, turn_ms=2.0 if request.param == "on the loop" else 1e-6)


@pytest.fixture
async def service(settings: Settings, store: TestStore) -> AsyncIterator[Service]:
    made = Service(settings, committer=store)
    made.open()
    yield made
    made.close()


@pytest.fixture
async def model(service: Service) -> AsyncIterator[ServedModel]:
    """The model of the tests; in the end nothing waits, and no row is held but those of live sessions."""
    made = service.repository.find("lstm")
    yield made
    assert made.batcher.waiting == made.batcher._committing == 0
    live = {session.slot for session in service.sessions if session.slot > 0}
    assert made.arena.slots.leased == len(live)


@pytest.fixture
def steps(service: Service) -> Steps:
    return Steps(service.sessions, 64)


def take(
    steps: Steps, session: Session, inputs: np.ndarray, number: int = 0, patience: float = 60
) -> "asyncio.Task[StepResult]":
    request = StepRequest(session.id, (inputs.tobytes(),), len(inputs), number, patience=patience)
    return asyncio.create_task(steps.take("public", request))


def opened(service: Service, model: ServedModel, count: int) -> list[Session]:
    return [service.sessions.create("public", model, 900) for _ in range(count)]


async def until(true: Callable[[], bool]) -> None:
    """Let the loop go on until a condition holds."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("waited in vain")


async def test_nothing_is_answered_before_its_commit(
    service: Service, store: TestStore, model: ServedModel, steps: Steps, networks: dict[str, Network]
) -> None:
    """Until the store has written, the session stands where it was; then it flips, and the answer goes out."""
    (session,) = opened(service, model, 1)

    written = store.hold()
    inputs = random_inputs(1)
    task = take(steps, session, inputs, number=1)
    await until(lambda: store.writing == [session])
    await asyncio.sleep(0.02)
    assert not task.done()
    assert (session.step, session.slot, session.answer) == (0, 0, b"")
    assert session.busy is not None
    with pytest.raises(SessionInUse):
        session.rewind(1)
    written.set()
    result = await task
    np.testing.assert_allclose(output_tensor(result.outputs), offline(networks["lstm"], inputs), atol=1e-5)
    assert session.step == 1
    assert session.busy is None
    assert session.slot > 0


@pytest.mark.parametrize("error", [StoreUnavailable, RaceLost])
async def test_a_failed_commit_flips_nothing(
    service: Service,
    store: TestStore,
    model: ServedModel,
    steps: Steps,
    networks: dict[str, Network],
    error: type[ServiceError],
) -> None:
    """The step is answered with the store's error, its row is released, and the same step can be taken later."""
    (session,), inputs = opened(service, model, 1), random_inputs(3)
    await take(steps, session, inputs[:1])
    before = (session.step, session.slot, session.digest, session.answer)

    async def fail(commit: Commit) -> None:
        await asyncio.sleep(0)
        raise error

    store.write = fail
    with pytest.raises(error):
        await take(steps, session, inputs[1:2], number=2)
    assert (session.step, session.slot, session.digest, session.answer) == before
    assert model.arena.slots.leased == 1
    store.write = store.at_once
    result = await take(steps, session, inputs[1:], number=2)
    assert (result.last_step, result.replayed) == (3, False)
    np.testing.assert_allclose(output_tensor(result.outputs), offline(networks["lstm"], inputs)[1:], atol=1e-5)


async def test_the_neighbours_of_a_slow_commit_are_not_delayed(
    service: Service, store: TestStore, model: ServedModel, steps: Steps
) -> None:
    """While one session's commit is pending, the others of its batch are answered and take many more steps."""
    sessions, written = opened(service, model, 8), asyncio.Event()

    async def hold_the_first(commit: Commit) -> None:
        if commit.session is sessions[0]:
            await written.wait()

    store.write = hold_the_first
    tasks = [take(steps, session, random_inputs(1)) for session in sessions]
    await asyncio.gather(*tasks[1:])
    for _ in range(20):
        await asyncio.gather(*(take(steps, session, random_inputs(1)) for session in sessions[1:]))
    assert not tasks[0].done()
    assert [session.step for session in sessions] == [0] + 7 * [21]
    written.set()
    await tasks[0]


async def test_two_commits_of_one_session_never_overlap(
    service: Service, store: TestStore, model: ServedModel, steps: Steps, networks: dict[str, Network]
) -> None:
    """Steps sent at once, with writes of random length, are committed one after the other, in the sequence sent."""
    sessions, random = opened(service, model, 4), Random(3)

    async def some_time(commit: Commit) -> None:
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.004]))

    store.write = some_time  # the store itself checks that none overlap
    inputs = random_inputs(12)
    tasks = [[take(steps, session, inputs[at : at + 1], at + 1) for at in range(12)] for session in sessions]
    for row in tasks:
        results = await asyncio.gather(*row)
        found = np.concatenate([output_tensor(result.outputs) for result in results])
        np.testing.assert_allclose(found, offline(networks["lstm"], inputs), atol=1e-5)
        assert [result.last_step for result in results] == list(range(1, 13))
    assert store.most > 1, "different sessions are committed at the same time"


async def test_a_session_that_is_closed_while_its_commit_is_pending_stays_closed(
    service: Service, store: TestStore, model: ServedModel, steps: Steps
) -> None:
    """The step is answered with what became of the session, and both rows are released once."""
    (session,) = opened(service, model, 1)
    await take(steps, session, random_inputs(1))

    written = store.hold()
    task = take(steps, session, random_inputs(1))
    behind = take(steps, session, random_inputs(1))
    await until(lambda: store.writing == [session])
    service.sessions.close(session)
    written.set()
    for each in (task, behind):
        with pytest.raises(SessionClosed):
            await each
    assert model.arena.slots.leased == 0


async def test_a_client_that_goes_while_its_commit_is_pending_changes_nothing(
    service: Service, store: TestStore, model: ServedModel, steps: Steps
) -> None:
    """What the store has written is the session's state and its stored answer, whether it is still awaited or not."""
    (session,) = opened(service, model, 1)

    written, inputs = store.hold(), random_inputs(1)
    task = take(steps, session, inputs, number=1)
    await until(lambda: store.writing == [session])
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    written.set()
    await until(lambda: session.busy is None)
    assert session.step == 1
    assert (await take(steps, session, inputs, number=1)).replayed


async def test_a_fleet_step_is_answered_when_its_last_row_is_committed(
    service: Service, store: TestStore, model: ServedModel, steps: Steps, networks: dict[str, Network]
) -> None:
    """A row whose commit fails carries the error; the sessions of the others are free as soon as they are committed."""
    sessions, written = opened(service, model, 6), asyncio.Event()

    async def hold_one_and_fail_one(commit: Commit) -> None:
        if commit.session is sessions[2]:
            await written.wait()
        if commit.session is sessions[4]:
            raise StoreUnavailable

    store.write = hold_one_and_fail_one
    inputs = random_inputs(1)
    request = FleetRequest(model, [session.id for session in sessions], [1] * 6, inputs.tobytes() * 6)
    fleet = asyncio.create_task(Fleet(service.sessions, steps, 900).take("public", request))
    await until(lambda: store.writing == [sessions[2]] and sessions[5].step == 1)
    await take(steps, sessions[0], random_inputs(1))
    assert not fleet.done()
    written.set()
    result = await fleet
    assert result.last_steps == [1, 1, 1, 1, None, 1]
    assert {row: error.code for row, error in result.errors.items()} == {4: "store_unavailable"}
    assert [session.step for session in sessions] == [2, 1, 1, 1, 0, 1]
    expected = offline(networks["lstm"], inputs)
    for row, outputs in enumerate(result.outputs):
        if row != 4:
            np.testing.assert_allclose(outputs, expected, atol=1e-5)


async def test_commits_that_hold_every_spare_row_make_steps_wait(
    service: Service, store: TestStore, model: ServedModel, steps: Steps
) -> None:
    """No more rows are pending than the committer says, so that those of sessions and of runs stay free."""
    sessions = opened(service, model, 30)
    store.pending_rows = 20

    for session in sessions:
        await take(steps, session, random_inputs(1))
    written = store.hold()
    tasks = [take(steps, session, random_inputs(1)) for session in sessions]
    await until(lambda: len(store.writing) == 20)
    await asyncio.sleep(0.02)
    assert len(store.writing) == 20
    assert len(tasks) > 20
    written.set()
    await asyncio.gather(*tasks)
    assert [session.step for session in sessions] == [2] * 30


async def test_deadlines_hold_while_commits_keep_all_rows(
    service: Service, store: TestStore, model: ServedModel, steps: Steps
) -> None:
    """Requests that cannot be run, as the spare rows are all pending, are answered when their time is over."""
    sessions = opened(service, model, 4)
    store.pending_rows = 2

    written = store.hold()
    held = [take(steps, session, random_inputs(1)) for session in sessions[:2]]
    await until(lambda: len(store.writing) == 2)
    late = [take(steps, session, random_inputs(1), patience=0.1) for session in (*sessions[2:], sessions[3])]
    patient = take(steps, sessions[2], random_inputs(1))
    for task in late:
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(task, 5)
    assert not any(task.done() for task in held)
    written.set()
    await asyncio.gather(*held, patient)
    assert [session.step for session in sessions] == [1, 1, 1, 0]


async def test_what_was_committed_before_a_fault_stays(
    service: Service, store: TestStore, model: ServedModel, steps: Steps, networks: dict[str, Network]
) -> None:
    """Where a committer applies one row of a batch and raises, that one is answered, and the others are refused."""
    sessions, inputs = opened(service, model, 4), random_inputs(3)
    whole = store.apply

    def fail_after_one(commits: Sequence[Commit], now: float, done: Done) -> None:
        MemoryCommitter().apply(commits[:1], now, done)
        raise RuntimeError("a fault")

    await asyncio.gather(*(take(steps, session, inputs[:1]) for session in sessions))
    store.apply = fail_after_one  # type: ignore[method-assign]
    tasks = [take(steps, session, inputs[1:2]) for session in sessions]
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    store.apply = whole  # type: ignore[method-assign]
    taken = [not isinstance(answer, EngineFailed) for answer in answers]
    assert any(taken)
    assert [session.step for session in sessions] == [1 + each for each in taken]
    for session in sessions:
        left = inputs[session.step :]
        result = await take(steps, session, left)
        expected = offline(networks["lstm"], inputs)[-len(left) :]
        np.testing.assert_allclose(output_tensor(result.outputs), expected, atol=1e-5)


async def test_a_fault_in_the_middle_of_a_batch_frees_no_row_in_use(
    settings: Settings, networks: dict[str, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions whose steps were applied before the fault keep them, and no other session gets their rows."""
    service = Service(settings)
    service.open()
    model, inputs = service.repository.find("lstm"), random_inputs(3)
    steps, sessions = Steps(service.sessions, 64), opened(service, model, 4)
    advance, calls = Session.advance, count()

    def fail_second(self: Session, *values: Any) -> int:
        if next(calls) == 1:
            raise RuntimeError("a fault")
        return advance(self, *values)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "advance", fail_second)
        tasks = [take(steps, session, inputs[:1]) for session in sessions]
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    failed = [isinstance(answer, EngineFailed) for answer in answers]
    assert 0 < sum(failed) < len(sessions)
    assert [session.step for session in sessions] == [1 - each for each in failed]
    others = opened(service, model, 8)
    await asyncio.gather(*(take(steps, other, random_inputs(2, seed=5)) for other in others))
    for session in sessions:
        left = inputs[session.step :]
        result = await take(steps, session, left)
        expected = offline(networks["lstm"], inputs)[-len(left) :]
        np.testing.assert_allclose(output_tensor(result.outputs), expected, atol=1e-5)
    slots = [session.slot for session in service.sessions]
    assert len(set(slots)) == len(slots) == model.arena.slots.leased
    service.close()


def test_the_refused_rows_of_a_batch_are_named() -> None:
    """Each session that has ended is refused with its own error, whatever its position in the batch."""
    owners = [
        SimpleNamespace(ended=error, advance=lambda *_: 7) for error in (None, SessionClosed(3), None, RaceLost())
    ]
    commits = [Commit(cast(Any, owner), 10 + row, 1, 0, b"", cast(Any, None), row) for row, owner in enumerate(owners)]
    found: list[Any] = []
    MemoryCommitter().apply(commits, 0.0, lambda *values: found.append(values))
    ((applied, released, refused),) = found
    assert (list(applied), released) == (commits, [7, 11, 7, 13])
    assert refused == {1: owners[1].ended, 3: owners[3].ended}


async def test_an_error_that_is_raised_often_does_not_grow(
    service: Service, store: TestStore, model: ServedModel, steps: Steps
) -> None:
    """The same error, raised for many requests, carries the traceback of the last one alone."""
    (session,) = opened(service, model, 1)
    chunk = Chunk(session, (b"",), 1)
    chunk.error = why = ShuttingDown()
    model.batcher.close(why)

    def depth(raises: Callable[[], object]) -> int:
        with pytest.raises(ShuttingDown) as info:
            raises()
        return len(info.traceback)

    for raises in (lambda: StepResult(model, chunk), lambda: model.batcher.submit((chunk,))):
        assert depth(raises) == depth(raises) == depth(raises)


async def test_a_batcher_that_closes_while_commits_are_pending_answers_all(
    service: Service, store: TestStore, model: ServedModel, steps: Steps
) -> None:
    """The commit goes on; what waits behind it for the same session is refused."""
    (session,) = opened(service, model, 1)

    written = store.hold()
    first = take(steps, session, random_inputs(1))
    await until(lambda: store.writing == [session])
    second = take(steps, session, random_inputs(1))
    await asyncio.sleep(0.01)
    model.batcher.close(ShuttingDown())
    await asyncio.sleep(0.01)
    written.set()
    assert (await asyncio.wait_for(first, 5)).last_step == 1
    with pytest.raises(ShuttingDown):
        await asyncio.wait_for(second, 5)


@pytest.mark.parametrize("where", ["committer", "settle"])
async def test_a_fault_of_ours_after_the_run_harms_one_batch_only(
    service: Service,
    store: TestStore,
    model: ServedModel,
    steps: Steps,
    networks: dict[str, Network],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Where the committer or the settling of a run raises, its rows are answered and released, and work goes on."""
    sessions, inputs = opened(service, model, 3), random_inputs(2)

    def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patch:
        if where == "committer":
            patch.setattr(store, "apply", fail)
        else:
            patch.setattr(ChunkBatch, "settle", fail)
        for session in sessions:
            with pytest.raises(EngineFailed):
                await asyncio.wait_for(take(steps, session, inputs[:1]), 5)
    assert model.arena.slots.leased == 0
    for session in sessions:
        result = await asyncio.wait_for(take(steps, session, inputs, 1), 5)
        np.testing.assert_allclose(output_tensor(result.outputs), offline(networks["lstm"], inputs), atol=1e-5)


async def test_sessions_are_what_their_commits_made_them(
    service: Service, store: TestStore, model: ServedModel, steps: Steps, networks: dict[str, Network]
) -> None:
    """With a store that fails and dawdles at random, each session's outputs are torch's over the steps it took."""
    sessions, random = opened(service, model, 12), Random(8)

    async def at_random(commit: Commit) -> None:
        await asyncio.sleep(random.choice([0, 0, 0.001, 0.003]))
        if random.random() < 0.3:
            raise random.choice([StoreUnavailable, RaceLost])

    store.write = at_random

    async def stream(session: Session, seed: int) -> None:
        inputs, taken, found, at = random_inputs(60, seed), [], [], 0
        chunks = Random(seed)
        while at < len(inputs):
            chunk = inputs[at : at + chunks.choice([1, 1, 2, 20])]
            at += len(chunk)
            try:
                result = await take(steps, session, chunk, chunks.choice([0, session.step + 1]))
            except (StoreUnavailable, RaceLost):
                continue
            taken.append(chunk)
            found.append(output_tensor(result.outputs))
        assert session.step == sum(map(len, taken))
        expected = offline(networks["lstm"], np.concatenate(taken))
        np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)

    await asyncio.gather(*(stream(session, seed) for seed, session in enumerate(sessions)))
