"""What the batcher handles: jobs that wait in the queue, the work of one run, and the commits that a run gives.

A chunk and a fleet step are jobs. The jobs that the scheduler picks together become one `Work`. The batcher asks
neither a job nor a work which kind it is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from service.engine.outputs import OutputRow, RunOutputs
from service.engine.runner import Binding, Costs
from service.errors import ServiceError


class Waiter:
    """A request that awaits its jobs; it counts once in the queue, however many jobs it has.

    `group` tells whose request it is: jobs of different groups are taken in rotation. `open` counts the rows of its
    jobs that have not been answered; `future` is done when none is left. It was queued at
    `since` (seconds on the batcher's clock) and may wait until `deadline`, which no longer matters once its first job
    is `started`. `failed` tells that it counts as failed in the statistics.
    """

    __slots__ = ("deadline", "failed", "future", "group", "open", "since", "started")

    def __init__(self, future: "asyncio.Future[None]", since: float, deadline: float, group: Hashable) -> None:
        self.future, self.since, self.deadline, self.group = future, since, deadline, group
        self.open, self.started, self.failed = 0, False, False


class Replay(NamedTuple):
    """The stored answer to a request that was answered before: its outputs, and the session's step after it."""

    outputs: list[OutputRow]
    last_step: int


Outcome = Replay | ServiceError
"""How a job ends that is not run: with a stored answer, or with an error."""


class Owner(Protocol):
    """Whose state a job advances; a session is one.

    `busy` is its job that is queued, running or being committed, at most one at a time; the chunks that came after it
    are in `waiting`, None while there are none. `slot` is the row of its committed state and `step` counts the time
    steps that led to it; both change in `advance` alone. `used` is when it was last used (seconds on the batcher's
    clock). `ended` says why it can take no further step, None while it can.
    """

    slot: int
    step: int
    busy: "Job | None"
    waiting: "deque[Job] | None"
    used: float
    ended: ServiceError | None

    def advance(self, slot: int, step: int, digest: int, answer: bytes, now: float) -> int:
        """Point at the row of a commit, and return the row that is not needed any more."""


class Commit(NamedTuple):
    """A step that was run, and what its session becomes by it; nothing has changed until it is applied.

    `slot` is the leased row that holds the new state, `step` the session's step after it, `digest` tells the request
    from others, and `answer` holds its raw outputs, to be stored. `row` is the row of its job.
    """

    session: Owner
    slot: int
    step: int
    digest: int
    answer: bytes
    job: "Job"
    row: int


class Dropped(NamedTuple):
    """A row of a job that is answered without a commit: it failed, was answered before, or keeps no state.

    `slot` is a row that it had leased; 0 or 1 where it had none.
    """

    session: Owner | None
    job: "Job"
    slot: int = 0


new_commit: Callable[[tuple[object, ...]], Commit] = partial(tuple.__new__, Commit)
"""Returns a commit of a tuple of its fields, as Commit._make does, but without a Python call for each row."""

Done = Callable[[Sequence[Commit], list[int], dict[int, ServiceError]], None]
"""Called for commits that have been applied or refused: the slots to release, and by index why one was refused."""


class Committer(Protocol):
    """Applies the commits of a batch.

    `pending_rows` is the most rows that may be written and not yet applied or refused, over which no further step is
    run; 0 for a committer that calls `done` before it returns. They are leased beside the rows of sessions.
    """

    pending_rows: int

    def apply(self, commits: Sequence[Commit], now: float, done: Done) -> None:
        """Have each session point at its new row, or refuse that; call `done` for each commit once, now or later.

        A session is busy until then: it takes no other step, while the engine runs those of others. What it raises
        refuses the commits that `done` has not been called for.
        """


class Settled(NamedTuple):
    """What came of a run: rows to commit, rows that are answered already, jobs to go on with, slots to release."""

    commits: list[Commit]
    dropped: list[Dropped]
    unfinished: "list[Job]"
    released: list[int]


class Job(Protocol):
    """Work of one request that waits in the queue.

    `short` tells that it waits in the short line. A job that is `alone` shares no run with others. `size` counts the
    rows that its waiter has to see answered.
    """

    waiter: Waiter
    short: bool
    alone: bool
    size: int

    def repeats(self, name: str, digest: int) -> bool:
        """Tell whether it is a request of a sequence by that name and with that content."""

    def occupy(self) -> bool:
        """Make its sessions busy with it; return whether it can be queued now, or waits behind another job."""

    def outcome(self, now: float) -> Outcome | None:
        """Return how it ends without a run; None where it is to be run."""

    def drop(self, outcome: Outcome, now: float) -> list[Dropped]:
        """End all rows that have not been run with that outcome, and return them."""

    def refuse(self, row: int, error: ServiceError) -> None:
        """Note why a row that was run is not kept."""

    def gather(self, jobs: "list[Job]", limits: "RunLimits", seconds: float, room: int) -> "Work":
        """Return the work of one run: this job's, and that of the jobs picked with it.

        It takes about `seconds` seconds, and has at most `room` rows.
        """


class Work(Protocol):
    """What one run computes: `rows` × `steps`, of which `leases` rows write a state to a fresh slot."""

    rows: int
    steps: int
    leases: int
    row_steps: int
    """Time steps that were run well, of all rows together; known once it is settled."""

    def prepare(self, binding: Binding, slots: list[int]) -> None:
        """Fill a binding: the inputs, their lengths, the slot that each row reads, and of `slots` the one it writes."""

    def settle(self, outputs: RunOutputs, not_finite: np.ndarray | None, now: float) -> Settled:
        """Take the outputs of the run and return what is to become of each row.

        `not_finite` (rows,) tells of each row whether an output or a state is not finite; None where all are.
        """

    def fail(self, error: ServiceError, now: float) -> list[Dropped]:
        """End every row of it with an error, and return them."""


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What bounds a run: what it costs, its most rows, and how long it may take on the event loop (seconds)."""

    costs: Costs
    max_rows: int
    round_seconds: float
    inline: bool
    ragged: bool
    streams: bool
