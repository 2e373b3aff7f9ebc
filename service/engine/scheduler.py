"""The scheduler: which jobs run together next, and which end without a run."""

from service.engine.line import Line
from service.engine.queue import JobQueue
from service.engine.statistics import Statistics
from service.engine.work import Job, Outcome, RunLimits, Work

Unrun = tuple[Job, Outcome]
"""A job that ends without a run, and how."""


class Scheduler:
    """Picks the jobs of each round from one queue; it changes nothing but the queue and the statistics."""

    def __init__(self, queue: JobQueue, limits: RunLimits, statistics: Statistics) -> None:
        self._queue, self._limits, self._statistics = queue, limits, statistics

    def pick(self, now: float, room: int) -> tuple[Work | None, list[Unrun], Line]:
        """Return the work of the next run, the jobs that end without one, and the line that both come from.

        The run has at most `room` rows. Where jobs of several groups wait, each group gives one in turn.
        """
        queue, limits = self._queue, self._limits
        line = queue.next(now)
        seconds = limits.round_seconds / 4
        if line is queue.long:
            if not queue.short_are_coming(now):
                seconds *= 2
            room = min(room, limits.costs.rows_within(seconds))
        picked: list[Job] = []
        unrun: list[Unrun] = []
        while line.first and len(picked) < room and not (line.first[0].alone and picked):
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
            picked.append(job)
            if job.alone:
                break
        return (picked[0].gather(picked, limits, seconds, room) if picked else None), unrun, line
