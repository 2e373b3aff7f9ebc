"""What waits for the engine: chunks, fleet steps, and the entries of the queue that they belong to."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from service.engine.arena import INITIAL
from service.engine.runner import Binding
from service.errors import ServiceError

SHORT = 16
"""Chunks of up to so many steps go before longer ones, which take every other turn while short ones wait."""


class Outputs:
    """What one run gave: a tensor (batch, time, *shape) for each output, shared by all rows of that run."""

    __slots__ = ("flat", "json", "raw", "steps", "tensors")

    def __init__(self, tensors: list[np.ndarray]) -> None:
        self.tensors, self.steps = tensors, tensors[0].shape[1]
        self.json: list[bytes] | None = None
        """Each row's first output as JSON, filled by the codec when the first row asks."""
        self.flat: list[bytes] | None = None
        """Likewise without inner brackets: the numbers of a row, row-major."""
        self.raw: list[bytes] | None = None
        """Each row's outputs as raw bytes, one output behind the other; likewise, by `raw_rows`."""

    def raw_rows(self) -> list[bytes]:
        """Return all outputs of each row as raw bytes, one output behind the other."""
        if self.raw is None:
            if len(self.tensors) == 1:
                raw, rows = self.tensors[0].tobytes(), len(self.tensors[0])
                size = len(raw) // rows
                self.raw = [raw] if rows == 1 else [raw[at : at + size] for at in range(0, len(raw), size)]
            else:
                self.raw = [b"".join([each.tobytes() for each in row]) for row in zip(*self.tensors, strict=True)]
        return self.raw


class Owner(Protocol):
    """Whose state a chunk advances; a session is one.

    `last` is the newest of its chunks that are not settled, `behind` counts those behind the first, `used` is when it
    was last stepped, peeked at or answered again, and `ended` says why no further step can be taken, if so.
    """

    slot: int
    step: int
    last: "Chunk | FleetStep | None"
    behind: int
    used: float
    ended: ServiceError | None

    def settles(self, chunk: "Chunk") -> bool:
        """Settle a chunk that is next but must not run; return whether it did."""

    def advanced(self, slot: int, steps: int, content: int, answer: bytes, now: float) -> int:
        """Point at the row that was written, `steps` time steps on, and return the row that is let go."""


class Chunk:
    """Consecutive steps of one sequence, on their way through the engine.

    `done` counts the steps run. `slot` is the row that holds the state after them; once done > 0 that row is leased
    by this chunk. `results` holds (outputs of a run, row, steps). `following` is the same owner's next chunk;
    `last_step` the owner's step once this chunk is committed. `number` is the step that the client takes the first of
    its steps for, 0 where it does not say, and `epoch` likewise; `request` is what it calls the request, if it does.
    `commit` tells that the owner's state is to move; `replayed` that the results are the stored answer.
    """

    __slots__ = (
        "commit",
        "done",
        "entry",
        "epoch",
        "error",
        "following",
        "inputs",
        "last_step",
        "number",
        "owner",
        "replayed",
        "request",
        "results",
        "slot",
        "steps",
    )

    def __init__(self, owner: "Owner | None", inputs: tuple[bytes, ...], steps: int) -> None:
        self.owner, self.inputs, self.steps = owner, inputs, steps
        self.done, self.slot, self.last_step, self.number = 0, INITIAL, 0, 0
        self.epoch: int | None = None
        self.commit, self.replayed, self.request = owner is not None, False, ""
        self.results: list[tuple[Outputs, int, int]] = []
        self.error: ServiceError | None = None
        self.following: Chunk | None = None
        self.entry: Entry

    def content(self) -> int:
        """Return what tells its content from another's: its inputs', and its name where it has no number.

        It is 64 bits of Python's keyed hash: a request that differs in a bit has another but for one chance in 2^64,
        which nobody can seek without this process's random key.
        """
        inputs, request = self.inputs, self.request
        if request and not self.number:
            return hash((request, inputs))
        return hash(inputs[0]) if len(inputs) == 1 else hash(inputs)

    def raw_outputs(self) -> bytes:
        """Return all outputs as raw bytes, one behind the other, each (steps, *shape)."""
        results = self.results
        if len(results) == 1:
            outputs, row, steps = results[0]
            if steps == outputs.steps:
                return (outputs.raw or outputs.raw_rows())[row]
        parts = range(len(results[0][0].tensors))
        return b"".join([run.tensors[k][row, :steps].tobytes() for k in parts for run, row, steps in results])

    def piece(self, index: int, steps: int, padded: int) -> bytes:
        """Return the next `steps` steps of an input, behind which zeros make up `padded` steps."""
        data = self.inputs[index]
        size = len(data) // self.steps
        if steps == self.steps:
            return data if steps == padded else data.ljust(padded * size, b"\0")
        return data[self.done * size : (self.done + steps) * size].ljust(padded * size, b"\0")


class FleetStep:
    """The same number of steps of many sessions, in one piece; all of them were idle when it was queued.

    `at` counts the owners whose rows have been run, `parts` holds what those runs gave, in order. `following` holds
    the chunks that came for its owners meanwhile. `errors` tells of rows that were not taken, by row.
    """

    __slots__ = ("at", "entry", "errors", "following", "inputs", "last_steps", "owners", "parts", "steps")

    def __init__(self, owners: "Sequence[Owner]", inputs: bytes, steps: int) -> None:
        """Take the owners, and their inputs (owners, steps, *shape) as raw bytes."""
        self.owners, self.inputs, self.steps, self.at = owners, inputs, steps, 0
        self.parts: list[Outputs] = []
        self.last_steps: list[int] = []
        self.errors: dict[int, ServiceError] = {}
        self.following: dict[int, Chunk] = {}
        self.entry: Entry

    def rows(self, count: int) -> "Sequence[Owner]":
        """Return the next owners, at most `count`."""
        return self.owners[self.at : self.at + count]

    def digests(self, count: int) -> list[int]:
        """Return the digests of the next rows' inputs, at most `count`."""
        inputs, size = self.inputs, len(self.inputs) // len(self.owners)
        return [hash(inputs[at : at + size]) for at in range(self.at * size, (self.at + count) * size, size)]

    def fill(self, binding: Binding) -> None:
        """Copy the next rows' inputs into a binding."""
        size = len(self.inputs) // len(self.owners)
        binding.raw[0][:] = memoryview(self.inputs)[self.at * size : (self.at + binding.batch) * size]


class Entry:
    """One place in the queue: chunks that are answered together. `open` counts those not yet settled.

    It waits since `since`. The deadline is for the wait: an entry that has been `started` is finished. `failed` tells
    that some chunk was not taken.
    """

    __slots__ = ("deadline", "failed", "future", "open", "since", "started")

    def __init__(self, chunks: int, future: "asyncio.Future[None]", since: float, deadline: float) -> None:
        self.open, self.future, self.since, self.deadline = chunks, future, since, deadline
        self.started = self.failed = False
