"""A session: one live sequence, the row of its state, and the last request it answered."""

import enum
from collections import deque
from typing import NamedTuple

import numpy as np

from service.engine.arena import INITIAL
from service.engine.work import Chunk, FleetStep
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
    """How a session's life can end, each with what the session answers from then on."""

    EXPIRED = SessionExpired
    CLOSED = SessionClosed
    REPLACED = ModelReplaced

    def error(self, last_step: int) -> SessionGone:
        error: SessionGone = self.value(last_step)
        return error


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


class Past:
    """What a session was: how often its state was exchanged other than by a step, and moments to rewind to.

    Each of `moments`, the latest last, has a share of its row. `rewound` counts the requests that the last exchange
    took back, 0 where it was no rewind.
    """

    __slots__ = ("epoch", "moments", "rewound")

    def __init__(self, keep: int) -> None:
        self.epoch = self.rewound = 0
        self.moments: deque[Moment] = deque(maxlen=keep)


class Session:
    """One live sequence; a million of them may be held, so it has few fields.

    `slot`, `step`, `taken`, `content` and `answer` are its present `Moment`; they change together, in `advanced`,
    `rewind` and `restore`. `past` is there where the client may rewind, or has exchanged the state. `last` is the
    newest of its chunks on the way, `behind` counts those behind the first. `used` is when it was last created,
    stepped, peeked at, forked, rewound, restored or answered again. `expiry_second` says where the schedule of expiry
    has it; `older` and `newer` are the sessions that the tenant opened before and after it. `name` is what the client
    calls it, if it does. `ended` is what it answers once it is live no more.
    """

    __slots__ = (
        "answer",
        "behind",
        "content",
        "ended",
        "expiry_second",
        "id",
        "idle_limit",
        "last",
        "model",
        "name",
        "newer",
        "older",
        "past",
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
        self.taken, self.content, self.answer = 0, 0, b""
        self.past = Past(keep) if keep else None
        self.last: Chunk | FleetStep | None = None
        self.behind = 0
        self.older: Session | None = None
        self.newer: Session | None = None

    def __repr__(self) -> str:
        life = self.ended.code if self.ended is not None else "live"
        return f"<Session {self.id} {life} at step {self.step}, slot {self.slot}>"

    @property
    def keep(self) -> int:
        """How many requests can be rewound at most."""
        return self.past.moments.maxlen or 0 if self.past is not None else 0

    @property
    def epoch(self) -> int:
        """How often the state was exchanged other than by a step."""
        return self.past.epoch if self.past is not None else 0

    def expires(self) -> float:
        """Return the time at which it ends unless it is used before."""
        return self.used + self.idle_limit

    def settles(self, chunk: Chunk) -> bool:
        """Settle a chunk that is next but must not run, by its stored answer or by an error; return whether it did."""
        if chunk.epoch is not None and chunk.epoch != self.epoch:
            chunk.error = EpochConflict(chunk.epoch, self.epoch)
            return True
        number, expected = chunk.number, self.step + 1
        if not number:
            if not self.was(chunk):
                return False
        elif number == expected:
            return False
        if number > expected:
            chunk.error = StepGap(number, expected)
        elif number and (number != expected - self.taken or not chunk.commit):
            chunk.error = StepTooOld(number, expected)
        elif chunk.content() != self.content:
            chunk.error = StepConflict(number, expected)
        else:
            chunk.results = [(self.model.codec.stored(self.answer, self.taken), 0, self.taken)]
            chunk.last_step, chunk.replayed = self.step, True
        return True

    def was(self, chunk: Chunk) -> bool:
        """Tell whether the last request is this one, which the client names and has sent again."""
        return chunk.request != "" and self.taken > 0 and chunk.commit and chunk.content() == self.content

    def advanced(self, slot: int, steps: int, content: int, answer: bytes, now: float) -> int:
        """Point at the row that was written, `steps` time steps on, and return the row that is let go."""
        gone = self.slot if self.past is None else self._keep(self.past)
        self.slot, self.step, self.used = slot, self.step + steps, now
        self.taken, self.content, self.answer = steps, content, answer
        return gone

    def rewind(self, requests: int, epoch: int | None = None) -> None:
        """Point at the state before the last `requests` requests; where the epoch is named, only once in it.

        Raises:
            SessionInUse: A step is under way.
            EpochConflict: The state has been exchanged since, other than by this rewind.
            RewindTooFar: So many requests are not kept.
        """
        past = self.past
        if epoch is not None and epoch != self.epoch:
            if past is not None and past.epoch == epoch + 1 and past.rewound == requests:
                return
            raise EpochConflict(epoch, self.epoch)
        if self.last is not None:
            raise SessionInUse
        if past is None or requests > len(past.moments):
            raise RewindTooFar(requests, len(past.moments) if past is not None else 0)
        for _ in range(requests):
            self.model.arena.slots.release(self.slot)
            self.slot, self.step, self.taken, self.content, self.answer = past.moments.pop()
        past.epoch, past.rewound = past.epoch + 1, requests

    def restore(self, row: dict[str, np.ndarray], step: int) -> None:
        """Point at a row that holds a state from outside; nothing before it can be rewound or replayed.

        Raises:
            SessionInUse: A step is under way.
        """
        if self.last is not None:
            raise SessionInUse
        self.begin(row, step)
        self.past = self.past or Past(0)
        self.past.epoch, self.past.rewound = self.past.epoch + 1, 0

    def begin(self, row: dict[str, np.ndarray], step: int) -> None:
        """Have a new session start from a state from outside."""
        arena = self.model.arena
        self.forget()
        arena.slots.release(self.slot)
        self.slot, self.step = arena.slots.lease(), step
        arena.write(self.slot, row)

    def forget(self) -> None:
        """Let go of the last answer, and of everything that could be rewound."""
        self.taken, self.content, self.answer = 0, 0, b""
        if self.past is not None:
            for moment in self.past.moments:
                self.model.arena.slots.release(moment.slot)
            self.past.moments.clear()

    def branch(self, other: "Session") -> None:
        """Have a new session point where this one does."""
        self.model.arena.slots.share(self.slot)
        other.slot, other.step = self.slot, self.step
        other.taken, other.content, other.answer = self.taken, self.content, self.answer

    def _keep(self, past: Past) -> int:
        """Remember the present moment, and return the row of the one that is forgotten for it."""
        moments = past.moments
        if moments.maxlen == 0:
            return self.slot
        gone = moments[0].slot if len(moments) == moments.maxlen else INITIAL
        moments.append(Moment(self.slot, self.step, self.taken, self.content, self.answer))
        return gone
