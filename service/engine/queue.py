"""The queue of one engine: two lines, as long jobs must not delay single steps."""

import math
from collections.abc import Sequence

from service.engine.line import Line
from service.engine.work import Job

LONG_REST = 2.0
"""After a round, the long line pauses for this many times the round's duration while short jobs keep coming."""
SHORT_PAUSE = 0.005
"""Seconds without a short job after which the long line need not pause."""


class JobQueue:
    """Jobs that can run, in two lines: while short ones keep coming, long ones get a third of the time.

    Short chunks of sessions and fleet steps wait in `short`; predictions and long chunks in `long`. The long line
    pauses until `_long_after`; `_last_short` is when the short line was last chosen while it held a job.
    """

    __slots__ = ("_last_short", "_long_after", "_long_was_last", "long", "short")

    def __init__(self) -> None:
        self.short = Line()
        self.long = Line()
        self._last_short = self._long_after = -math.inf
        self._long_was_last = False

    def __bool__(self) -> bool:
        return bool(self.short.first or self.long.first)

    def __repr__(self) -> str:
        return f"<JobQueue {len(self.short)} short, {len(self.long)} long>"

    def add(self, job: Job) -> None:
        """Append a job to its line."""
        line, group = self.short if job.short else self.long, job.waiter.group
        if not line.first:
            line.group = group
        (line.first if line.group == group else line.of(group)).append(job)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Put jobs back that were run in part, among those of their own group.

        Chunks come to the front, in sequence, jobs that run alone to the back.
        """
        for job in reversed(jobs):
            same = (self.short if job.short else self.long).of(job.waiter.group)
            if job.alone:
                same.append(job)
            else:
                same.appendleft(job)

    def pop(self) -> Job:
        """Remove and return the first job of the short line, or else of the long one."""
        line = self.short if self.short.first else self.long
        job = line.first.popleft()
        line.rotate()
        return job

    def next(self, now: float) -> Line:
        """Return the line that the next round takes its jobs from."""
        short = self.short
        if not self.long.first:
            self._long_was_last = False
        else:
            paused = now < self._long_after or (bool(short.first) and self._long_was_last)
            self._long_was_last = not paused or not self.short_are_coming(now)
            if self._long_was_last:
                return self.long
        if short.first:
            self._last_short = now
        return short

    def rest(self, start: float, end: float) -> None:
        """Have the long line pause after a round of its own."""
        self._long_after = end + LONG_REST * (end - start)

    def pause(self, now: float) -> float:
        """Return the seconds until the next round; 0 where a job can go now."""
        if self.short.first or not self.short_are_coming(now):
            return 0.0
        return max(0.0, self._long_after - now)

    def short_are_coming(self, now: float) -> bool:
        """Tell whether short jobs wait, or did within the last SHORT_PAUSE seconds."""
        return bool(self.short.first) or now - self._last_short < SHORT_PAUSE
