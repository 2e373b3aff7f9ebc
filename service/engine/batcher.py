"""The batcher: who runs together. Everyone who waits is answered exactly once.

Batching is natural: while a run goes on, or while the loop reads ready sockets, chunks gather; the next turn takes
them all, at most one of each session. There is no timer.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import structlog

from service.engine.arena import SINK
from service.engine.queue import Lane, Lanes
from service.engine.runner import MAX_ROW_STEPS, Binding, Costs, Engine
from service.engine.statistics import Tally
from service.engine.work import Chunk, Entry, FleetStep, Outputs, Owner
from service.errors import DeadlineExceeded, EngineFailed, QueueFull, ServiceError, ShuttingDown, StateNotFinite

MAX_FLEET_ROW_STEPS = 512
"""Rows × steps of one run of a fleet step: more of them no longer fit the caches, and each costs more."""
HANDLING = 4e-6
"""Seconds it takes to pass a row through one more turn, beside the run."""
ALONE = 1e-4
"""Seconds since the last turn after which nobody is expected to join: waiting for the loop would be for nothing."""

_Settle = Callable[[list[int], Outputs | None, np.ndarray | None], None]

_log = structlog.get_logger()


class Batcher:
    """Queues chunks for one engine and runs them in turns.

    A chunk is in exactly one of: its session's chain behind another one, a lane, the running batch, or settled.
    `waiting` counts entries that are not settled.
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
        if not engine.card.streams:  # its sequences are never cut, so each runs alone and for as long as it is
            self.max_rows = 1
        self._lanes = Lanes()
        self._turn_ended, self._was_alone = clock(), True
        self._scheduled = False
        self._closed: ServiceError | None = None
        self._thread = None if inline else ThreadPoolExecutor(1, thread_name_prefix=f"engine-{engine.card.name}")
        self.waiting = 0
        self.runs = self.rows = self.row_steps = 0
        self.tally = Tally()

    def __repr__(self) -> str:
        return f"<Batcher {self.waiting} waiting, {self._lanes!r} ready>"

    def submit(self, chunks: Sequence[Chunk], patience: float = math.inf) -> "asyncio.Future[None]":
        """Queue chunks as one entry; the future is done when each has its results or its error.

        They wait for `patience` seconds at most, and never longer than any entry may.

        Raises:
            QueueFull: As many entries as allowed are waiting; nothing was queued.
        """
        now = self._clock()
        entry = self._admit(len(chunks), now, patience)
        for chunk in chunks:
            chunk.entry = entry
            owner = chunk.owner
            if owner is not None:
                before, owner.last = owner.last, chunk
                if before is not None:
                    owner.behind += 1
                    if isinstance(before, FleetStep):
                        before.following[id(owner)] = chunk
                    else:
                        before.following = chunk
                    continue
            self._lanes.of(chunk).append(chunk)
        if not self._scheduled:
            self._call_turn(now)
        return entry.future

    def submit_fleet(self, fleet: FleetStep, patience: float = math.inf) -> "asyncio.Future[None]":
        """Queue a fleet step of distinct idle owners; the future is done when every row has its result or its error.

        It waits as `submit` says.

        Raises:
            QueueFull: As many entries as allowed are waiting; nothing was queued.
        """
        now = self._clock()
        fleet.entry = self._admit(1, now, patience)
        for owner in fleet.owners:
            owner.last = fleet
        self._lanes.short.append(fleet)
        if not self._scheduled:
            self._call_turn(now)
        return fleet.entry.future

    def _admit(self, parts: int, now: float, patience: float = math.inf) -> Entry:
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        if self.waiting >= self._queue_limit:
            raise QueueFull(self._queue_limit)
        self.waiting += 1
        deadline = now + min(self._deadline, patience)
        return Entry(parts, asyncio.get_running_loop().create_future(), now, deadline)

    def _call_turn(self, now: float) -> None:
        """Have a turn taken: soon, so that others can join it, or at once where nobody else has been seen lately."""
        self._scheduled = True
        if self.inline and self._was_alone and now - self._turn_ended > ALONE:
            self._turn()
        else:
            asyncio.get_running_loop().call_soon(self._turn)

    def close(self, why: ServiceError) -> None:
        """Answer everybody who waits, and whoever comes, why nothing is run any more."""
        self._closed = why
        self._refuse_all(why)
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _refuse_all(self, why: ServiceError) -> None:
        lanes = self._lanes
        while lanes:  # a chunk that fails makes its session's next one ready
            work = (lanes.short or lanes.long).popleft()
            if isinstance(work, FleetStep):
                self._end_fleet(work, why, self._clock())
            else:
                self._fail(work, why, self._clock())

    def _turn(self) -> None:
        """Take a batch, run it, settle it: on the loop, or in the engine's thread."""
        if self._closed is not None:
            self._refuse_all(self._closed)
            return
        now = self._clock()
        lane = self._lanes.next(now)
        work, steps = self._take(lane, now)
        if not work:
            self._go_on()
            return
        prepare: Callable[[], tuple[Binding, list[int]]]
        settle: _Settle
        if isinstance(work, FleetStep):
            prepare, settle = partial(self._prepare_fleet, work, steps), partial(self._settle_fleet, work)
        else:
            prepare, settle = partial(self._prepare, work, steps), partial(self._settle, work)
        failure: BaseException | None = None
        binding: Binding | None = None
        write: list[int] = []
        begun = now
        try:  # whatever is raised from here on, every waiter is answered
            binding, write = prepare()
            begun = self._clock()
            if self._thread is not None:
                run = asyncio.get_running_loop().run_in_executor(self._thread, self._engine.run, binding)
                run.add_done_callback(
                    lambda run: self._end_turn(lane, (now, begun), settle, binding, write, run.exception())
                )
                return
            self._engine.run(binding)
        except Exception as exc:
            failure = exc
        self._end_turn(lane, (now, begun), settle, binding, write, failure)

    def _end_turn(
        self,
        lane: Lane,
        times: tuple[float, float],
        settle: _Settle,
        binding: Binding | None,
        write: list[int],
        failure: BaseException | None,
    ) -> None:
        """Read what a run gave, settle its work, and note when the long lane may go again.

        `times` are when the turn and when the run began.
        """
        outputs, bad, ended = None, None, self._clock()
        if binding is not None and failure is None:
            try:
                outputs = Outputs([tensor.copy() for tensor in binding.outputs])
                bad = binding.unfinite_rows()
            except Exception as exc:
                outputs, failure = None, exc
        if outputs is None:
            _log.error("engine_failed", model=self._engine.card.name, error=repr(failure))
        else:
            self.runs += 1
        settle(write, outputs, bad)
        self._turn_ended = end = self._clock()
        if outputs is not None:
            self.tally.ran(len(write), *times, ended, end)
        self._was_alone = len(write) == 1
        self._lanes.took(lane, times[0], end)
        self._go_on()

    def _go_on(self) -> None:
        """Take another turn while anybody waits; long chunks alone may have to rest first."""
        if self._closed is not None:
            self._refuse_all(self._closed)
        self._scheduled = bool(self._lanes)
        if not self._scheduled:
            return
        loop, pause = asyncio.get_running_loop(), self._lanes.pause(self._clock())
        if pause:
            self._scheduled = False
            loop.call_later(pause, self._wake)
        else:
            loop.call_soon(self._turn)

    def _wake(self) -> None:
        """Go on with long chunks that have rested, unless a turn is due anyway."""
        if not self._scheduled:
            self._go_on()

    def _take(self, lane: Lane, now: float) -> tuple[list[Chunk] | FleetStep, int]:
        """Return a lane's next batch, or the fleet step that is next, and how many time steps it runs."""
        seconds = self._turn_seconds / (4 if self._lanes.short_are_coming(now) else 2)
        batch: list[Chunk] = []
        begun, waited = 0, 0.0
        room = self.max_rows if lane is self._lanes.short else min(self.max_rows, self.costs.rows_within(seconds))
        while lane and room:
            chunk = lane.popleft()
            if isinstance(chunk, FleetStep):
                if batch:
                    lane.appendleft(chunk)
                    break
                if self._fleet_waits(chunk, now):
                    return chunk, chunk.steps
                continue
            entry, owner = chunk.entry, chunk.owner
            if entry.future.done():  # its waiter was cancelled
                self._fail(chunk, None, now)
            elif now > entry.deadline and not entry.started:
                self._fail(chunk, DeadlineExceeded(entry.deadline - entry.since), now)
            elif owner is not None and owner.ended is not None:
                self._fail(chunk, owner.ended, now)
            elif (
                owner is not None
                and not chunk.done
                and (chunk.number or chunk.request or chunk.epoch is not None)  # else it just advances
                and owner.settles(chunk)
            ):
                if chunk.replayed:
                    owner.used = now
                self._answer(chunk, now)
            else:
                if not entry.started:
                    entry.started = True
                    begun += 1
                    waited += now - entry.since
                batch.append(chunk)
                room -= 1
        self.tally.began(begun, waited)
        return batch, self._steps_to_run(batch, seconds)

    def _steps_to_run(self, batch: list[Chunk], seconds: float) -> int:
        """Return for how many steps all rows run; a row that ends sooner is padded while that is cheaper than a run."""
        left = [chunk.steps - chunk.done for chunk in batch]
        steps, longest = min(left, default=1), max(left, default=1)
        if longest == 1 or not self._engine.card.streams:
            return longest
        if steps < longest and self._engine.card.ragged:
            left.sort()
            padding = 0.0
            for rows, (ended, longer) in enumerate(pairwise(left), start=1):
                padding += rows * (longer - ended) * self.costs.row
                if padding > self.costs.run + HANDLING * (len(left) - rows):
                    break
                steps = longer
        limit = min(self.costs.steps_within(seconds, len(batch)), MAX_ROW_STEPS // len(batch))
        return max(1, min(steps, limit))

    def _prepare(self, batch: list[Chunk], steps: int) -> tuple[Binding, list[int]]:
        """Fill a binding: inputs, lengths, the slot each chunk reads and a fresh one that it writes."""
        binding = self._engine.binding(len(batch), steps)
        lengths = None
        if all(chunk.steps == steps and not chunk.done for chunk in batch):  # whole payloads, one behind the other
            for index, raw in enumerate(binding.raw):
                raw[:] = b"".join([chunk.inputs[index] for chunk in batch])
            ends = [not chunk.commit for chunk in batch]
        else:
            left = [chunk.steps - chunk.done for chunk in batch]
            lengths = [min(steps, count) for count in left]
            for index, raw in enumerate(binding.raw):
                pieces = zip(batch, lengths, strict=True)
                raw[:] = b"".join([chunk.piece(index, length, steps) for chunk, length in pieces])
            ends = [not chunk.commit and count <= steps for chunk, count in zip(batch, left, strict=True)]
        binding.set_lengths(lengths)
        slots = iter(self._slots.lease_many(len(batch) - sum(ends)))
        write = [SINK if end else next(slots) for end in ends]
        read = [chunk.slot if chunk.owner is None or chunk.done else chunk.owner.slot for chunk in batch]
        binding.set_slots(read, write)
        return binding, write

    def _settle(self, batch: list[Chunk], write: list[int], outputs: Outputs | None, bad: np.ndarray | None) -> None:
        """Flip what went well, let go of what did not, answer who is done, queue the rest again.

        Without outputs the run failed; without slots it was not even prepared.
        """
        now = self._clock()
        if outputs is None:
            for slot in write:
                self._slots.release(slot)
            for chunk in batch:
                self._fail(chunk, EngineFailed(), now)
            return
        steps = outputs.steps
        self.rows += len(batch)
        again: list[Chunk] = []
        for row, chunk in enumerate(batch):
            slot = write[row]
            if chunk.entry.future.done() or (bad is not None and bad[row]):
                self._slots.release(slot)
                self._fail(chunk, StateNotFinite(), now)
                continue
            if chunk.done:
                self._slots.release(chunk.slot)
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
            self._lanes.of(chunk).appendleft(chunk)

    def _fleet_waits(self, fleet: FleetStep, now: float) -> bool:
        """Tell whether a fleet step is still to be run; end it where it is not."""
        entry = fleet.entry
        if entry.future.done() or (now > entry.deadline and not entry.started):
            self._end_fleet(fleet, DeadlineExceeded(entry.deadline - entry.since), now)
            return False
        if not entry.started:
            entry.started = True
            self.tally.began(1, now - entry.since)
        return True

    def _prepare_fleet(self, fleet: FleetStep, steps: int) -> tuple[Binding, list[int]]:
        """Fill a binding with as many of the fleet's rows as fit a turn."""
        turn = self.costs.rows_within(self._turn_seconds / steps) if self.inline else self.max_rows
        owners = fleet.rows(max(1, min(self.max_rows, turn, MAX_FLEET_ROW_STEPS // steps)))
        binding = self._engine.binding(len(owners), steps)
        fleet.fill(binding)
        binding.set_lengths(None)
        read = [owner.slot for owner in owners]
        write = self._slots.lease_many(len(owners))
        binding.set_slots(read, write)
        return binding, write

    def _settle_fleet(
        self, fleet: FleetStep, write: list[int], outputs: Outputs | None, bad: np.ndarray | None
    ) -> None:
        """Flip the rows that went well; answer when all rows have been run, else queue the rest."""
        now = self._clock()
        if outputs is None:
            self._slots.release_many(write)
            self._end_fleet(fleet, EngineFailed(), now)
            return
        owners, steps = fleet.rows(len(write)), fleet.steps
        self.rows += len(owners)
        self.row_steps += steps * len(owners)
        freed: list[int] = []
        rows = zip(owners, write, fleet.digests(len(owners)), outputs.raw_rows(), strict=True)
        for row, (owner, slot, content, answer) in enumerate(rows):
            if owner.ended is not None or (bad is not None and bad[row]):
                fleet.errors[fleet.at + row] = owner.ended or StateNotFinite()
                freed.append(slot)
                self.row_steps -= steps
            else:
                gone = owner.advanced(slot, steps, content, answer, now)
                if gone > SINK:
                    freed.append(gone)
            if owner.last is fleet:
                owner.last = None
            else:
                self._pass_on(owner, fleet)
        fleet.last_steps += [owner.step for owner in owners]
        self._slots.release_many(freed)
        fleet.parts.append(outputs)
        fleet.at += len(owners)
        if fleet.at == len(fleet.owners):
            self._end_fleet(fleet, None, now)
        else:
            self._lanes.short.append(fleet)

    def _end_fleet(self, fleet: FleetStep, error: ServiceError | None, now: float) -> None:
        """Answer a fleet step; rows that were not run carry the error."""
        for row in range(fleet.at, len(fleet.owners)):
            fleet.errors[row] = error or ShuttingDown()
            self._pass_on(fleet.owners[row], fleet)
        fleet.entry.failed = len(fleet.errors) == len(fleet.owners)
        self._answer_entry(fleet.entry, now)

    def _pass_on(self, owner: Owner, fleet: FleetStep) -> None:
        """Make a chunk that came for the owner meanwhile ready."""
        if owner.last is fleet:
            owner.last = None
        else:
            following = fleet.following[id(owner)]
            owner.behind -= 1
            self._lanes.of(following).append(following)

    def _finish(self, chunk: Chunk, now: float) -> None:
        """Commit a chunk whose steps have all been run."""
        owner, gone = chunk.owner, chunk.slot
        if owner is not None:
            chunk.last_step = owner.step + chunk.steps
            if owner.ended is not None:  # while the engine ran
                chunk.error = owner.ended
            elif not chunk.commit:
                owner.used = now
            else:
                gone = owner.advanced(chunk.slot, chunk.steps, chunk.content(), chunk.raw_outputs(), now)
        self._slots.release(gone)
        self._answer(chunk, now)

    def _fail(self, chunk: Chunk, error: ServiceError | None, now: float) -> None:
        """Take a chunk out: nothing has happened to its session."""
        if chunk.done:
            self._slots.release(chunk.slot)
        chunk.error = chunk.error or error
        self._answer(chunk, now)

    def _answer(self, chunk: Chunk, now: float) -> None:
        """Settle a chunk; its session's next one is ready, its entry is answered when it was the last."""
        owner = chunk.owner
        if owner is not None:
            if owner.last is chunk:
                owner.last = None
            elif chunk.following is not None:
                owner.behind -= 1
                self._lanes.of(chunk.following).append(chunk.following)
        if chunk.error is not None:
            chunk.entry.failed = True
        self._answer_entry(chunk.entry, now)

    def _answer_entry(self, entry: Entry, now: float) -> None:
        entry.open -= 1
        if entry.open == 0:
            self.waiting -= 1
            tally = self.tally  # counted here: a call would cost more than the counting
            span = tally.failed if entry.failed or entry.future.cancelled() else tally.succeeded
            span.count += 1
            span.seconds += now - entry.since
            tally.last = now
            if not entry.future.done():
                entry.future.set_result(None)
