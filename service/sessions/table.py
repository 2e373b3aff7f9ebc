"""The table of all sessions: creating, finding and ending them, and the errors for those that ended."""

import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from service.errors import (
    InvalidInput,
    ModelReplaced,
    NotStreamable,
    ServiceError,
    SessionLost,
    SessionNotFound,
    ShuttingDown,
    TableFull,
    TenantFull,
)
from service.repository.served_model import ServedModel
from service.sessions.expiry import Expiry
from service.sessions.session import End, Session
from service.sessions.tenant import Tenant
from service.sessions.tombstones import TOMBSTONES, Tombstones

_ID = re.compile(r"[A-Za-z0-9]{1,32}-[A-Za-z0-9]+-[A-Za-z0-9_-]{22}")

_MAX_CHECKS = 2048
"""Most sessions that are checked before the event loop may run other tasks."""


@dataclass(slots=True)
class FleetLookup:
    """The session of each row of a fleet step, None where there is none, and the error of each such row, by its index.

    `uniform` is whether all rows have different sessions, none of which has work queued or running, on exactly the
    version of the model that was asked for.
    """

    sessions: list[Session | None]
    errors: dict[int, ServiceError]
    uniform: bool


class SessionTable:
    """All live sessions, and the tombstones of those that ended. `accepting` is whether sessions may be created.

    Creating, finding and ending a session take constant time. `session.ended` of a live session is None; the session is
    in the `Tenant` of its tenant, in `_tenants`, and scheduled in `_expiry`. One that ended is in neither of these, and
    has a tombstone for an hour.
    """

    def __init__(
        self, *, replica: str, boot: str, clock: Callable[[], float] = time.monotonic, tombstones: int = TOMBSTONES
    ) -> None:
        self._prefix, self._replica = f"{replica}-{boot}-", replica
        self._clock = clock
        self._tenants: dict[str, Tenant] = {}
        self._expiry = Expiry(clock())
        self._tombstones = Tombstones(clock, tombstones)
        self.accepting = True

    def __len__(self) -> int:
        return sum(len(tenant.sessions) for tenant in self._tenants.values())

    def __repr__(self) -> str:
        return f"<SessionTable {len(self)} live, {len(self._tombstones)} tombstones>"

    def __iter__(self) -> Iterator[Session]:
        for tenant in self._tenants.values():
            yield from tenant.sessions.values()

    @staticmethod
    def is_id(key: str) -> bool:
        """Return whether a key has the format of a session's id; clients may not choose such a key as a name."""
        return _ID.fullmatch(key) is not None

    def create(
        self,
        tenant: str,
        model: ServedModel,
        idle_limit: float,
        name: str | None = None,
        keep: int = 0,
        instead_of: Session | None = None,
    ) -> Session:
        """Open a session in the model's initial state; its optional name is unique for the tenant and the model.

        It takes its name from `instead_of`, a session that it replaces. The caller has to close that session, or to
        return its name to it by `undo`. The time in `idle_limit` is in seconds.

        Raises:
            ShuttingDown: The service does not accept new sessions.
            NotStreamable: By its card, the model runs whole sequences only.
            ModelReplaced: The version of the model is RETIRED or CLOSED.
            TableFull: The model's sessions, with the rows that they may keep, have reached the limit.
            TenantFull: The tenant's have reached its share of that limit.
        """
        if not self.accepting:
            raise ShuttingDown
        if not model.card.streams:
            raise NotStreamable(model.name)
        if model.retired:
            raise ModelReplaced(None)
        freed = 0
        # the replaced session is closed after the first step of this one, so its rows are not counted twice
        if instead_of is not None and instead_of.model is model and instead_of.busy is None:
            freed = 1 + instead_of.keep
        more = 1 + keep - freed
        if model.promised + more > model.max_sessions:
            raise TableFull(model.max_sessions)
        if not model.quota.allows(tenant, more):
            raise TenantFull(model.quota.most)
        session = Session(
            self._prefix + secrets.token_urlsafe(16), tenant, model, idle_limit, self._clock(), name, keep
        )
        owner = self._tenants.get(tenant)
        if owner is None:
            owner = self._tenants[tenant] = Tenant()
        if instead_of is not None:
            owner.rename(instead_of, None)
        owner.add(session)
        self._expiry.add(session)
        model.opened(tenant, keep)
        return session

    def fork(self, session: Session, idle_limit: float, keep: int) -> Session:
        """Open a session with the state of another one; both refer to the same row until they advance.

        Raises:
            ShuttingDown, ModelReplaced, TableFull, TenantFull: As in `create`.
        """
        forked = self.create(session.tenant, session.model, idle_limit, keep=keep)
        session.branch(forked)
        return forked

    def undo(self, session: Session, before: Session | None) -> None:
        """Close a session that was just opened, and return its name to `before`, the session that it replaced."""
        owner, name = self._tenants[session.tenant], session.name
        owner.rename(session, None)
        if before is not None and before.ended is None:
            owner.rename(before, name)
        self.close(session)

    def resident(self, session_id: str, tenant: str) -> Session | None:
        """Return a live session of the tenant that is in memory, None where there is none with this id.

        Raises:
            SessionExpired, ModelReplaced: Its idle limit has passed, or its model is retired; it has been ended.
        """
        owner = self._tenants.get(tenant)
        session = owner.sessions.get(session_id) if owner is not None else None
        if session is None:
            return None
        now = self._clock()
        if session.used + session.idle_limit <= now or session.model.retired:
            error = self._end_if_over(session, now)
            if error is not None:
                raise error
        return session

    async def load(self, session_id: str, tenant: str) -> Session:
        """Load a live session of the tenant that is not in memory. Without a store there is none: this always raises.

        Raises:
            SessionNotFound, SessionExpired, SessionClosed, ModelReplaced, SessionLost: As in `find`.
        """
        raise self._error_of_id(session_id, tenant)

    async def get(self, session_id: str, tenant: str) -> Session:
        """Return a live session of the tenant, resident or loaded; raises as `resident` and `load` do."""
        return self.resident(session_id, tenant) or await self.load(session_id, tenant)

    def find(self, session_id: str, tenant: str) -> Session:
        """Return a live session of the tenant that is in memory.

        Raises:
            SessionNotFound: It is unknown, or another tenant's.
            SessionExpired, SessionClosed, ModelReplaced: It was this tenant's, and ended.
            SessionLost: This replica created it before its last start.
        """
        session = self.resident(session_id, tenant)
        if session is None:
            raise self._error_of_id(session_id, tenant)
        return session

    def find_named(self, name: str, tenant: str, model: str) -> Session:
        """Return the tenant's live session of a model by its name or its id.

        Raises:
            SessionNotFound, SessionExpired, SessionClosed, ModelReplaced, SessionLost: As in `find`.
        """
        owner = self._tenants.get(tenant)
        session = owner.find(model, name) if owner is not None else None
        if session is None:
            raise self._error_of_name(name, tenant, model)
        if session.model.name != model:
            raise SessionNotFound
        if (error := self._end_if_over(session, self._clock())) is not None:
            raise error
        return session

    def last_of_name(self, name: str, tenant: str, model: str) -> str | None:
        """Return the id of the last session of this name that ended, None where it has no tombstone."""
        return self._tombstones.last_of_name(tenant, model, name)

    def find_fleet(self, keys: list[str], tenant: str, model: ServedModel) -> FleetLookup:
        """Find the live session of each id or name; end those whose idle limit has passed or whose model is retired."""
        now, owner = self._clock(), self._tenants.get(tenant) or Tenant()
        by_id, by_name = owner.sessions, owner.named.get(model.name, {})
        current = model if not model.retired else None
        found: list[Session | None] = []
        errors: dict[int, ServiceError] = {}
        uniform = True
        for key in keys:
            session = by_id.get(key) or by_name.get(key)
            if session is not None and session.model is current and session.used + session.idle_limit > now:
                if session.busy is not None:
                    uniform = False
                found.append(session)
                continue
            uniform = False
            if session is None:
                error: ServiceError | None = self._error_of_name(key, tenant, model.name)
            elif session.model.name != model.name:
                error = SessionNotFound()
            else:
                error = self._end_if_over(session, now)
            if error is not None:
                errors[len(found)] = error
            found.append(session if error is None else None)
        return FleetLookup(found, errors, uniform and len(set(found)) == len(found))

    def page(self, tenant: str, limit: int, after: str | None = None) -> tuple[list[Session], str | None]:
        """Return up to `limit` of the tenant's sessions, the oldest first, and `after` of the next page, None for none.

        The page begins after the session with the id `after`, which may have ended if it still has a tombstone. The
        page has fewer sessions where many of the following ones have ended. Sessions whose idle limit has passed, or
        whose model is retired, are ended.

        Raises:
            InvalidInput: The tenant has no session with the id `after`, and no tombstone of it.
        """
        owner = self._tenants.get(tenant) or Tenant()
        if after is not None:
            following = self._opened_after(after, owner, tenant)
        else:
            following = owner.oldest.id if owner.oldest is not None else None
        listed: list[Session] = []
        last, now = after, self._clock()
        for _ in range(_MAX_CHECKS):
            if following is None or len(listed) == limit:
                break
            last, session = following, owner.sessions.get(following)
            following = self._opened_after(last, owner, tenant)
            if session is not None and self._end_if_over(session, now) is None:
                listed.append(session)
        return listed, last if following is not None else None

    def extend(self, session: Session, idle_limit: float) -> None:
        """Change the idle limit of a session, in seconds, and count it from now."""
        self._expiry.remove(session)
        session.idle_limit, session.used = idle_limit, self._clock()
        self._expiry.add(session)

    def close(self, session: Session) -> None:
        """End a session at its tenant's request: its queued chunks fail, and its row is released."""
        self._end(session, End.CLOSED)

    def sweep(self, most: int = _MAX_CHECKS) -> int:
        """End sessions whose idle limit has passed, and return how many were ended.

        At most `most` of the sessions that are due are checked; if there are more, `sweeping` is True afterwards.
        """
        now, ended = self._clock(), 0
        for session in self._expiry.due(now, most):
            if self._end_if_over(session, now) is not None:
                ended += 1
            else:
                self._expiry.add(session)
        self._tombstones.expire()
        return ended

    @property
    def sweeping(self) -> bool:
        """Whether the last sweep left sessions that are due."""
        return self._expiry.pending

    def _end(self, session: Session, end: End) -> ServiceError:
        """Remove a session from the table, and return the error for later requests."""
        if session.ended is not None:
            raise ValueError(f"expected a live session, found {session!r}")
        session.ended = end.error(session.step)
        name = session.name
        newer = self._tenants[session.tenant].remove(session)
        self._expiry.remove(session)
        model = session.model
        model.ended(session.tenant, session.keep, expired=end is End.EXPIRED)
        session.forget()
        model.arena.slots.release(session.slot)
        self._tombstones.add(session, end, name, newer)
        return end.error(session.step)

    def _end_if_over(self, session: Session, now: float) -> ServiceError | None:
        """End a session whose model is retired, or that has expired and has no work; return the error, None if live."""
        if session.model.retired:
            return self._end(session, End.REPLACED)
        if session.used + session.idle_limit <= now and session.busy is None:
            return self._end(session, End.EXPIRED)
        return None

    def _error_of_id(self, session_id: str, tenant: str) -> ServiceError:
        """Return the error for an id that no live session has."""
        tombstone = self._tombstones.find(tenant, session_id)
        if tombstone is not None:
            return tombstone.error()
        unknown = not session_id.startswith(f"{self._replica}-") or session_id.startswith(self._prefix)
        return SessionNotFound() if unknown or not self.is_id(session_id) else SessionLost()

    def _error_of_name(self, key: str, tenant: str, model: str) -> ServiceError:
        """Return the error for a name or id that no live session has."""
        ended = self._tombstones.last_of_name(tenant, model, key)
        return self._error_of_id(ended if ended is not None else key, tenant)

    def _opened_after(self, session_id: str, owner: Tenant, tenant: str) -> str | None:
        """Return the id of the session opened next after one that is live or has a tombstone; None for none."""
        session = owner.sessions.get(session_id)
        if session is not None:
            return session.newer.id if session.newer is not None else None
        tombstone = self._tombstones.find(tenant, session_id)
        if tombstone is None:
            raise InvalidInput("after", "the id of one of your sessions", "another id")
        return tombstone.opened_next()
