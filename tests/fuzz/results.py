"""What became of the cases of a fuzz run."""

from collections import Counter
from dataclasses import dataclass, field

ANSWER_SECONDS = 5.0
"""Seconds within which a case has to be answered, or its connection closed."""
_NOT_IMPLEMENTED = 501
"""The status that clients of the Open Inference Protocol expect for what is not supported."""
_SWITCHED_OFF = b'"model_control_off"'
"""The code of the only other 5xx that is no fault: a 503 for an operation that the operator has not switched on."""
_SHOWN = 5


@dataclass(slots=True)
class Results:
    """Counts of cases by source, and of their outcomes; the first faults in words."""

    cases: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    server_errors: int = 0
    unanswered: int = 0
    shown: list[str] = field(default_factory=list)

    def answered(self, source: str, sent: bytes, status: int, body: bytes) -> None:
        """Count a case that was answered."""
        self.cases[source] += 1
        self.outcomes[f"{status // 100}xx"] += 1
        if status >= 500 and status != _NOT_IMPLEMENTED and _SWITCHED_OFF not in body:
            self.server_errors += 1
            self.show(f"{source}: {status} {body[:200]!r} to {sent[:300]!r}")

    def closed(self, source: str) -> None:
        """Count a case after which the service closed the connection without an answer."""
        self.cases[source] += 1
        self.outcomes["closed"] += 1

    def hung(self, source: str, sent: bytes) -> None:
        """Count a case that was neither answered nor closed in time."""
        self.cases[source] += 1
        self.unanswered += 1
        self.show(f"{source}: no answer to {sent[:300]!r}")

    def show(self, fault: str) -> None:
        """Remember one of the first faults."""
        if len(self.shown) < _SHOWN:
            self.shown.append(fault)
