"""Every request that waits for the batcher is answered exactly once, whatever happens to the others."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from models.network import Network
from service.app import Service
from service.engine import chunk as chunk_module
from service.engine.batcher import Batcher
from service.engine.chunk import Chunk
from service.engine.outputs import output_tensor
from service.engine.runner import Binding, Costs
from service.errors import DeadlineExceeded, EngineFailed, QueueFull, ServiceError, SessionClosed, ShuttingDown
from service.repository.served_model import ServedModel
from service.sessions.session import Session
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import offline, random_inputs


@pytest.fixture(params=["on the loop", "in a thread"])
def settings(request: pytest.FixtureRequest, artifacts: Any) -> Settings:
    """Run the engine on the event loop, and in a thread: no model fits into rounds of 1 ns."""
    return Settings(artifacts=artifacts, max_sessions=50, turn_ms=2.0 if request.param == "on the loop" else 1e-6)


@pytest.fixture
async def model(service: Service) -> AsyncIterator[ServedModel]:
    made = service.repository.find("lstm")
    yield made
    assert made.batcher.waiting == 0, made.batcher
    held = sum(session.slot > 0 for session in service.sessions)
    assert made.arena.slots.leased == held, made.arena.slots


def sessions_of(service: Service, model: ServedModel, count: int) -> list[Session]:
    return [service.sessions.create("public", model, 900) for _ in range(count)]


def chunk_of(session: Session | None, inputs: np.ndarray) -> Chunk:
    return Chunk(session, (inputs.tobytes(),), len(inputs))


async def until(true: Callable[[], bool]) -> None:
    """Let the event loop run until a condition holds."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition never held")


async def step(batcher: Batcher, session: Session, inputs: np.ndarray) -> np.ndarray:
    chunk = chunk_of(session, inputs)
    await batcher.submit([chunk])
    if chunk.error is not None:
        raise chunk.error
    return output_tensor(chunk.outputs)


async def test_one_of_three_waiters_is_cancelled(
    service: Service, model: ServedModel, networks: dict[str, Network]
) -> None:
    """Where one of three requests is cancelled, the others are answered, and its session keeps its state."""
    sessions = sessions_of(service, model, 3)
    inputs = random_inputs(1)
    tasks = [asyncio.create_task(step(model.batcher, session, inputs)) for session in sessions]
    await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    for result in (results[0], results[2]):
        np.testing.assert_allclose(result, offline(networks["lstm"], inputs), atol=1e-5)  # type: ignore[arg-type]
    assert [session.step for session in sessions] == [1, 0, 1]
    np.testing.assert_allclose(
        await step(model.batcher, sessions[1], inputs), offline(networks["lstm"], inputs), atol=1e-5
    )


async def test_an_engine_failure_reaches_every_waiter(
    service: Service, model: ServedModel, networks: dict[str, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails answers all its requests with EngineFailed, changes no state, and the next run works."""
    sessions = sessions_of(service, model, 4)
    inputs = random_inputs(3)
    await asyncio.gather(*(step(model.batcher, session, inputs[:2]) for session in sessions))

    def fail(_: object) -> None:
        raise RuntimeError("no run today")

    with monkeypatch.context() as patch:
        patch.setattr(model.runner, "run", fail)
        results = await asyncio.gather(
            *(step(model.batcher, session, inputs[2:]) for session in sessions), return_exceptions=True
        )
    assert [type(result) for result in results] == [EngineFailed] * 4
    assert [session.step for session in sessions] == [2] * 4
    for result in await asyncio.gather(*(step(model.batcher, session, inputs[2:]) for session in sessions)):
        np.testing.assert_allclose(result, offline(networks["lstm"], inputs)[2:], atol=1e-5)


@pytest.mark.parametrize("where", ["binding", "outputs"])
async def test_a_failure_before_or_after_the_run_reaches_every_waiter(
    service: Service, model: ServedModel, networks: dict[str, Network], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """A failure before or after the run answers all its requests with EngineFailed, and the next run works."""
    sessions = sessions_of(service, model, 3)
    inputs = random_inputs(3)
    await asyncio.gather(*(step(model.batcher, session, inputs[:2]) for session in sessions))

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        if where == "binding":
            patch.setattr(model.runner, "binding", fail)
        else:
            patch.setattr(Binding, "not_finite_rows", fail)
        results = await asyncio.gather(
            *(step(model.batcher, session, inputs[2:]) for session in sessions), return_exceptions=True
        )
    assert [type(result) for result in results] == [EngineFailed] * 3
    for result in await asyncio.gather(*(step(model.batcher, session, inputs[2:]) for session in sessions)):
        np.testing.assert_allclose(result, offline(networks["lstm"], inputs)[2:], atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
async def test_chunks_of_all_lengths_interleave_exactly(
    service: Service, model: ServedModel, networks: dict[str, Network], seed: int
) -> None:
    """Chunks of any lengths, arriving at any time and cut anywhere, give the outputs of the offline run."""
    rng = np.random.default_rng(seed)
    model.batcher.costs = Costs(run=1e-6, step=1e-6, row=float(rng.choice([1e-9, 1e-6, 1e-4])))

    async def stream(inputs: np.ndarray, lengths: list[int]) -> np.ndarray:
        (session,) = sessions_of(service, model, 1)
        outputs, at = [], 0
        for length in lengths:
            for _ in range(int(rng.integers(0, 4))):
                await asyncio.sleep(0)
            outputs.append(await step(model.batcher, session, inputs[at : at + length]))
            at += length
        return np.concatenate(outputs)

    cuts = [[int(n) for n in rng.integers(1, 20, 5)] for _ in range(16)]
    sequences = [random_inputs(sum(lengths), int(rng.integers(1 << 30))) for lengths in cuts]
    results = await asyncio.gather(*(stream(x, lengths) for x, lengths in zip(sequences, cuts, strict=True)))
    for result, inputs in zip(results, sequences, strict=True):
        np.testing.assert_allclose(result, offline(networks["lstm"], inputs), atol=1e-5)


async def test_a_cut_chunk_goes_on_where_it_was_cut(
    service: Service, model: ServedModel, networks: dict[str, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that has been run in part shares its next run with a new one of the same length."""
    first, second = sessions_of(service, model, 2)
    inputs = random_inputs(8)
    chunk, fresh = chunk_of(first, inputs), chunk_of(second, inputs)
    monkeypatch.setattr(chunk_module, "_steps_of_run", lambda chunks, limits, seconds: 4 if len(chunks) == 1 else 8)
    future = model.batcher.submit([chunk])
    await until(lambda: chunk.done > 0)
    assert chunk.done == 4
    await asyncio.gather(future, model.batcher.submit([fresh]))
    for each in (chunk, fresh):
        np.testing.assert_allclose(output_tensor(each.outputs), offline(networks["lstm"], inputs), atol=1e-5)


async def test_a_full_queue_refuses_at_once(service: Service, model: ServedModel) -> None:
    """A request beyond the queue's limit is refused at once, and those that wait are run."""
    sessions = sessions_of(service, model, 2)
    model.batcher._queue_limit = 5
    futures = [model.batcher.submit([chunk_of(sessions[0], random_inputs(1))]) for _ in range(5)]
    with pytest.raises(QueueFull) as refused:
        model.batcher.submit([chunk_of(sessions[1], random_inputs(1))])
    assert refused.value.retry_after is not None
    await asyncio.gather(*futures)
    assert (sessions[0].step, sessions[1].step) == (5, 0)


async def test_a_chunk_that_waited_too_long_is_not_run(service: Service, model: ServedModel, clock: FakeClock) -> None:
    """A chunk that has waited longer than its deadline is refused, and its session keeps its state."""
    (session,) = sessions_of(service, model, 1)
    chunk = chunk_of(session, random_inputs(1))
    future = model.batcher.submit([chunk])
    clock.advance(6)
    await future
    assert isinstance(chunk.error, DeadlineExceeded)
    assert session.step == 0


async def test_ending_a_session_refuses_its_waiting_chunks(service: Service, model: ServedModel) -> None:
    """Chunks that wait when their session is deleted are refused with SessionClosed."""
    (session,) = sessions_of(service, model, 1)
    await step(model.batcher, session, random_inputs(2))
    chunks = [chunk_of(session, random_inputs(1)) for _ in range(3)]
    futures = [model.batcher.submit([chunk]) for chunk in chunks]
    service.sessions.close(session)
    await asyncio.gather(*futures)
    assert [type(chunk.error) for chunk in chunks] == [SessionClosed] * 3


async def test_long_and_ragged_work_is_cut_and_exact(
    service: Service, model: ServedModel, networks: dict[str, Network]
) -> None:
    """Chunks and predictions of very different lengths, submitted at once, give the outputs of the offline run."""
    rng = np.random.default_rng(3)
    lengths = [int(n) for n in rng.integers(1, 60, 40)] + [900, 333]
    sequences = [random_inputs(length, length) for length in lengths]
    sessions: list[Session | None] = [*sessions_of(service, model, 20), *[None] * 22]
    chunks = [chunk_of(session, inputs) for session, inputs in zip(sessions, sequences, strict=True)]
    await asyncio.gather(*(model.batcher.submit([chunk]) for chunk in chunks))
    for chunk, inputs in zip(chunks, sequences, strict=True):
        np.testing.assert_allclose(output_tensor(chunk.outputs), offline(networks["lstm"], inputs), atol=1e-5)


async def test_steps_are_answered_before_long_work(service: Service, model: ServedModel) -> None:
    """A step that is submitted during a long prediction is answered before it."""
    (session,) = sessions_of(service, model, 1)
    long = chunk_of(None, random_inputs(30_000))
    done = model.batcher.submit([long])
    await asyncio.sleep(0)
    await step(model.batcher, session, random_inputs(1))
    assert not done.done()
    await done
    assert len(output_tensor(long.outputs)) == 30_000


async def test_a_cancelled_prediction_stops_and_frees_its_rows(service: Service, model: ServedModel) -> None:
    """A cancelled prediction is not run to its end, and its scratch rows are released."""
    chunk = chunk_of(None, random_inputs(60_000))
    future = model.batcher.submit([chunk])
    await until(lambda: chunk.done > 0)
    future.cancel()
    await until(lambda: model.batcher.waiting == 0)
    assert chunk.done < chunk.steps


async def test_closing_answers_every_request(service: Service, model: ServedModel) -> None:
    """Closing the batcher answers every request that waits."""
    (session,) = sessions_of(service, model, 1)
    chunks = [chunk_of(session, random_inputs(1)) for _ in range(3)]
    futures = [model.batcher.submit([chunk]) for chunk in chunks]
    model.batcher.close(ShuttingDown())
    await asyncio.wait_for(asyncio.gather(*futures), 5)
    assert all(chunk.error is None or isinstance(chunk.error, ServiceError) for chunk in chunks)
    assert any(chunk.error is not None for chunk in chunks)


async def test_closing_leaves_no_gap_in_a_session(service: Service, model: ServedModel) -> None:
    """When the batcher closes, a session takes no chunk that follows a refused one."""
    (session,) = sessions_of(service, model, 1)
    chunks = [chunk_of(session, random_inputs(length)) for length in (400, 1, 40)]
    futures = [model.batcher.submit([chunk]) for chunk in chunks]
    model.batcher.close(ShuttingDown())
    await asyncio.wait_for(asyncio.gather(*futures), 5)
    assert all(isinstance(chunk.error, ShuttingDown) for chunk in chunks[1:])
    assert session.step in (0, 400)
