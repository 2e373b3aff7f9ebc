"""The batcher: who runs together. Everyone who waits is answered exactly once.

Batching is natural: while a run goes on, or while the loop reads ready sockets, chunks gather; the next turn takes
them all, at most one of each session. There is no timer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Protocol

import numpy as np
import structlog

from service.arena import INITIAL, SINK
from service.engine import MAX_ROW_STEPS, Binding, Costs, Engine
from service.errors import DeadlineExceeded, EngineFailed, QueueFull, ServiceError, ShuttingDown, StateNotFinite

SHORT = 16
"""Chunks of up to so many steps go before longer ones, which take every other turn while short ones wait."""

_log = structlog.get_logger()


class Outputs:
    """What one run gave: a tensor (batch, time, *shape) for each output, shared by all rows of that run."""

    __slots__ = ("json", "tensors")

    def __init__(self, tensors: list[np.ndarray]) -> None:
        self.tensors = tensors
        self.json: list[bytes] | None = None
        """Each row's first output as JSON, filled by the codec when the first row asks."""


class Owner(Protocol):
    """Whose state a chunk advances; a session is one. `last` is the newest of its chunks that is not settled."""

    slot: int
    step: int
    last: "Chunk | None"

    def advanced(self, slot: int, steps: int, now: float) -> None:
        """Point at the row that was written, `steps` time steps on."""

    def refusal(self) -> ServiceError | None:
        """Return why no further step can be taken, if so."""


class Chunk:
    """Consecutive steps of one sequence, on their way through the engine.

    `done` counts the steps run. `slot` is the row that holds the state after them; once done > 0 that row is leased
    by this chunk. `results` holds (outputs of a run, row, steps). `following` is the same owner's next chunk;
    `last_step` the owner's step once this chunk is committed.
    """

    __slots__ = (
        "_views",
        "done",
        "entry",
        "error",
        "following",
        "inputs",
        "last_step",
        "owner",
        "results",
        "slot",
        "steps",
    )

    def __init__(self, owner: "Owner | None", inputs: tuple[bytes, ...], steps: int) -> None:
        self.owner, self.inputs, self.steps = owner, inputs, steps
        self.done, self.slot, self.last_step = 0, INITIAL, 0
        self.results: list[tuple[Outputs, int, int]] = []
        self.error: ServiceError | None = None
        self.following: Chunk | None = None
        self._views: list[np.ndarray] | None = None
        self.entry: Entry

    def fill(self, binding: Binding, row: int, steps: int) -> None:
        """Copy the next `steps` steps into a row of a binding."""
        if self._views is None:
            self._views = [
                np.frombuffer(data, view.dtype).reshape(self.steps, *view.shape[2:])
                for data, view in zip(self.inputs, binding.inputs, strict=True)
            ]
        for view, into in zip(self._views, binding.inputs, strict=True):
            into[row, :steps] = view[self.done : self.done + steps]
            into[row, steps:] = 0


class Entry:
    """One place in the queue: chunks that are answered together. `open` counts those not yet settled.

    The deadline is for the wait: an entry that has been `started` is finished.
    """

    __slots__ = ("deadline", "future", "open", "started")

    def __init__(self, chunks: int, future: "asyncio.Future[None]", deadline: float) -> None:
        self.open, self.future, self.deadline, self.started = chunks, future, deadline, False


class Batcher:
    """Queues chunks for one engine and runs them in turns.

    A chunk is in exactly one of: its session's chain behind another one, `_short`, `_long`, the running batch, or
    settled. `waiting` counts entries that are not settled.
    """

    def __init__(
        self,
        engine: Engine,
        costs: Costs,
        *,
        turn: float,
        inline: bool,
        queue_limit: int,
        deadline: float,
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._slots = engine, engine.arena.slots
        self.costs, self.inline = costs, inline
        self._queue_limit, self._deadline, self._clock = queue_limit, deadline, clock
        self._turn_seconds = turn
        self.max_rows = min(engine.card.max_batch, MAX_ROW_STEPS)
        if inline:
            self.max_rows = min(self.max_rows, costs.rows_within(turn))
        self._short: deque[Chunk] = deque()
        self._long: deque[Chunk] = deque()
        self._long_was_last = True
        self._scheduled = False
        self._closed = False
        self._thread = None if inline else ThreadPoolExecutor(1, thread_name_prefix=f"engine-{engine.card.name}")
        self.waiting = 0
        self.runs = self.rows = self.row_steps = 0

    def __repr__(self) -> str:
        return f"<Batcher {self.waiting} waiting, {len(self._short)} short and {len(self._long)} long ready>"

    # ------------------------------------------------------------------ in

    def submit(self, chunks: Sequence[Chunk]) -> "asyncio.Future[None]":
        """Queue chunks as one entry; the future is done when each has its results or its error.

        Raises:
            QueueFull: As many entries as allowed are waiting; nothing was queued.
        """
        if self._closed:
            raise ShuttingDown
        if self.waiting >= self._queue_limit:
            raise QueueFull(self._queue_limit)
        self.waiting += 1
        loop = asyncio.get_running_loop()
        entry = Entry(len(chunks), loop.create_future(), self._clock() + self._deadline)
        for chunk in chunks:
            chunk.entry = entry
            owner = chunk.owner
            if owner is not None:
                before, owner.last = owner.last, chunk
                if before is not None:
                    before.following = chunk
                    continue
            self._lane(chunk).append(chunk)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._turn)
        return entry.future

    def _lane(self, chunk: Chunk) -> deque[Chunk]:
        return self._short if chunk.steps <= SHORT else self._long

    def close(self) -> None:
        """Answer everybody who waits that the service is going away."""
        self._closed = True
        for lane in (self._short, self._long):
            while lane:
                self._fail(lane.popleft(), ShuttingDown())
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    # ------------------------------------------------------------------ a turn

    def _turn(self) -> None:
        """Take a batch, run it, settle it: on the loop, or in the engine's thread."""
        batch, steps = self._take(self._clock())
        if not batch:
            self._go_on()
            return
        binding, write = self._prepare(batch, steps)
        if self._thread is None:
            failure = None
            try:
                self._engine.run(binding)
            except Exception as exc:  # whatever onnxruntime raises, every waiter is answered
                failure = exc
            self._settle(batch, binding, write, failure)
            return
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._engine.run, binding)
        done.add_done_callback(lambda run: self._settle(batch, binding, write, run.exception()))

    def _go_on(self) -> None:
        """Take another turn while anybody waits."""
        self._scheduled = bool(self._short or self._long)
        if self._scheduled:
            asyncio.get_running_loop().call_soon(self._turn)

    def _take(self, now: float) -> tuple[list[Chunk], int]:
        """Return the next batch, and how many time steps it runs; both lanes in turn while both wait."""
        long = bool(self._long) and (not self._short or not self._long_was_last)
        self._long_was_last = long
        lane = self._long if long else self._short
        batch: list[Chunk] = []
        room = self.max_rows
        while lane and room:
            chunk = lane.popleft()
            entry, owner = chunk.entry, chunk.owner
            if entry.future.done():  # its waiter was cancelled
                self._fail(chunk, None)
            elif now > entry.deadline and not entry.started:
                self._fail(chunk, DeadlineExceeded(self._deadline))
            elif owner is not None and (refusal := owner.refusal()) is not None:
                self._fail(chunk, refusal)
            else:
                entry.started = True
                batch.append(chunk)
                room -= 1
        return batch, self._steps_to_run(batch)

    def _steps_to_run(self, batch: list[Chunk]) -> int:
        """Return for how many steps all rows run; a row that ends sooner is padded while that is cheaper than a run."""
        left = [chunk.steps - chunk.done for chunk in batch]
        steps, longest = min(left, default=1), max(left, default=1)
        if longest == 1:
            return 1
        if steps < longest and self._engine.card.ragged:
            left.sort()
            padding = 0.0
            for rows, (ended, longer) in enumerate(pairwise(left), start=1):
                padding += rows * (longer - ended) * self.costs.row
                if padding > self.costs.run:
                    break
                steps = longer
        limit = min(self.costs.steps_within(self._turn_seconds / 2, len(batch)), MAX_ROW_STEPS // len(batch))
        return max(1, min(steps, limit))

    def _prepare(self, batch: list[Chunk], steps: int) -> tuple[Binding, list[int]]:
        """Fill a binding: inputs, lengths, the slot each chunk reads and a fresh one that it writes."""
        binding = self._engine.binding(len(batch), steps)
        lengths = None
        if all(chunk.steps == steps for chunk in batch):
            for index, raw in enumerate(binding.raw):
                raw[:] = b"".join([chunk.inputs[index] for chunk in batch])
        else:
            lengths = [min(steps, chunk.steps - chunk.done) for chunk in batch]
            for row, (chunk, length) in enumerate(zip(batch, lengths, strict=True)):
                chunk.fill(binding, row, length)
        binding.set_lengths(lengths)
        lease = self._slots.lease
        write = [SINK if chunk.owner is None and chunk.steps - chunk.done <= steps else lease() for chunk in batch]
        binding.set_slots(
            [chunk.slot if chunk.owner is None or chunk.done else chunk.owner.slot for chunk in batch], write
        )
        return binding, write

    def _settle(self, batch: list[Chunk], binding: Binding, write: list[int], failure: BaseException | None) -> None:
        """Flip what went well, let go of what did not, answer who is done, queue the rest again."""
        if failure is not None:
            _log.error("engine_failed", model=self._engine.card.name, batch=len(batch), error=str(failure))
            for chunk, slot in zip(batch, write, strict=True):
                self._release(slot)
                self._fail(chunk, EngineFailed())
            self._go_on()
            return
        steps, now = binding.steps, self._clock()
        outputs = Outputs([tensor.copy() for tensor in binding.outputs])
        bad = binding.unfinite_rows()
        self.runs += 1
        self.rows += len(batch)
        again: list[Chunk] = []
        for row, chunk in enumerate(batch):
            slot = write[row]
            if chunk.entry.future.done() or (bad is not None and bad[row]):
                self._release(slot)
                self._fail(chunk, StateNotFinite())
                continue
            if chunk.done:
                self._release(chunk.slot)
            left = chunk.steps - chunk.done
            taken = steps if steps < left else left
            self.row_steps += taken
            chunk.slot = slot
            chunk.done += taken
            chunk.results.append((outputs, row, taken))
            if taken < left:
                again.append(chunk)
            else:
                self._finish(chunk, now)
        for chunk in reversed(again):
            self._lane(chunk).appendleft(chunk)
        self._go_on()

    # ------------------------------------------------------------------ out

    def _finish(self, chunk: Chunk, now: float) -> None:
        """Commit a chunk whose steps have all been run."""
        owner = chunk.owner
        if owner is None:
            self._release(chunk.slot)
        elif (refusal := owner.refusal()) is not None:  # it ended while the engine ran
            chunk.error = refusal
            self._release(chunk.slot)
        else:
            self._release(owner.slot)
            owner.advanced(chunk.slot, chunk.steps, now)
            chunk.last_step = owner.step
        self._answer(chunk)

    def _fail(self, chunk: Chunk, error: ServiceError | None) -> None:
        """Take a chunk out: nothing has happened to its session."""
        if chunk.done:
            self._release(chunk.slot)
        chunk.error = chunk.error or error
        self._answer(chunk)

    def _answer(self, chunk: Chunk) -> None:
        """Settle a chunk; its session's next one is ready, its entry is answered when it was the last."""
        owner = chunk.owner
        if owner is not None:
            if owner.last is chunk:
                owner.last = None
            elif chunk.following is not None:
                self._lane(chunk.following).append(chunk.following)
        entry = chunk.entry
        entry.open -= 1
        if entry.open == 0:
            self.waiting -= 1
            if not entry.future.done():
                entry.future.set_result(None)

    def _release(self, slot: int) -> None:
        if slot > SINK:
            self._slots.release(slot)
