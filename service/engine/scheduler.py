"""The scheduler: which jobs run together next, and which end without a run."""

from service.engine.line import Line
from service.engine.queue import JobQueue
from service.engine.statistics import Statistics
from service.engine.work import Job, Outcome, RunLimits

Unrun = tuple[Job, Outcome]
"""A job that ends without a run, and how."""


class Scheduler:
    """Picks the jobs of each round from one queue.

    It takes them off the queue, and notes in their waiters and in the statistics that they no longer wait; it answers
    none, and changes no session.
    """

    def __init__(self, queue: JobQueue, limits: RunLimits, statistics: Statistics) -> None:
        self._queue, self._limits, self._statistics = queue, limits, statistics

    def long_budget(self, now: float, room: int) -> tuple[float, int]:
        """Return how many seconds a run of the long line may take, and its most rows, which are `room` at most."""
        seconds = self._limits.round_seconds / (4 if self._queue.short_are_coming(now) else 2)
        return seconds, min(room, self._limits.costs.rows_within(seconds))

    def ended(self, now: float) -> list[Unrun]:
        """Remove and return the jobs that end without a run, wherever they wait; for when none can be run."""
        unrun: list[Unrun] = []
        for job in [*self._queue.short.drain(), *self._queue.long.drain()]:
            outcome = job.outcome(now)
            if outcome is None:
                self._queue.add(job)
            else:
                unrun.append((job, outcome))
        return unrun

    def pick(self, line: Line, jobs: list[Job], now: float, room: int) -> list[Unrun]:
        """Move jobs from a line to those of a run, up to `room`; return the jobs that end without a run.

        Where jobs of several groups wait, each group gives one in turn. When the jobs that are returned have been
        answered, the next jobs of their sessions are ready: pick again until none is returned.
        """
        unrun: list[Unrun] = []
        while line.first and len(jobs) < room and not (jobs and (line.first[0].alone or jobs[0].alone)):
            job = line.first.popleft()
            if line.others:
                line.rotate()
            outcome = job.outcome(now)
            if outcome is not None:
                unrun.append((job, outcome))
                continue
            waiter = job.waiter
            if not waiter.started:
                waiter.started = True
                self._statistics.waited.count += 1
                self._statistics.waited.seconds += now - waiter.since
            jobs.append(job)
        return unrun
