"""The tally: what one model has answered, and where the time went."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Span:
    """So many times something took so long, all together, in seconds."""

    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Runs:
    """The runs of one batch size: filling the inputs, the engine itself, and settling what it gave."""

    count: int = 0
    filling: float = 0.0
    running: float = 0.0
    settling: float = 0.0


@dataclass(slots=True)
class Tally:
    """Counts of one batcher. A request is an entry of its queue, and counted once, when it is answered.

    `last` is when the last one was answered, on the batcher's clock; it means nothing before the first.
    """

    succeeded: Span = field(default_factory=Span)
    failed: Span = field(default_factory=Span)
    waited: Span = field(default_factory=Span)
    runs: dict[int, Runs] = field(default_factory=dict)
    last: float = 0.0

    def began(self, requests: int, waited: float) -> None:
        """Count requests whose wait is over, after so many seconds in all."""
        self.waited.count += requests
        self.waited.seconds += waited

    def ran(self, rows: int, start: float, begun: float, ended: float, settled: float) -> None:
        """Count a run by when its turn, the run itself and the settling of what it gave began, and when all ended."""
        runs = self.runs.get(rows)
        if runs is None:
            runs = self.runs[rows] = Runs()
        runs.count += 1
        runs.filling += begun - start
        runs.running += ended - begun
        runs.settling += settled - ended
