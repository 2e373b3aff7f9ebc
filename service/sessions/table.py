"""The table of all sessions: creating them, finding them, ending them, and what is known of those that ended."""

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
)
from service.repository.served_model import ServedModel
from service.sessions.expiry import Expiry
from service.sessions.session import End, Session
from service.sessions.tenant import Tenant
from service.sessions.tombstones import TOMBSTONES, Tombstones

_ID = re.compile(r"[A-Za-z0-9]{1,32}-[A-Za-z0-9]+-[A-Za-z0-9_-]{22}")

SWEEP = 2048
"""So many sessions are looked at before the event loop goes on to others."""


@dataclass(slots=True)
class FleetLookup:
    """The sessions that a fleet step names, row by row, and by row the error that says why there is none.

    `uniform` says that all rows were found, are different sessions with no work under way, and run on exactly the
    model asked for.
    """

    sessions: list[Session | None]
    errors: dict[int, ServiceError]
    uniform: bool


class SessionTable:
    """All live sessions, and for an hour the tombstones of those that ended. `accepting` tells that more may come.

    Creating, finding and ending a session take constant time. Each live session is with its tenant and in the schedule
    of expiry, and `session.ended` is None; one that ended is in neither, and has a tombstone for a while.
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
        """Tell whether a key looks like the ids that are made here, so that no client may choose it as a name."""
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
        """Open a session at the model's initial state, under a name of the tenant's where it gives one.

        It may replace a session, whose name it takes; that one is to be closed, unless `undo` gives the name back.

        Raises:
            ShuttingDown: The service is going away.
            NotStreamable: The model's card says that it reads whole sequences only.
            ModelReplaced: The version is no longer served.
            TableFull: The model has as many sessions, or rows to keep for them, as it may have.
        """
        if not self.accepting:
            raise ShuttingDown
        if not model.card.streams:
            raise NotStreamable(model.name)
        if model.retired:
            raise ModelReplaced(None)
        freed = 0
        if instead_of is not None and instead_of.model is model and instead_of.busy is None:  # it goes after one step
            freed = 1 + instead_of.keep
        if model.promised - freed + 1 + keep > model.max_sessions:
            raise TableFull(model.max_sessions)
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
        model.promised += 1 + keep
        model.sessions += 1
        model.sessions_created += 1
        return session

    def fork(self, session: Session, idle_limit: float, keep: int) -> Session:
        """Open a session at another one's state; both point at the same row until they step.

        Raises:
            ShuttingDown, ModelReplaced, TableFull: As `create`.
        """
        forked = self.create(session.tenant, session.model, idle_limit, keep=keep)
        session.branch(forked)
        return forked

    def undo(self, session: Session, before: Session | None) -> None:
        """Undo that a session was opened; its name goes back to `before`, the session that it replaced."""
        owner, name = self._tenants[session.tenant], session.name
        owner.rename(session, None)
        if before is not None and before.ended is None:
            owner.rename(before, name)
        self.close(session)

    def resident(self, session_id: str, tenant: str) -> Session | None:
        """Return a live session of the tenant that this process holds, None where it holds none of that id.

        Raises:
            SessionExpired, ModelReplaced: It is over; it has been ended now.
        """
        owner = self._tenants.get(tenant)
        session = owner.sessions.get(session_id) if owner is not None else None
        if session is None:
            return None
        now = self._clock()
        if session.used + session.idle_limit <= now or session.model.retired:
            why = self._why_over(session, now)
            if why is not None:
                raise why
        return session

    async def load(self, session_id: str, tenant: str) -> Session:
        """Return a live session of the tenant that is not resident: in memory alone, there is none.

        Raises:
            SessionNotFound, SessionExpired, SessionClosed, ModelReplaced, SessionLost: As `find`.
        """
        raise self._why_missing(session_id, tenant)

    def find(self, session_id: str, tenant: str) -> Session:
        """Return a live session of the tenant that is resident.

        Raises:
            SessionNotFound: It never was, or is another tenant's.
            SessionExpired, SessionClosed, ModelReplaced: It was this tenant's, and ended.
            SessionLost: It was made by this replica before its last start.
        """
        session = self.resident(session_id, tenant)
        if session is None:
            raise self._why_missing(session_id, tenant)
        return session

    def find_named(self, name: str, tenant: str, model: str) -> Session:
        """Return the tenant's live session of a model by its name, or by its id.

        Raises:
            SessionNotFound, SessionExpired, SessionClosed, ModelReplaced, SessionLost: As `find`.
        """
        owner = self._tenants.get(tenant)
        session = owner.find(model, name) if owner is not None else None
        if session is None:
            raise self._why_name_missing(name, tenant, model)
        if session.model.name != model:
            raise SessionNotFound
        if (why := self._why_over(session, self._clock())) is not None:
            raise why
        return session

    def last_of_name(self, name: str, tenant: str, model: str) -> str | None:
        """Return the id of the last session of that name that ended, as long as that is known."""
        return self._tombstones.last_of_name(tenant, model, name)

    def find_fleet(self, keys: list[str], tenant: str, model: ServedModel) -> FleetLookup:
        """Look up the live session of each id or name; those that are over are ended."""
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
                error: ServiceError | None = self._why_name_missing(key, tenant, model.name)
            elif session.model.name != model.name:
                error = SessionNotFound()
            else:
                error = self._why_over(session, now)
            if error is not None:
                errors[len(found)] = error
            found.append(session if error is None else None)
        return FleetLookup(found, errors, uniform and len(set(found)) == len(found))

    def page(self, tenant: str, limit: int, after: str | None = None) -> tuple[list[Session], str | None]:
        """Return up to `limit` of the tenant's sessions as they were opened, and the id after which to go on.

        This page begins after the session with the id `after`; that may have ended, as long as its tombstone stands.
        It is shorter where many of those that were opened next have ended. Sessions that are over are ended.

        Raises:
            InvalidInput: `after` is the id of no such session.
        """
        owner = self._tenants.get(tenant) or Tenant()
        if after is not None:
            following = self._opened_after(after, owner, tenant)
        else:
            following = owner.oldest.id if owner.oldest is not None else None
        listed: list[Session] = []
        last, now = after, self._clock()
        for _ in range(SWEEP):
            if following is None or len(listed) == limit:
                break
            last, session = following, owner.sessions.get(following)
            following = self._opened_after(last, owner, tenant)
            if session is not None and self._why_over(session, now) is None:
                listed.append(session)
        return listed, last if following is not None else None

    def extend(self, session: Session, idle_limit: float) -> None:
        """Give a session another idle limit, from now on."""
        self._expiry.remove(session)
        session.idle_limit, session.used = idle_limit, self._clock()
        self._expiry.add(session)

    def close(self, session: Session) -> None:
        """End a session because its tenant asks for it; its chunks that wait are refused, its row is released."""
        self._end(session, End.CLOSED)

    def sweep(self, most: int = SWEEP) -> int:
        """Look at `most` of the sessions whose idle limit may have passed, and end those whose did; return how many.

        Where `sweeping` says so, there are more of them for the next call.
        """
        now, ended = self._clock(), 0
        for session in self._expiry.due(now, most):
            if self._why_over(session, now) is not None:
                ended += 1
            else:
                self._expiry.add(session)
        self._tombstones.expire()
        return ended

    @property
    def sweeping(self) -> bool:
        """Whether the last sweep left some sessions that are due."""
        return self._expiry.pending

    def _end(self, session: Session, end: End) -> ServiceError:
        """Take a session out of the table and return the error that says why."""
        if session.ended is not None:
            raise ValueError(f"expected a live session, found {session!r}")
        session.ended = end.error(session.step)
        name = session.name
        newer = self._tenants[session.tenant].remove(session)
        self._expiry.remove(session)
        model = session.model
        model.promised -= 1 + session.keep
        model.sessions -= 1
        if end is End.EXPIRED:
            model.sessions_expired += 1
        session.forget()
        model.arena.slots.release(session.slot)
        self._tombstones.add(session, end, name, newer)
        return end.error(session.step)

    def _why_over(self, session: Session, now: float) -> ServiceError | None:
        """Return why a session in the table cannot be used any more, having ended it; None where it can."""
        if session.model.retired:
            return self._end(session, End.REPLACED)
        if session.used + session.idle_limit <= now and session.busy is None:
            return self._end(session, End.EXPIRED)
        return None

    def _why_missing(self, session_id: str, tenant: str) -> ServiceError:
        """Return why there is no live session of an id."""
        tombstone = self._tombstones.find(session_id)
        if tombstone is not None:
            return tombstone.error(tenant)
        elsewhere = not session_id.startswith(f"{self._replica}-") or session_id.startswith(self._prefix)
        return SessionNotFound() if elsewhere or not self.is_id(session_id) else SessionLost()

    def _why_name_missing(self, key: str, tenant: str, model: str) -> ServiceError:
        """Return why there is no live session of a name, or of an id."""
        ended = self._tombstones.last_of_name(tenant, model, key)
        return self._why_missing(ended if ended is not None else key, tenant)

    def _opened_after(self, session_id: str, owner: Tenant, tenant: str) -> str | None:
        """Return the id of the session that was opened next after one that is live, or ended not long ago."""
        session = owner.sessions.get(session_id)
        if session is not None:
            return session.newer.id if session.newer is not None else None
        tombstone = self._tombstones.find(session_id)
        if tombstone is None or tombstone.tenant != tenant:
            raise InvalidInput("after", "the id of one of your sessions", "another id")
        return tombstone.opened_next()
