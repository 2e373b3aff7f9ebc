"""A chunk: consecutive steps of one sequence; and a batch of chunks, run together."""

from collections import deque
from itertools import pairwise
from typing import Protocol

import numpy as np

from service.engine.arena import INITIAL, SINK
from service.engine.digest import digest, digest_of_one
from service.engine.outputs import OutputRow, RunOutputs, raw_outputs
from service.engine.runner import MAX_ROW_STEPS, Binding
from service.engine.work import (
    Dropped,
    Job,
    Outcome,
    Owner,
    Replay,
    RunLimits,
    Settled,
    Waiter,
    new_commit,
)
from service.errors import DeadlineExceeded, RequestCancelled, ServiceError, StateNotFinite

SHORT = 16
"""Chunks of a session of up to so many steps wait in the short line."""
ROUND_OVERHEAD = 4e-6
"""Seconds that it takes to pass one row through another round, beside the run."""


class ChunkOwner(Owner, Protocol):
    """An owner that numbers its steps and stores its last answer."""

    def check(self, chunk: "Chunk") -> Outcome | None:
        """Return how a chunk that is next ends without a run; None where it is to be run."""


class Chunk:
    """A job: `steps` consecutive steps of one sequence, of a session or, without an `owner`, on their own.

    `inputs` holds a raw tensor (steps, *shape) for each input. `number` is the index that the client gives the first
    step, 0 where it is unnumbered; `epoch` is the one that the client expects its session in, None where it names
    none; `name` is the client's name for an unnumbered request, "" where it has none. `keep` tells that the session is
    to advance. `done` counts the steps run so far; `slot` is the row that holds the state after them, leased by this
    chunk once done > 0. Of an answered chunk, `outputs` tells where its outputs are, `last_step` is the session's step
    after it, `replayed` that it is a stored answer, and `error` why it was not taken, None where it was.
    """

    __slots__ = (
        "done",
        "epoch",
        "error",
        "inputs",
        "keep",
        "last_step",
        "name",
        "number",
        "outputs",
        "owner",
        "replayed",
        "short",
        "slot",
        "steps",
        "waiter",
    )

    alone = False
    size = 1
    waiter: Waiter

    def __init__(
        self,
        owner: ChunkOwner | None,
        inputs: tuple[bytes, ...],
        steps: int,
        number: int = 0,
        epoch: int | None = None,
        name: str = "",
        keep: bool = True,
    ) -> None:
        self.owner, self.inputs, self.steps = owner, inputs, steps
        self.number, self.epoch, self.keep = number, epoch, keep
        self.name = "" if number else name
        self.short = owner is not None and steps <= SHORT
        self.done, self.slot, self.last_step, self.replayed = 0, INITIAL, 0, False
        self.outputs: list[OutputRow] = []
        self.error: ServiceError | None = None

    def digest(self) -> int:
        """Return what tells its content and name from another's."""
        return digest(self.inputs, self.name)

    def repeats(self, name: str, digest: int) -> bool:
        return self.name == name and self.digest() == digest

    def occupy(self) -> bool:
        owner = self.owner
        if owner is None:
            return True
        if owner.busy is None:
            owner.busy = self
            return True
        if owner.waiting is None:
            owner.waiting = deque()
        owner.waiting.append(self)
        return False

    def outcome(self, now: float) -> Outcome | None:
        waiter, owner = self.waiter, self.owner
        if waiter.future.done():
            return RequestCancelled()
        if now > waiter.deadline and not waiter.started:
            return DeadlineExceeded(waiter.deadline - waiter.since)
        if owner is None or self.done:
            return owner.ended if owner is not None else None
        if owner.ended is not None:
            return owner.ended
        if self.number or self.name or self.epoch is not None:
            return owner.check(self)
        return None

    def drop(self, outcome: Outcome, now: float) -> list[Dropped]:
        if isinstance(outcome, Replay):
            self.outputs, self.last_step, self.replayed = outcome.outputs, outcome.last_step, True
            if self.owner is not None:
                self.owner.used = now
        else:
            self.refuse(0, outcome)
        return [Dropped(self.owner, self, self.slot if self.done else INITIAL)]

    def refuse(self, row: int, error: ServiceError) -> None:
        self.error = error
        self.waiter.failed = True

    def gather(self, jobs: list[Job], limits: RunLimits, seconds: float, room: int) -> "ChunkBatch":
        chunks: list[Chunk] = jobs  # type: ignore[assignment]  # only chunks share a run
        return ChunkBatch(chunks, 1 if len(chunks) == self.steps == 1 else _steps_of_run(chunks, limits, seconds))

    def piece(self, index: int, steps: int, padded: int) -> bytes:
        """Return the next `steps` steps of an input, and zeros behind them up to `padded` steps."""
        data = self.inputs[index]
        size = len(data) // self.steps
        if steps == self.steps:
            return data if steps == padded else data.ljust(padded * size, b"\0")
        return data[self.done * size : (self.done + steps) * size].ljust(padded * size, b"\0")


def _steps_of_run(chunks: list[Chunk], limits: RunLimits, seconds: float) -> int:
    """Return for how many steps all rows run; a row that ends sooner is padded while that is cheaper than a run."""
    left = [chunk.steps - chunk.done for chunk in chunks]
    steps, longest = min(left), max(left)
    if longest == 1 or not limits.streams:
        return longest
    costs = limits.costs
    if steps < longest and limits.ragged:
        left.sort()
        padding = 0.0
        for rows, (ended, longer) in enumerate(pairwise(left), start=1):
            padding += rows * (longer - ended) * costs.row
            if padding > costs.run + ROUND_OVERHEAD * (len(left) - rows):
                break
            steps = longer
    most = min(costs.steps_within(seconds, len(chunks)), MAX_ROW_STEPS // len(chunks))
    return max(1, min(steps, most))


class ChunkBatch:
    """The work of one run: `steps` steps of each of several chunks, a row a chunk.

    A chunk with fewer steps left is padded; one with more goes on in a later run, from a scratch slot that it leases.
    """

    __slots__ = ("_chunks", "_write", "leases", "row_steps", "rows", "steps")

    def __init__(self, chunks: list[Chunk], steps: int) -> None:
        self._chunks, self.rows, self.steps, self.row_steps = chunks, len(chunks), steps, 0
        self.leases = 0
        for chunk in chunks:
            if chunk.keep or chunk.steps - chunk.done > steps:
                self.leases += 1
        self._write: list[int] = []

    def prepare(self, binding: Binding, slots: list[int]) -> None:
        chunks, steps = self._chunks, self.steps
        read, whole = [], True
        for chunk in chunks:
            owner = chunk.owner
            read.append(chunk.slot if owner is None or chunk.done else owner.slot)
            if chunk.steps != steps or chunk.done:
                whole = False
        if whole:  # all inputs of all chunks, one behind the other
            for index, raw in enumerate(binding.raw):
                raw[:] = chunks[0].inputs[index] if len(chunks) == 1 else b"".join([c.inputs[index] for c in chunks])
            lengths = None
        else:
            lengths = [min(steps, chunk.steps - chunk.done) for chunk in chunks]
            for index, raw in enumerate(binding.raw):
                pieces = zip(chunks, lengths, strict=True)
                raw[:] = b"".join([chunk.piece(index, length, steps) for chunk, length in pieces])
        if self.leases == len(chunks):
            self._write = slots
        else:
            fresh = iter(slots)
            self._write = [next(fresh) if c.keep or c.steps - c.done > steps else SINK for c in chunks]
        binding.set_rows(read, self._write, lengths)

    def settle(self, outputs: RunOutputs, not_finite: np.ndarray | None, now: float) -> Settled:
        settled = Settled([], [], [], [])
        commits, dropped, unfinished, released = settled
        steps, write = self.steps, self._write
        for row, chunk in enumerate(self._chunks):
            slot = write[row]
            owner, left = chunk.owner, chunk.steps - chunk.done
            if chunk.done:
                released.append(chunk.slot)
            cancelled = chunk.waiter.future.done()
            if cancelled or (not_finite is not None and not_finite[row]):
                chunk.refuse(0, RequestCancelled() if cancelled else StateNotFinite())
                dropped.append(Dropped(owner, chunk, slot))
            else:
                taken = steps if steps < left else left
                self.row_steps += taken
                chunk.outputs.append((outputs, row, taken))
                if taken < left:
                    chunk.done, chunk.slot = chunk.done + taken, slot
                    unfinished.append(chunk)
                elif owner is None or not chunk.keep:
                    if owner is not None:
                        self._peeked(chunk, owner, now)
                    dropped.append(Dropped(owner, chunk, slot))
                else:
                    chunk.last_step = last_step = owner.step + chunk.steps
                    inputs, name = chunk.inputs, chunk.name
                    content = digest_of_one(inputs[0]) if len(inputs) == 1 and not name else digest(inputs, name)
                    in_one_run = taken == chunk.steps == steps
                    answer = (outputs.raw or outputs.raw_rows())[row] if in_one_run else raw_outputs(chunk.outputs)
                    commits.append(new_commit((owner, slot, last_step, content, answer, chunk, 0)))
        return settled

    def _peeked(self, chunk: Chunk, owner: ChunkOwner, now: float) -> None:
        """Note that a session was used, though not advanced, unless it has ended meanwhile."""
        if owner.ended is not None:
            chunk.refuse(0, owner.ended)
        else:
            chunk.last_step, owner.used = owner.step + chunk.steps, now

    def fail(self, error: ServiceError, now: float) -> list[Dropped]:
        return [row for chunk in self._chunks for row in chunk.drop(error, now)]
