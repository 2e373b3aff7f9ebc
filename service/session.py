"""A session: one live sequence, the row of its state, and the last request it answered."""

import enum
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from service.arena import INITIAL
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
from service.work import Chunk, FleetStep, digest

if TYPE_CHECKING:
    from service.repository import ServedModel


class Phase(enum.Enum):
    """A session's life; only LIVE leads to another phase."""

    LIVE = "live"
    EXPIRED = "expired"
    CLOSED = "closed"
    REPLACED = "replaced"


GONE: dict[Phase, type[SessionGone]] = {
    Phase.EXPIRED: SessionExpired,
    Phase.CLOSED: SessionClosed,
    Phase.REPLACED: ModelReplaced,
}


class Moment(NamedTuple):
    """What a session points at between two requests: a row, the steps so far, and the request that led there.

    `taken` counts that request's steps, `content` is its digest, `answer` its raw outputs; a request whose answer is
    not kept has taken no steps.
    """

    slot: int
    step: int
    taken: int
    content: int
    answer: bytes


class Session:
    """One live sequence.

    `slot`, `step`, `taken`, `content` and `answer` are its present `Moment`; they change together, in `advanced`,
    `rewind` and `restore`. `kept` holds the moments before it, the latest last, where the client wants to rewind, and a
    share of the row of each. `epoch` counts how often the state was exchanged other than by a step. `last` is the
    newest of its chunks on the way, `behind` counts those behind the first. `used` is when it was last created or
    advanced. `bucket` is the second of the table's bucket that holds it, `older` and `newer` are its neighbours in the
    order in which the tenant opened them. `name` is what the client calls it, if it does. `ended` is what it answers
    once `phase` is another than LIVE.
    """

    __slots__ = (
        "answer",
        "behind",
        "bucket",
        "content",
        "ended",
        "epoch",
        "id",
        "idle_limit",
        "kept",
        "last",
        "model",
        "name",
        "newer",
        "older",
        "phase",
        "slot",
        "step",
        "taken",
        "tenant",
        "used",
    )

    def __init__(
        self,
        session_id: str,
        tenant: str,
        model: "ServedModel",
        idle_limit: float,
        now: float,
        name: str | None = None,
        keep: int = 0,
    ) -> None:
        self.id, self.tenant, self.model, self.name = session_id, tenant, model, name
        self.idle_limit, self.used, self.bucket = idle_limit, now, 0
        self.phase: Phase = Phase.LIVE
        self.ended: ServiceError | None = None
        self.slot, self.step, self.epoch = INITIAL, 0, 0
        self.taken, self.content, self.answer = 0, 0, b""
        self.kept: deque[Moment] | None = deque(maxlen=keep) if keep else None
        self.last: Chunk | FleetStep | None = None
        self.behind = 0
        self.older: Session | None = None
        self.newer: Session | None = None

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.phase.value} at step {self.step}, slot {self.slot}>"

    @property
    def keep(self) -> int:
        """How many requests can be rewound at most."""
        return self.kept.maxlen or 0 if self.kept is not None else 0

    def expires(self) -> float:
        """Return the time at which it ends unless it is used before."""
        return self.used + self.idle_limit

    def settles(self, chunk: Chunk) -> bool:
        """Settle a chunk that is next but must not run, by its stored answer or by an error; return whether it did."""
        if chunk.epoch is not None and chunk.epoch != self.epoch:
            chunk.error = EpochConflict(chunk.epoch, self.epoch)
            return True
        number, expected = chunk.number, self.step + 1
        if not number or number == expected:
            return False
        if number > expected:
            chunk.error = StepGap(number, expected)
        elif number != expected - self.taken or not chunk.commit:
            chunk.error = StepTooOld(number, expected)
        elif digest(chunk.inputs) != self.content:
            chunk.error = StepConflict(number, expected)
        else:
            chunk.results = [(self.model.codec.stored(self.answer, self.taken), 0, self.taken)]
            chunk.last_step, chunk.replayed = self.step, True
        return True

    def advanced(self, slot: int, steps: int, content: int, answer: bytes, now: float) -> int:
        """Point at the row that was written, `steps` time steps on, and return the row that is let go."""
        gone = self.slot if self.kept is None else self._keep()
        self.slot, self.step, self.used = slot, self.step + steps, now
        self.taken, self.content, self.answer = steps, content, answer
        return gone

    def rewind(self, requests: int) -> None:
        """Point at the state before the last `requests` requests.

        Raises:
            SessionInUse: A step is under way.
            RewindTooFar: So many requests are not kept.
        """
        if self.last is not None:
            raise SessionInUse
        kept = self.kept
        if kept is None or requests > len(kept):
            raise RewindTooFar(requests, len(kept) if kept is not None else 0)
        for _ in range(requests):
            self.model.arena.slots.release(self.slot)
            self.slot, self.step, self.taken, self.content, self.answer = kept.pop()
        self.epoch += 1

    def restore(self, row: dict[str, np.ndarray], step: int) -> None:
        """Point at a row that holds a state from outside; nothing before it can be rewound or replayed.

        Raises:
            SessionInUse: A step is under way.
        """
        if self.last is not None:
            raise SessionInUse
        arena = self.model.arena
        self.forget()
        arena.slots.release(self.slot)
        self.slot, self.step = arena.slots.lease(), step
        arena.write(self.slot, row)
        self.epoch += 1

    def forget(self) -> None:
        """Let go of the last answer, and of everything that could be rewound."""
        self.taken, self.content, self.answer = 0, 0, b""
        if self.kept is not None:
            for moment in self.kept:
                self.model.arena.slots.release(moment.slot)
            self.kept.clear()

    def branch(self, other: "Session") -> None:
        """Have a new session point where this one does."""
        self.model.arena.slots.share(self.slot)
        other.slot, other.step = self.slot, self.step
        other.taken, other.content, other.answer = self.taken, self.content, self.answer

    def _keep(self) -> int:
        """Remember the present moment, and return the row of the one that is forgotten for it."""
        assert self.kept is not None
        gone = self.kept[0].slot if len(self.kept) == self.kept.maxlen else INITIAL
        self.kept.append(Moment(self.slot, self.step, self.taken, self.content, self.answer))
        return gone
