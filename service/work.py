"""What waits for the engine: chunks, fleet steps, and the entries of the queue that they belong to."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from service.arena import INITIAL
from service.engine import Binding
from service.errors import ServiceError

SHORT = 16
"""Chunks of up to so many steps go before longer ones, which take every other turn while short ones wait."""


class Outputs:
    """What one run gave: a tensor (batch, time, *shape) for each output, shared by all rows of that run."""

    __slots__ = ("json", "raw", "tensors")

    def __init__(self, tensors: list[np.ndarray]) -> None:
        self.tensors = tensors
        self.json: list[bytes] | None = None
        """Each row's first output as JSON, filled by the codec when the first row asks."""
        self.raw: bytes | None = None
        """The first output of all rows as raw bytes, likewise."""


class Owner(Protocol):
    """Whose state a chunk advances; a session is one.

    `last` is the newest of its chunks that are not settled, `behind` counts those behind the first, `used` is when
    it was last advanced, and `ended` says why no further step can be taken, if so.
    """

    slot: int
    step: int
    last: "Chunk | FleetStep | None"
    behind: int
    used: float
    ended: ServiceError | None

    def advanced(self, slot: int, steps: int, now: float) -> None:
        """Point at the row that was written, `steps` time steps on."""


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

    def fill(self, binding: Binding) -> None:
        """Copy the next rows' inputs into a binding."""
        size = len(self.inputs) // len(self.owners)
        binding.raw[0][:] = memoryview(self.inputs)[self.at * size : (self.at + binding.batch) * size]


class Entry:
    """One place in the queue: chunks that are answered together. `open` counts those not yet settled.

    The deadline is for the wait: an entry that has been `started` is finished.
    """

    __slots__ = ("deadline", "future", "open", "started")

    def __init__(self, chunks: int, future: "asyncio.Future[None]", deadline: float) -> None:
        self.open, self.future, self.deadline, self.started = chunks, future, deadline, False
