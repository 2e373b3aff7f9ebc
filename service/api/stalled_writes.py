"""Which clients do not read: what was sent to them has stayed in the buffer of their connection."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

PATIENCE = 2.0
"""Seconds in which a client has to read a part of what is sent to it while the server stops."""


class Writing(Protocol):
    """What is asked of a transport."""

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that wait to be sent."""


_Transport = TypeVar("_Transport", bound=Writing)


class StalledWrites:
    """Remembers, by transport, how many bytes wait to be sent, and since when they have not become fewer."""

    def __init__(self) -> None:
        self._seen: dict[Writing, tuple[int, float]] = {}

    def stalled(self, transports: Iterable[_Transport], now: float) -> list[_Transport]:
        """Return the transports whose buffer has not shrunk for PATIENCE seconds."""
        seen: dict[Writing, tuple[int, float]] = {}
        found = []
        for transport in transports:
            size = transport.get_write_buffer_size()
            if not size:
                continue
            before, since = self._seen.get(transport, (size + 1, now))
            if size < before:
                since = now
            seen[transport] = size, since
            if now - since >= PATIENCE:
                found.append(transport)
        self._seen = seen
        return found
