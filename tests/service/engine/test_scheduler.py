"""Picking the jobs of a round: a decision that changes nothing but the queue."""

import asyncio

import numpy as np
import pytest

from service.app import Service
from service.engine.batcher import Batcher
from service.engine.chunk import Chunk, ChunkBatch
from service.engine.fleet_step import FleetStep
from service.engine.outputs import RunOutputs
from service.engine.scheduler import Unrun
from service.engine.work import Commit, Job, Replay, Work
from service.errors import DeadlineExceeded, RequestCancelled, SessionClosed, StepGap
from service.repository.served_model import ServedModel
from service.sessions.session import Session
from tests.fakes import FakeClock

STEP = bytes(12)


@pytest.fixture
def model(service: Service) -> ServedModel:
    return service.repository.find("lstm")


@pytest.fixture
def batcher(model: ServedModel) -> Batcher:
    """A batcher whose rounds are left to the test."""
    model.batcher._scheduled = True
    return model.batcher


def pick(batcher: Batcher, now: float, room: int) -> tuple[Work | None, list[Unrun]]:
    """Pick once from the short line; return the work of the jobs that are to run, and those that are not."""
    jobs: list[Job] = []
    line = batcher._queue.short
    unrun = batcher._scheduler.pick(line, jobs, now, room)
    return jobs[0].gather(jobs, batcher._limits, 0.001, room) if jobs else None, unrun


def opened(service: Service, model: ServedModel, count: int) -> list[Session]:
    return [service.sessions.create("t", model, 900) for _ in range(count)]


async def test_picking_tells_what_to_run_to_fail_and_to_replay_and_settles_nothing(
    service: Service, model: ServedModel, batcher: Batcher, clock: FakeClock
) -> None:
    """No job is answered, no session moves, no slot is leased: that is left to the caller."""
    replayed, gap, closed, cancelled, late, new = sessions = opened(service, model, 6)
    answer = np.zeros(2, np.float32).tobytes()
    replayed.advance(0, 1, Chunk(replayed, (STEP,), 1).digest(), answer, clock())
    numbers = {replayed: 1, gap: 3}
    chunks = {each: Chunk(each, (STEP,), 1, numbers.get(each, 0)) for each in sessions}
    futures = {
        each: batcher.submit((chunk,), 1.0 if each is late else 100.0)
        for each, chunk in chunks.items()
        if each is not new
    }
    closed.ended = SessionClosed(0)
    futures[cancelled].cancel()
    clock.advance(2.0)
    futures[new] = batcher.submit((chunks[new],))
    before = [(each.slot, each.step, each.busy) for each in sessions]

    work, unrun = pick(batcher, clock(), batcher.max_rows)

    assert isinstance(work, ChunkBatch)
    assert (work.rows, work.steps, work.leases) == (1, 1, 1)
    outcomes = {chunk.owner: outcome for chunk, outcome in unrun if isinstance(chunk, Chunk)}
    replay = outcomes.pop(replayed)
    assert isinstance(replay, Replay)
    assert replay.last_step == 1
    expected = {gap: StepGap, closed: SessionClosed, cancelled: RequestCancelled, late: DeadlineExceeded}
    assert {each: type(outcome) for each, outcome in outcomes.items()} == expected
    assert [(each.slot, each.step, each.busy) for each in sessions] == before
    assert all(chunk.error is None and not chunk.outputs for chunk in chunks.values())
    assert not any(future.done() for each, future in futures.items() if each is not cancelled)
    assert model.arena.slots.leased == 0
    closed.ended = None
    for job, outcome in unrun:
        batcher._drop(job.drop(outcome, clock()), clock())
    batcher._drop(chunks[new].drop(StepGap(1, 1), clock()), clock())
    await asyncio.gather(*(future for each, future in futures.items() if each is not cancelled))
    assert chunks[replayed].replayed


async def test_a_fleet_step_shares_no_run(
    service: Service, model: ServedModel, batcher: Batcher, clock: FakeClock
) -> None:
    """Chunks before it run first; it runs next, by itself, in parts of as many rows as a run may have."""
    single, *fleet_sessions = opened(service, model, 11)
    chunk, fleet = Chunk(single, (STEP,), 1), FleetStep(fleet_sessions, STEP * 10, 1)
    futures = [batcher.submit((chunk,)), batcher.submit((fleet,))]
    first, _ = pick(batcher, clock(), 4)
    second, unrun = pick(batcher, clock(), 4)
    assert isinstance(first, ChunkBatch)
    assert second is fleet
    assert (fleet.rows, fleet.leases, unrun) == (4, 4, [])
    for job in (chunk, fleet):
        batcher._drop(job.drop(SessionClosed(0), clock()), clock())
    await asyncio.gather(*futures)
    assert len(fleet.errors) == 10


async def test_refusals_take_no_rounds(service: Service, model: ServedModel, batcher: Batcher) -> None:
    """A step behind forty requests of its session that are refused runs in the round that refuses them."""
    batcher._scheduled = False
    (session,) = opened(service, model, 1)
    chunks = [Chunk(session, (STEP,), 1, number=9) for _ in range(40)]
    futures = [batcher.submit((chunk,)) for chunk in [*chunks, Chunk(session, (STEP,), 1)]]
    await asyncio.gather(*futures)
    assert {type(chunk.error) for chunk in chunks} == {StepGap}
    assert batcher.statistics.run_count == session.step == 1
    assert batcher.statistics.rows == 1


async def test_a_fleet_step_gives_a_commit_for_each_good_row(
    service: Service, model: ServedModel, batcher: Batcher, clock: FakeClock
) -> None:
    """A row that is not finite is dropped with its slot; the others carry slot, step, digest and answer."""
    sessions = opened(service, model, 3)
    fleet = FleetStep(sessions, STEP * 3, 1)
    future = batcher.submit((fleet,))
    work, _ = pick(batcher, clock(), batcher.max_rows)
    assert work is fleet
    binding, slots = model.runner.binding(3, 1), model.arena.slots.lease_many(3)
    work.prepare(binding, slots)
    model.runner.run(binding)
    outputs = _copied(binding.outputs)
    settled = work.settle(outputs, np.array([False, True, False]), clock())
    assert [type(commit) for commit in settled.commits] == [Commit] * 2
    assert [(commit.session, commit.slot, commit.step, commit.row) for commit in settled.commits] == [
        (sessions[0], slots[0], 1, 0),
        (sessions[2], slots[2], 1, 2),
    ]
    assert {commit.digest for commit in settled.commits} == {Chunk(None, (STEP,), 1).digest()}
    assert [commit.answer for commit in settled.commits] == [outputs.raw_rows()[row] for row in (0, 2)]
    assert [(row.session, row.slot) for row in settled.dropped] == [(sessions[1], slots[1])]
    assert [session.step for session in sessions] == [0] * 3
    assert (settled.unfinished, settled.released) == ([], [])
    batcher._drop(settled.dropped, clock())
    batcher._committing += len(settled.commits)
    batcher._committer.apply(settled.commits, clock(), batcher._answer_commits)
    await future
    assert [session.step for session in sessions] == [1, 0, 1]
    assert model.arena.slots.leased == 2


def _copied(tensors: list[np.ndarray]) -> RunOutputs:
    return RunOutputs([tensor.copy() for tensor in tensors])
