"""The history that clients record, and the check that finds violations in it.

The clients record every request and its outcome; `check` compares that history with a model of the accumulator. It does
not depend on the service: a session's outputs must be the sums of the inputs of its steps, each step taken once.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

ANSWERED = "answered"
UNANSWERED = "unanswered"
"""The connection was lost, or the client's timeout has passed: the steps may have been taken or not."""
LOST_CODE = "session_lost"
TRANSIENT = frozenset({"session_busy", "tenant_busy", "queue_full", "deadline_exceeded", "shutting_down"})
"""Error codes after which no step was taken, and the same request is sent again."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session was opened: with the initial state, or with the state of `parent` at `step`."""

    session: str
    parent: str = ""
    step: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a numbered request. `outcome` is ANSWERED, UNANSWERED, or the error code.

    `first` is the number of its first step, `last` the step in the answer, `expected` the `expected_step` in an error.
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
    """A WebSocket's handshake, or the reason of its close, said that the session has taken `step` steps."""

    session: str
    step: int


@dataclass(frozen=True, slots=True)
class Rewound:
    """The session was rewound by `requests` requests, to `step`."""

    session: str
    requests: int
    step: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The final state of a session: its described step, and the sum computed from a peek."""

    session: str
    step: int
    total: float


@dataclass(frozen=True, slots=True)
class Restarted:
    """The service was restarted: sessions opened before may be lost."""


Event = Opened | Attempt | Resumed | Rewound | Ended | Restarted


class Kind(Enum):
    """The kinds of violation."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    DIFFERENT = "different replay"
    NOT_REPLAYED = "not replayed"
    GAP = "gap"
    WRONG = "wrong"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Violation:
    """The first violation in a session, which concerns the steps `first` to `last`."""

    kind: Kind
    session: str
    first: int
    last: int
    message: str

    def __str__(self) -> str:
        return f"{self.kind.value}: session {self.session}, steps {self.first}..{self.last}: {self.message}"


@dataclass(slots=True)
class Report:
    """The violations found in a history, and counts of its events."""

    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def of(self, kind: Kind) -> list[Violation]:
        return [violation for violation in self.violations if violation.kind is kind]


class _ViolationFound(Exception):
    """An event contradicts the model of its session."""

    def __init__(self, kind: Kind, first: int, last: int, message: str) -> None:
        super().__init__(message)
        self.kind, self.first, self.last, self.message = kind, first, last, message


class _SessionModel:
    """The expected session: `sums[n]` is its state after step n, `requests` are the requests it took, in order.

    `sent` holds later requests that were sent and not answered, by their first step; `answered` is the first step of
    the latest request that was answered.
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

    def branch(self, step: int, boot: int) -> "_SessionModel":
        """Return the model of a session that was opened with the state of this one at `step`."""
        if step != self.step:
            raise self._wrong_step(step)
        model = _SessionModel(boot)
        model.sums, model.requests = list(self.sums), list(self.requests)
        return model

    def take(self, first: int, inputs: tuple[int, ...]) -> None:
        """Take the steps of a request."""
        for value in inputs:
            self.sums.append(self.sums[-1] + value)
        self.requests.append((first, inputs))
        self.sent.pop(first, None)

    def taken_until(self, step: int) -> None:
        """Take unanswered requests up to `step`; it is a violation if they do not end exactly there."""
        while self.step < step and (inputs := self.sent.get(self.step + 1)) is not None:
            self.take(self.step + 1, inputs)
        if self.step != step:
            raise self._wrong_step(step)

    def _sent_until(self, step: int) -> bool:
        """Return whether unanswered requests contain all steps up to `step`."""
        last = self.step
        while last < step and (inputs := self.sent.get(last + 1)) is not None:
            last += len(inputs)
        return last == step

    def attempt(self, attempt: Attempt, counts: Counter[str]) -> None:
        """Check one attempt."""
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
            raise _ViolationFound(Kind.FAILED, first, first + len(inputs) - 1, f"answered {outcome}")
        else:
            counts[outcome] += 1

    def end(self, step: int, total: float) -> None:
        """Check the final step and sum."""
        self.resume(step)
        if total != self.sums[-1]:
            raise self._wrong_sum(total, step)

    def resume(self, step: int) -> None:
        """Check the step that the service reports for the session."""
        if step < self.step:
            raise self._wrong_step(step)
        self.taken_until(step)

    def rewind(self, requests: int, step: int) -> None:
        """Undo the last requests, and check the resulting step."""
        for first, _ in self.requests[-requests:]:
            del self.sums[first:]
        del self.requests[-requests:]
        self.sent.clear()
        if self.step != step:
            raise _ViolationFound(Kind.WRONG, self.step, self.step, f"rewound by {requests} requests to step {step}")

    def _answered(self, attempt: Attempt) -> None:
        first, inputs = attempt.first, attempt.inputs
        last = first + len(inputs) - 1
        again = first <= self.step
        if again:
            if (first, inputs) != self.requests[-1]:
                raise _ViolationFound(
                    Kind.DUPLICATED, first, last, "taken, although another request with these steps was taken"
                )
            if not attempt.replayed:
                raise _ViolationFound(Kind.DUPLICATED, first, last, "taken again, not replayed")
        else:
            if first > self.step + 1 and not self._sent_until(first - 1):
                raise _ViolationFound(Kind.GAP, first, last, f"taken, although step {self.step + 1} was not")
            self.taken_until(first - 1)
            self.take(first, inputs)
        expected = self.sums[first:]
        if list(attempt.outputs) != expected:
            if first == self.answered:
                raise _ViolationFound(
                    Kind.DIFFERENT, first, last, f"replayed {attempt.outputs}, answered before {expected}"
                )
            if len(attempt.outputs) == len(expected):
                raise self._wrong_sum(attempt.outputs[0] - inputs[0], first - 1, attempt)
            raise _ViolationFound(Kind.WRONG, first, last, f"answered {len(attempt.outputs)} outputs")
        if attempt.last != last:
            raise _ViolationFound(Kind.GAP, first, last, f"answered as step {attempt.last}")
        self.answered = first

    def _refused(self, attempt: Attempt) -> None:
        first, inputs, expected = attempt.first, attempt.inputs, attempt.expected
        last = first + len(inputs) - 1
        if expected <= self.step:
            raise self._wrong_step(expected - 1)
        if expected - 1 == last and self.sent.get(first) == inputs:
            raise _ViolationFound(Kind.NOT_REPLAYED, first, last, f"taken, but a retry got {attempt.outcome}")
        if attempt.outcome == "step_gap" and first == expected:
            raise _ViolationFound(Kind.GAP, first, last, "refused, although it is the expected step")
        self.taken_until(expected - 1)
        if self.requests and self.requests[-1] == (first, inputs):
            raise _ViolationFound(Kind.NOT_REPLAYED, first, last, f"taken, but a retry got {attempt.outcome}")

    def _wrong_step(self, step: int) -> _ViolationFound:
        """Return the violation of a session that is at `step` instead of at `self.step`."""
        if step < self.step:
            return _ViolationFound(Kind.LOST, step + 1, self.step, f"the session is at step {step}")
        extra = step - self.step
        for first, inputs in reversed(self.requests):
            if len(inputs) == extra:
                return _ViolationFound(Kind.DUPLICATED, first, first + extra - 1, f"the session is at step {step}")
        return _ViolationFound(Kind.DUPLICATED, self.step, self.step, f"the session is at step {step}")

    def _wrong_sum(self, total: float, step: int, newest: Attempt | None = None) -> _ViolationFound:
        """Return the violation of a wrong sum: the request that it contains twice, or not at all."""
        difference = total - self.sums[step]
        for first, inputs in reversed(self.requests):
            last = first + len(inputs) - 1
            if abs(difference) == sum(inputs):
                kind = Kind.DUPLICATED if difference > 0 else Kind.LOST
                return _ViolationFound(kind, first, last, f"the sum is {total:.0f}, it should be {self.sums[step]}")
        return _ViolationFound(Kind.WRONG, step, step, f"the sum is {total:.0f}, it should be {self.sums[step]}")


def check(history: Iterable[Event]) -> Report:
    """Check a history, and return the first violation of each session, and counts of the events."""
    report, models, boot = Report(), dict[str, _SessionModel](), 0
    for event in history:
        if isinstance(event, Restarted):
            boot += 1
            continue
        name = event.session
        if isinstance(event, Opened) and not event.parent:
            models[name] = _SessionModel(boot)
            report.counts["sessions"] += 1
            continue
        model = models.get(event.parent if isinstance(event, Opened) else name)
        if model is None:  # a violation of this session has been reported
            continue
        try:
            _apply(event, model, models, boot, report.counts)
        except _ViolationFound as found:
            report.violations.append(Violation(found.kind, name, found.first, found.last, found.message))
            models.pop(name, None)
    return report


def _apply(
    event: Opened | Attempt | Resumed | Rewound | Ended,
    model: _SessionModel,
    models: dict[str, _SessionModel],
    boot: int,
    counts: Counter[str],
) -> None:
    if isinstance(event, Opened):
        models[event.session] = model.branch(event.step, boot)
        counts["sessions"] += 1
        counts["branches"] += 1
    elif isinstance(event, Attempt) and event.outcome == LOST_CODE:
        counts["sessions lost"] += not model.lost
        if model.boot == boot:
            raise _ViolationFound(
                Kind.LOST, 1, model.step, "the whole session is lost, and the service was not restarted"
            )
        model.lost = True
    elif model.lost:
        raise _ViolationFound(Kind.WRONG, model.step, model.step, f"the session was lost, and then answered: {event}")
    elif isinstance(event, Attempt):
        model.attempt(event, counts)
    elif isinstance(event, Resumed):
        model.resume(event.step)
        counts["resumed"] += 1
    elif isinstance(event, Rewound):
        model.rewind(event.requests, event.step)
        counts["rewinds"] += 1
    else:
        model.end(event.step, event.total)
        counts["sessions compared at their end"] += 1
