"""What clients saw, and what must be true of it.

The clients write down every request and what came of it; `check` reads that history beside a model of the accumulator.
It knows nothing of the service: a session's answers must be the sums of the steps that it took, each of them once.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

ANSWERED = "answered"
UNANSWERED = "unanswered"
"""The connection was cut, or the client stopped waiting: the steps may have been taken or not."""
LOST_CODE = "session_lost"
TRANSIENT = frozenset({"session_busy", "queue_full", "deadline_exceeded", "shutting_down"})
"""Refusals after which nothing has happened, and the same request is sent again."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session began: at zero, or where `parent` stood at `step`."""

    session: str
    parent: str = ""
    step: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One sending of a numbered request. `outcome` is ANSWERED, UNANSWERED, or the code of the refusal.

    `first` is the number of the first of its steps, `last` the one that the answer names, `expected` the one that a
    refusal names.
    """

    session: str
    first: int
    inputs: tuple[int, ...]
    outcome: str
    outputs: tuple[float, ...] = ()
    last: int = 0
    replayed: bool = False
    expected: int = 0


@dataclass(frozen=True, slots=True)
class Resumed:
    """A socket's handshake, or the reason of its close, said that the session has taken `step` steps."""

    session: str
    step: int


@dataclass(frozen=True, slots=True)
class Rewound:
    """The session went back by `requests` requests, to `step`."""

    session: str
    requests: int
    step: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The last look at a session: the step that it describes, and the sum that a peek shows."""

    session: str
    step: int
    total: float


@dataclass(frozen=True, slots=True)
class Restarted:
    """The service ended and was started again: sessions opened before may be lost."""


Event = Opened | Attempt | Resumed | Rewound | Ended | Restarted


class Kind(Enum):
    """What can be wrong with a session."""

    LOST = "lost"
    DOUBLED = "doubled"
    DIFFERENT = "different replay"
    NOT_REPLAYED = "not replayed"
    GAP = "gap"
    WRONG = "wrong"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Violation:
    """What went wrong first in a session; steps `first` to `last` are those that it went wrong with."""

    kind: Kind
    session: str
    first: int
    last: int
    what: str

    def __str__(self) -> str:
        return f"{self.kind.value}: session {self.session}, steps {self.first}..{self.last}: {self.what}"


@dataclass(slots=True)
class Verdict:
    """What a history shows."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def of(self, kind: Kind) -> list[Violation]:
        return [violation for violation in self.violations if violation.kind is kind]


class _Found(Exception):
    """A session is not what it should be."""

    def __init__(self, kind: Kind, first: int, last: int, what: str) -> None:
        super().__init__(what)
        self.kind, self.first, self.last, self.what = kind, first, last, what


class _Twin:
    """What a session must be: `sums[n]` is its state after step n, `requests` are those that it took, in order.

    `sent` holds the requests beyond them that went out and were not answered, by their first step; `answered` is the
    first step of the newest one that was.
    """

    def __init__(self, boot: int) -> None:
        self.boot, self.lost = boot, False
        self.sums = [0]
        self.requests: list[tuple[int, tuple[int, ...]]] = []
        self.sent: dict[int, tuple[int, ...]] = {}
        self.answered = 0

    @property
    def step(self) -> int:
        return len(self.sums) - 1

    def branch(self, step: int, boot: int) -> "_Twin":
        """Return what a session must be that was opened where this one is."""
        if step != self.step:
            raise self._elsewhere(step)
        twin = _Twin(boot)
        twin.sums, twin.requests = list(self.sums), list(self.requests)
        return twin

    def take(self, first: int, inputs: tuple[int, ...]) -> None:
        """Have the next steps taken."""
        for value in inputs:
            self.sums.append(self.sums[-1] + value)
        self.requests.append((first, inputs))
        self.sent.pop(first, None)

    def taken_until(self, step: int) -> None:
        """Have those steps taken whose answers never came; there must be such up to `step`."""
        while self.step < step and (inputs := self.sent.get(self.step + 1)) is not None:
            self.take(self.step + 1, inputs)
        if self.step != step:
            raise self._elsewhere(step)

    def _sent_until(self, step: int) -> bool:
        """Tell whether unanswered requests make up all steps to `step`."""
        at = self.step
        while at < step and (inputs := self.sent.get(at + 1)) is not None:
            at += len(inputs)
        return at == step

    def attempt(self, attempt: Attempt, counts: Counter[str]) -> None:
        """Judge one sending."""
        first, inputs, outcome = attempt.first, attempt.inputs, attempt.outcome
        counts["retries"] += first in self.sent
        if outcome == ANSWERED:
            before = self.step
            self._answered(attempt)
            counts["steps"] += self.step - before
            counts["requests"] += self.step > before
            counts["replays"] += attempt.replayed
        elif outcome == UNANSWERED:
            counts["unanswered"] += 1
            if first > self.step:
                self.sent[first] = inputs
        elif outcome in ("step_gap", "step_too_old", "step_conflict"):
            counts[outcome] += 1
            self._refused(attempt)
        elif outcome not in TRANSIENT:
            raise _Found(Kind.FAILED, first, first + len(inputs) - 1, f"answered {outcome}")
        else:
            counts[outcome] += 1

    def end(self, step: int, total: float) -> None:
        """Judge the last look."""
        self.resume(step)
        if total != self.sums[-1]:
            raise self._explain(total, step)

    def resume(self, step: int) -> None:
        """Judge the step at which the session says that it stands."""
        if step < self.step:
            raise self._elsewhere(step)
        self.taken_until(step)

    def rewind(self, requests: int, step: int) -> None:
        """Go back by some requests."""
        for first, _ in self.requests[-requests:]:
            del self.sums[first:]
        del self.requests[-requests:]
        self.sent.clear()
        if self.step != step:
            raise _Found(Kind.WRONG, self.step, self.step, f"rewound by {requests} requests to step {step}")

    def _answered(self, attempt: Attempt) -> None:
        first, inputs = attempt.first, attempt.inputs
        last = first + len(inputs) - 1
        again = first <= self.step
        if again:
            if (first, inputs) != self.requests[-1]:
                raise _Found(Kind.DOUBLED, first, last, "taken though another request had been")
            if not attempt.replayed:
                raise _Found(Kind.DOUBLED, first, last, "taken again, not replayed")
        else:
            if first > self.step + 1 and not self._sent_until(first - 1):
                raise _Found(Kind.GAP, first, last, f"taken, though step {self.step + 1} was not")
            self.taken_until(first - 1)
            self.take(first, inputs)
        expected = self.sums[first:]
        if list(attempt.outputs) != expected:
            if first == self.answered:
                raise _Found(Kind.DIFFERENT, first, last, f"replayed {attempt.outputs}, answered before {expected}")
            if len(attempt.outputs) == len(expected):
                raise self._explain(attempt.outputs[0] - inputs[0], first - 1, attempt)
            raise _Found(Kind.WRONG, first, last, f"answered {len(attempt.outputs)} outputs")
        if attempt.last != last:
            raise _Found(Kind.GAP, first, last, f"answered as step {attempt.last}")
        self.answered = first

    def _refused(self, attempt: Attempt) -> None:
        first, inputs, expected = attempt.first, attempt.inputs, attempt.expected
        mine = first + len(inputs) - 1
        if expected <= self.step:
            raise self._elsewhere(expected - 1)
        if expected - 1 == mine and self.sent.get(first) == inputs:
            raise _Found(Kind.NOT_REPLAYED, first, mine, f"taken, but sent again it is {attempt.outcome}")
        if attempt.outcome == "step_gap" and first == expected:
            raise _Found(Kind.GAP, first, mine, "refused, though it is the one that was expected")
        self.taken_until(expected - 1)
        if self.requests and self.requests[-1] == (first, inputs):
            raise _Found(Kind.NOT_REPLAYED, first, mine, f"taken, but sent again it is {attempt.outcome}")

    def _elsewhere(self, step: int) -> _Found:
        if step < self.step:
            return _Found(Kind.LOST, step + 1, self.step, f"the session stands at step {step}")
        ahead = step - self.step
        for first, inputs in reversed(self.requests):
            if len(inputs) == ahead:
                return _Found(Kind.DOUBLED, first, first + ahead - 1, f"the session stands at step {step}")
        return _Found(Kind.DOUBLED, self.step, self.step, f"the session stands at step {step}")

    def _explain(self, total: float, step: int, newest: Attempt | None = None) -> _Found:
        """Name the request that a sum has too often or not at all."""
        off = total - self.sums[step]
        for first, inputs in reversed(self.requests):
            last = first + len(inputs) - 1
            if abs(off) == sum(inputs):
                kind = Kind.DOUBLED if off > 0 else Kind.LOST
                return _Found(kind, first, last, f"the sum is {total:.0f}, it should be {self.sums[step]}")
        return _Found(Kind.WRONG, step, step, f"the sum is {total:.0f}, it should be {self.sums[step]}")


def check(history: Iterable[Event]) -> Verdict:
    """Judge a history: the first violation of each session, and counts."""
    verdict, twins, boot = Verdict(), dict[str, _Twin](), 0
    for event in history:
        if isinstance(event, Restarted):
            boot += 1
            continue
        name = event.session
        if isinstance(event, Opened) and not event.parent:
            twins[name] = _Twin(boot)
            verdict.counts["sessions"] += 1
            continue
        twin = twins.get(event.parent if isinstance(event, Opened) else name)
        if twin is None:  # it has a violation already
            continue
        try:
            _judge(event, twin, twins, boot, verdict.counts)
        except _Found as found:
            verdict.violations.append(Violation(found.kind, name, found.first, found.last, found.what))
            twins.pop(name, None)
    return verdict


def _judge(
    event: Opened | Attempt | Resumed | Rewound | Ended,
    twin: _Twin,
    twins: dict[str, _Twin],
    boot: int,
    counts: Counter[str],
) -> None:
    if isinstance(event, Opened):
        twins[event.session] = twin.branch(event.step, boot)
        counts["sessions"] += 1
        counts["branches"] += 1
    elif isinstance(event, Attempt) and event.outcome == LOST_CODE:
        counts["sessions lost"] += not twin.lost
        if twin.boot == boot:
            raise _Found(Kind.LOST, 1, twin.step, "the whole session is lost, and the service was not restarted")
        twin.lost = True
    elif twin.lost:
        raise _Found(Kind.WRONG, twin.step, twin.step, f"the session was lost and is back: {event}")
    elif isinstance(event, Attempt):
        twin.attempt(event, counts)
    elif isinstance(event, Resumed):
        twin.resume(event.step)
        counts["resumed"] += 1
    elif isinstance(event, Rewound):
        twin.rewind(event.requests, event.step)
        counts["rewinds"] += 1
    else:
        twin.end(event.step, event.total)
        counts["looked at"] += 1
