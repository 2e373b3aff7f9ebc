"""The two lanes in which work waits for a turn of the engine: long work must not hold up single steps."""

import math
from collections import deque

from service.engine.work import SHORT, Chunk, FleetStep

LONG_REST = 2.0
"""After a turn, the long lane rests so many times the turn's duration while short chunks keep coming."""
SHORT_PAUSE = 0.005
"""Seconds without a short chunk after which the long lane need not rest."""

Lane = deque[Chunk | FleetStep]


class Lanes:
    """Work that is ready, and which lane goes next: while short chunks keep coming, long ones get a third of the time.

    A session's short chunks and fleet steps wait in `short`; predictions and long chunks in `long`.
    """

    __slots__ = ("_last_short", "_long_after", "_long_was_last", "long", "short")

    def __init__(self) -> None:
        self.short: Lane = deque()
        self.long: Lane = deque()
        self._last_short = self._long_after = -math.inf
        self._long_was_last = False

    def __bool__(self) -> bool:
        return bool(self.short or self.long)

    def __repr__(self) -> str:
        return f"<Lanes {len(self.short)} short, {len(self.long)} long>"

    def of(self, chunk: Chunk) -> Lane:
        """Return where a chunk waits."""
        return self.short if chunk.owner is not None and chunk.steps <= SHORT else self.long

    def next(self, now: float) -> Lane:
        """Return the lane whose turn it is."""
        rested = now >= self._long_after and not (self.short and self._long_was_last)
        self._long_was_last = bool(self.long) and (rested or not self.short_are_coming(now))
        if self._long_was_last:
            return self.long
        if self.short:
            self._last_short = now
        return self.short

    def took(self, lane: Lane, start: float, end: float) -> None:
        """Note that a lane had a turn; the long one rests after it."""
        if lane is self.long:
            self._long_after = end + LONG_REST * (end - start)

    def pause(self, now: float) -> float:
        """Return the seconds until the next turn is to be taken; none where anything may go now."""
        if self.short or not self.short_are_coming(now):
            return 0.0
        return max(0.0, self._long_after - now)

    def short_are_coming(self, now: float) -> bool:
        """Tell whether short chunks wait, or did a moment ago."""
        return bool(self.short) or now - self._last_short < SHORT_PAUSE
