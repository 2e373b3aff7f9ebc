"""Tombstones: records of sessions that ended, kept for an hour."""

from collections.abc import Callable
from typing import NamedTuple

from service.errors import ServiceError
from service.sessions.expiring_map import ExpiringMap
from service.sessions.session import End, Session
from service.sessions.tenant import NextOpened

TOMBSTONES = 100_000
TOMBSTONE_SECONDS = 3600.0


class Tombstone(NamedTuple):
    """How and at which step a session ended."""

    end: End
    step: int
    newer: str | NextOpened
    """The id of the session that the tenant opened next, or the `NextOpened` that will have it."""
    named: tuple[str, str, str] | None
    """Tenant, model and name; None where the session had no name."""

    def error(self) -> ServiceError:
        """Return the error for a request of its tenant; for other tenants the session does not exist."""
        return self.end.error(self.step)

    def opened_next(self) -> str | None:
        """Return the id of the session that the tenant opened next, None where it has not opened another one."""
        return self.newer.id if isinstance(self.newer, NextOpened) else self.newer


class Tombstones:
    """The tombstones of at most `most` sessions, shared among the tenants, each for an hour.

    `_kept` has the tombstones by tenant and session id. `_ids` has, by (tenant, model, name), the id of the last
    session of that name that ended; its tombstone is in `_kept`.
    """

    def __init__(self, clock: Callable[[], float], most: int = TOMBSTONES) -> None:
        self._kept: ExpiringMap[str, Tombstone] = ExpiringMap(
            most, TOMBSTONE_SECONDS, clock=clock, dropped=self._forget_name
        )
        self._ids: dict[tuple[str, str, str], str] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, tenant: str, session_id: str) -> Tombstone | None:
        """Return the tombstone of a tenant's session, None where there is none."""
        return self._kept.get(tenant, session_id)

    def last_of_name(self, tenant: str, model: str, name: str) -> str | None:
        """Return the id of the last session of a name that ended, None where it has no tombstone."""
        return self._ids.get((tenant, model, name))

    def add(self, session: Session, end: End, name: str | None, newer: str | NextOpened) -> None:
        """Add the tombstone of a session that has just ended; `name` is the name that it had."""
        named = (session.tenant, session.model.name, name) if name is not None else None
        if named is not None:
            self._ids[named] = session.id
        self._kept.put(session.tenant, session.id, Tombstone(end, session.step, newer, named))

    def expire(self) -> None:
        """Drop the tombstones that are an hour old."""
        self._kept.expire()

    def _forget_name(self, session_id: str, tombstone: Tombstone) -> None:
        """Remove the name of a session whose tombstone is dropped, unless a later session of that name has ended."""
        if tombstone.named is not None and self._ids[tombstone.named] == session_id:
            del self._ids[tombstone.named]
