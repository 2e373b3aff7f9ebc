"""Tombstones: what is known of sessions that ended, for a while."""

from collections.abc import Callable
from typing import NamedTuple

from service.errors import ServiceError, SessionNotFound
from service.sessions.replay import ExpiringMap
from service.sessions.session import End, Session
from service.sessions.tenant import NextOpened

TOMBSTONES = 100_000
TOMBSTONE_SECONDS = 3600.0


class Tombstone(NamedTuple):
    """What is known of one session that ended."""

    end: End
    step: int
    tenant: str
    newer: str | NextOpened
    """The id of the session that the tenant opened next, or what will tell it."""
    named: tuple[str, str, str] | None
    """Tenant, model and name, where it had one."""

    def error(self, tenant: str) -> ServiceError:
        """Return what a tenant is told who asks for the session: another's has never been here."""
        return self.end.error(self.step) if tenant == self.tenant else SessionNotFound()

    def opened_next(self) -> str | None:
        """Return the id of the session that the tenant opened next, None where it has opened none since."""
        return self.newer.id if isinstance(self.newer, NextOpened) else self.newer


class Tombstones:
    """The tombstones of the sessions that ended last, for an hour.

    `_ids` has the id of the last session of a (tenant, model, name) that ended, while its tombstone stands.
    """

    def __init__(self, clock: Callable[[], float], most: int = TOMBSTONES) -> None:
        self._kept: ExpiringMap[str, Tombstone] = ExpiringMap(
            most, TOMBSTONE_SECONDS, clock=clock, dropped=self._forget_name
        )
        self._ids: dict[tuple[str, str, str], str] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, session_id: str) -> Tombstone | None:
        """Return the tombstone of a session, None where none stands."""
        return self._kept.get(session_id)

    def last_of_name(self, tenant: str, model: str, name: str) -> str | None:
        """Return the id of the last session of a name that ended, None where it is not known."""
        return self._ids.get((tenant, model, name))

    def add(self, session: Session, end: End, name: str | None, newer: str | NextOpened) -> None:
        """Set up the tombstone of a session that has ended now, and had this name."""
        named = (session.tenant, session.model.name, name) if name is not None else None
        if named is not None:
            self._ids[named] = session.id
        self._kept.put(session.id, Tombstone(end, session.step, session.tenant, newer, named))

    def expire(self) -> None:
        """Let go of the tombstones that have stood for an hour."""
        self._kept.expire()

    def _forget_name(self, session_id: str, tombstone: Tombstone) -> None:
        """Forget the name of a session whose tombstone goes, unless a later session of that name has ended."""
        if tombstone.named is not None and self._ids[tombstone.named] == session_id:
            del self._ids[tombstone.named]
