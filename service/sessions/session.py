"""A session: one live sequence, the row of its state, and the last request that it answered."""

import enum
from collections import deque
from typing import NamedTuple

import numpy as np

from service.engine.arena import INITIAL
from service.engine.chunk import Chunk
from service.engine.work import Job, Outcome, Replay
from service.errors import (
    EpochConflict,
    ModelReplaced,
    RewindTooFar,
    ServiceError,
    SessionClosed,
    SessionExpired,
    SessionGone,
    SessionInUse,
    StepConflict,
    StepGap,
    StepTooOld,
)
from service.repository.served_model import ServedModel

UNSCHEDULED = 0
"""The expiry second of a session that is in no schedule."""


class End(enum.Enum):
    """How a session can end, each with the error that it answers from then on."""

    EXPIRED = SessionExpired
    CLOSED = SessionClosed
    REPLACED = ModelReplaced

    def error(self, last_step: int) -> SessionGone:
        error: SessionGone = self.value(last_step)
        return error


class Checkpoint(NamedTuple):
    """A session between two requests: the row of its state, its step, and the request that led there.

    `taken` counts that request's steps, `digest` tells it from others, `answer` holds its raw outputs. A request whose
    answer is not stored has taken no steps.
    """

    slot: int
    step: int
    taken: int
    digest: int
    answer: bytes


class History:
    """How often a session's state was exchanged other than by a step, and the checkpoints that it can be rewound to.

    Each of `checkpoints`, the latest last, holds a share of its row. `rewound` counts the requests that the last
    exchange took back; 0 where it was no rewind.
    """

    __slots__ = ("checkpoints", "epoch", "rewound")

    def __init__(self, keep: int) -> None:
        self.epoch = self.rewound = 0
        self.checkpoints: deque[Checkpoint] = deque(maxlen=keep)


class Session:
    """One live sequence; a million of them may be held, so it has few fields.

    `slot`, `step`, `taken`, `digest` and `answer` are its present `Checkpoint`; they change together, in `advance`,
    `rewind` and `restore`. `history` is None unless the client may rewind, or has exchanged the state. `busy` is its
    job that is queued, running or being committed, `waiting` the jobs behind it (None while there are none). `used` is
    when it was last created, stepped, peeked at, forked, rewound, restored or answered again. `expiry_second` belongs
    to the table's expiry; `older` and `newer` are the sessions that the tenant opened before and after it. `name` is
    the client's name for it, None where it has none. `ended` is the error that it answers once it has ended.
    """

    __slots__ = (
        "answer",
        "busy",
        "digest",
        "ended",
        "expiry_second",
        "history",
        "id",
        "idle_limit",
        "model",
        "name",
        "newer",
        "older",
        "slot",
        "step",
        "taken",
        "tenant",
        "used",
        "waiting",
    )

    def __init__(
        self,
        session_id: str,
        tenant: str,
        model: ServedModel,
        idle_limit: float,
        now: float,
        name: str | None = None,
        keep: int = 0,
    ) -> None:
        self.id, self.tenant, self.model, self.name = session_id, tenant, model, name
        self.idle_limit, self.used = idle_limit, now
        self.expiry_second = UNSCHEDULED
        self.ended: ServiceError | None = None
        self.slot, self.step = INITIAL, 0
        self.taken, self.digest, self.answer = 0, 0, b""
        self.history = History(keep) if keep else None
        self.busy: Job | None = None
        self.waiting: deque[Job] | None = None
        self.older: Session | None = None
        self.newer: Session | None = None

    def __repr__(self) -> str:
        life = self.ended.code if self.ended is not None else "live"
        return f"<Session {self.id} {life} at step {self.step}, slot {self.slot}>"

    @property
    def keep(self) -> int:
        """How many requests can be rewound at most."""
        return self.history.checkpoints.maxlen or 0 if self.history is not None else 0

    @property
    def epoch(self) -> int:
        """How often the state was exchanged other than by a step."""
        return self.history.epoch if self.history is not None else 0

    @property
    def newest(self) -> "Job | None":
        """The job that came last, of those that are not answered."""
        return self.waiting[-1] if self.waiting else self.busy

    def expires(self) -> float:
        """Return the time at which it ends unless it is used before."""
        return self.used + self.idle_limit

    def check(self, chunk: Chunk) -> Outcome | None:
        """Return how a chunk that is next ends without a run: by the stored answer or an error; None: it is to run."""
        if chunk.epoch is not None and chunk.epoch != self.epoch:
            return EpochConflict(chunk.epoch, self.epoch)
        number, expected = chunk.number, self.step + 1
        if number == expected or not (number or self.repeats(chunk)):
            return None
        if number > expected:
            return StepGap(number, expected)
        if number and (number != expected - self.taken or not chunk.keep):
            return StepTooOld(number, expected)
        if number and chunk.digest() != self.digest:
            return StepConflict(number, expected)
        return Replay([(self.model.codec.stored_outputs(self.answer, self.taken), 0, self.taken)], self.step)

    def repeats(self, chunk: Chunk) -> bool:
        """Tell whether a chunk is the last request, which the client names and has sent again."""
        return chunk.name != "" and self.taken > 0 and chunk.keep and chunk.digest() == self.digest

    def advance(self, slot: int, step: int, digest: int, answer: bytes, now: float) -> int:
        """Point at the row of a commit, and return the row that is not needed any more."""
        gone = self.slot if self.history is None else self._keep(self.history)
        self.slot, self.digest, self.answer = slot, digest, answer
        self.taken, self.step, self.used = step - self.step, step, now
        return gone

    def rewind(self, requests: int, epoch: int | None = None) -> None:
        """Point at the state before the last `requests` requests; where the epoch is named, only once in it.

        Raises:
            SessionInUse: A step is under way.
            EpochConflict: The state has been exchanged since, other than by this rewind.
            RewindTooFar: So many requests are not kept.
        """
        history = self.history
        if epoch is not None and epoch != self.epoch:
            if history is not None and history.epoch == epoch + 1 and history.rewound == requests:
                return
            raise EpochConflict(epoch, self.epoch)
        if self.busy is not None:
            raise SessionInUse
        if history is None or requests > len(history.checkpoints):
            raise RewindTooFar(requests, len(history.checkpoints) if history is not None else 0)
        for _ in range(requests):
            self.model.arena.slots.release(self.slot)
            self.slot, self.step, self.taken, self.digest, self.answer = history.checkpoints.pop()
        history.epoch, history.rewound = history.epoch + 1, requests

    def restore(self, row: dict[str, np.ndarray], step: int) -> None:
        """Point at a row that holds a state from outside; nothing before it can be rewound or replayed.

        Raises:
            SessionInUse: A step is under way.
        """
        if self.busy is not None:
            raise SessionInUse
        self.begin(row, step)
        self.history = self.history or History(0)
        self.history.epoch, self.history.rewound = self.history.epoch + 1, 0

    def begin(self, row: dict[str, np.ndarray], step: int) -> None:
        """Have a new session start from a state from outside."""
        arena = self.model.arena
        self.forget()
        arena.slots.release(self.slot)
        self.slot, self.step = arena.slots.lease(), step
        arena.write(self.slot, row)

    def forget(self) -> None:
        """Drop the last answer and every checkpoint."""
        self.taken, self.digest, self.answer = 0, 0, b""
        if self.history is not None:
            for checkpoint in self.history.checkpoints:
                self.model.arena.slots.release(checkpoint.slot)
            self.history.checkpoints.clear()

    def branch(self, other: "Session") -> None:
        """Have a new session point where this one does."""
        self.model.arena.slots.share(self.slot)
        other.slot, other.step = self.slot, self.step
        other.taken, other.digest, other.answer = self.taken, self.digest, self.answer

    def _keep(self, history: History) -> int:
        """Keep the present as a checkpoint, and return the row of the one that is dropped for it."""
        checkpoints = history.checkpoints
        if checkpoints.maxlen == 0:
            return self.slot
        gone = checkpoints[0].slot if len(checkpoints) == checkpoints.maxlen else INITIAL
        checkpoints.append(Checkpoint(self.slot, self.step, self.taken, self.digest, self.answer))
        return gone
