"""Statistics: what one batcher has answered, and where the time went."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something was measured, and how many seconds it took in all."""

    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class RunDurations:
    """The runs of one batch size: how many, and the seconds of filling inputs, running, and settling the outputs."""

    count: int = 0
    filling: float = 0.0
    running: float = 0.0
    settling: float = 0.0


@dataclass(slots=True)
class Statistics:
    """Counts of one batcher; a request is counted once, when it is answered, however many rows it has.

    `last` is when the last one was answered, on the batcher's clock; it means nothing before the first. `rows` counts
    the rows of all runs, `row_steps` the time steps of all rows.
    """

    succeeded: Duration = field(default_factory=Duration)
    failed: Duration = field(default_factory=Duration)
    waited: Duration = field(default_factory=Duration)
    runs: dict[int, RunDurations] = field(default_factory=dict)
    last: float = 0.0
    rows: int = 0
    row_steps: int = 0

    @property
    def run_count(self) -> int:
        """How many runs there were."""
        return sum(durations.count for durations in self.runs.values())

    def ran(self, rows: int, row_steps: int, start: float, begun: float, ended: float, settled: float) -> None:
        """Count a run by when its round, the run itself and the settling began, and when the settling ended."""
        durations = self.runs.get(rows)
        if durations is None:
            durations = self.runs[rows] = RunDurations()
        durations.count += 1
        durations.filling += begun - start
        durations.running += ended - begun
        durations.settling += settled - ended
        self.rows += rows
        self.row_steps += row_steps
