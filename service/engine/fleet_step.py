"""A fleet step: the same number of steps of many sessions, by one request."""

from collections.abc import Sequence
from itertools import repeat

import numpy as np

from service.engine.digest import row_digests
from service.engine.outputs import RunOutputs, split_rows
from service.engine.runner import Binding
from service.engine.work import Dropped, Job, Outcome, Owner, Replay, RunLimits, Settled, Waiter, new_commit
from service.errors import DeadlineExceeded, RequestCancelled, ServiceError, StateNotFinite

MAX_ROW_STEPS_OF_RUN = 512
"""Rows × steps of one run of a fleet step: with more of them they no longer fit the caches, and each costs more."""


class FleetStep:
    """A job and its own work: `steps` steps of each of its sessions, all of which were idle when it was queued.

    Its rows are run in parts, from the first to the last: `_at` counts the rows that have been run, and the next part
    has `rows` rows. `parts` holds the outputs of the runs, `last_steps` each row's step after it; `errors` tells by row
    why one was not taken. A session is busy until its own row has been committed.
    """

    __slots__ = (
        "_at",
        "_inputs",
        "_row_bytes",
        "_slots",
        "errors",
        "last_steps",
        "leases",
        "parts",
        "row_steps",
        "rows",
        "sessions",
        "size",
        "steps",
        "waiter",
    )

    alone = short = True
    waiter: Waiter

    def __init__(self, sessions: Sequence[Owner], inputs: bytes, steps: int) -> None:
        """Take distinct sessions, and their inputs (sessions, steps, *shape) as raw bytes."""
        self.sessions, self.steps, self.size = sessions, steps, len(sessions)
        self._inputs, self._row_bytes, self._at = inputs, len(inputs) // len(sessions), 0
        self._slots: list[int] = []
        self.rows = self.leases = self.row_steps = 0
        self.parts: list[RunOutputs] = []
        self.last_steps: list[int] = []
        self.errors: dict[int, ServiceError] = {}

    def repeats(self, name: str, digest: int) -> bool:
        return False  # its rows have no names

    def occupy(self) -> bool:
        for session in self.sessions:
            session.busy = self
        return True

    def outcome(self, now: float) -> Outcome | None:
        waiter = self.waiter
        if waiter.future.done():
            return RequestCancelled()
        if now > waiter.deadline and not waiter.started:
            return DeadlineExceeded(waiter.deadline - waiter.since)
        return None

    def drop(self, outcome: Outcome, now: float) -> list[Dropped]:
        if isinstance(outcome, Replay):
            raise ValueError(f"expected a run or an error for each row, got one replay for all: {outcome!r}")
        left = range(self._at, self.size)
        for row in left:
            self.refuse(row, outcome)
        self._at = self.size
        return [Dropped(self.sessions[row], self) for row in left]

    def refuse(self, row: int, error: ServiceError) -> None:
        self.errors[row] = error
        self.waiter.failed = len(self.errors) == self.size

    def gather(self, jobs: list[Job], limits: RunLimits, seconds: float, room: int) -> "FleetStep":
        affordable = limits.costs.rows_within(limits.round_seconds / self.steps) if limits.inline else room
        most = max(1, min(room, affordable, MAX_ROW_STEPS_OF_RUN // self.steps))
        self.rows = self.leases = min(most, self.size - self._at)
        return self

    def prepare(self, binding: Binding, slots: list[int]) -> None:
        size, at = self._row_bytes, self._at
        binding.raw[0][:] = memoryview(self._inputs)[at * size : (at + self.rows) * size]
        self._slots = slots
        binding.set_rows([session.slot for session in self.sessions[at : at + self.rows]], slots, None)

    def settle(self, outputs: RunOutputs, not_finite: np.ndarray | None, now: float) -> Settled:
        at, end, size = self._at, self._at + self.rows, self._row_bytes
        sessions, slots = self.sessions[at:end], self._slots
        last_steps = [session.step + self.steps for session in sessions]
        digests = row_digests(split_rows(self._inputs[at * size : end * size], self.rows))
        fields = zip(
            sessions, slots, last_steps, digests, outputs.raw_rows(), repeat(self), range(at, end), strict=False
        )
        commits, dropped = list(map(new_commit, fields)), []
        if not_finite is not None:
            for commit in commits:
                if not_finite[commit.row - at]:
                    self.refuse(commit.row, StateNotFinite())
                    dropped.append(Dropped(commit.session, self, commit.slot))
            commits = [commit for commit in commits if not not_finite[commit.row - at]]
        self._at = end
        self.last_steps += last_steps
        self.parts.append(outputs)
        self.row_steps = self.steps * len(commits)
        return Settled(commits, dropped, [self] if end < self.size else [], [])

    def fail(self, error: ServiceError, now: float) -> list[Dropped]:
        return self.drop(error, now)
