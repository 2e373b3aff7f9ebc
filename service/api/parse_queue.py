"""Parsing that leaves the event loop to others: bytes that are costly to parse are parsed in pieces, at a limited rate.

A few kilobytes can hold hundreds of WebSocket frames or of chunks of a body, each of which costs as much as a whole
request does. One read of a socket may bring a hundred times as many.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

SECONDS = 0.00025
"""Seconds for which a connection parses when it is its turn in the queue."""
FIRST_SECONDS = 0.0001
"""Seconds for which it parses what it has just read, before it joins the queue: many may do so one behind the other."""
_REST = 9
"""The queue rests this many times as long as it has parsed: it takes at most a tenth of the event loop's time."""
SMALLEST_PIECE = 512
"""Bytes of the first piece; the next one is twice as large while the last one took little time."""


class Parsing(Protocol):
    """A connection that holds bytes it has received and not parsed."""

    def parse_on(self) -> None:
        """Parse for SECONDS, and join the queue again if bytes are left that may be parsed."""


class ParseQueue:
    """The connections that have more to parse than SECONDS allow: one at a time, for at most a tenth of the time.

    `_busy` is whether a call of `_run` is scheduled or under way.
    """

    def __init__(self) -> None:
        self._waiting: deque[Parsing] = deque()
        self._busy = False

    def add(self, connection: Parsing) -> None:
        """Let a connection parse on once those before it have done so."""
        self._waiting.append(connection)
        if not self._busy:
            self._busy = True
            self._schedule(SECONDS)

    def _schedule(self, spent: float) -> None:
        asyncio.get_running_loop().call_later(_REST * spent, self._run)

    def _run(self) -> None:
        start = perf_counter()
        try:
            self._waiting.popleft().parse_on()
        finally:
            self._busy = bool(self._waiting)
            if self._busy:
                self._schedule(perf_counter() - start)


def parse_pieces(data: bytes, parse: Callable[[bytes], bool], largest: int, seconds: float) -> bytes:
    """Parse data in pieces of at most `largest` bytes, until `seconds` are over or `parse` returns False.

    Return the bytes that are left.
    """
    start = last = perf_counter()
    at, size, going_on = 0, SMALLEST_PIECE, True
    while going_on and at < len(data) and last - start < seconds:
        going_on = parse(data[at : at + size])
        at += size
        now = perf_counter()
        if now - last < seconds / 8:
            size = min(2 * size, largest)
        last = now
    return data[at:]
