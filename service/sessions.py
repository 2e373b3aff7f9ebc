"""The table of all sessions: who may find which, until when, and what is remembered of those that ended."""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from service.errors import (
    InvalidInput,
    NotStreamable,
    ServiceError,
    SessionLost,
    SessionNotFound,
    ShuttingDown,
    TableFull,
)
from service.session import GONE, Phase, Session

if TYPE_CHECKING:
    from service.repository import ServedModel

_ID = re.compile(r"[A-Za-z0-9]{1,32}-[A-Za-z0-9]+-[0-9a-f]{32}")

TOMBSTONES = 100_000
TOMBSTONE_SECONDS = 3600.0


class _Next:
    """The id of the session that a tenant opens behind some of its others; None until it has."""

    __slots__ = ("id",)

    def __init__(self, session_id: str | None = None) -> None:
        self.id = session_id


class _Tombstone(NamedTuple):
    """What is remembered of a session that ended; `newer` leads to the one that its tenant opened next."""

    phase: Phase
    step: int
    tenant: str
    at: float
    newer: _Next


class _Tenant:
    """One tenant's live sessions: by id, by model and name, and chained in the order in which they were opened.

    `next` is what those that end as the newest have in common: the session that will be opened next.
    """

    __slots__ = ("named", "newest", "next", "oldest", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.named: dict[str, dict[str, Session]] = {}
        self.oldest: Session | None = None
        self.newest: Session | None = None
        self.next = _Next()

    def add(self, session: Session) -> None:
        self.sessions[session.id] = session
        self.next.id, self.next = session.id, _Next()
        session.older = self.newest
        if self.newest is None:
            self.oldest = session
        else:
            self.newest.newer = session
        self.newest = session
        if session.name is not None:
            self.named.setdefault(session.model.name, {})[session.name] = session

    def remove(self, session: Session) -> None:
        del self.sessions[session.id]
        older, newer = session.older, session.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self.newest = older
        else:
            newer.older = older
        session.older = session.newer = None
        if session.name is not None:
            names = self.named[session.model.name]
            del names[session.name]
            if not names:
                del self.named[session.model.name]


class SessionTable:
    """All live sessions, and for an hour the tombstones of those that ended. `accepting` tells that more may come.

    Creating, finding and ending a session take constant time. Each live session is in one bucket of `_buckets`, by
    the second in which it was going to expire when it was put there; it may have been used since.
    """

    def __init__(
        self, *, replica: str, boot: str, clock: Callable[[], float] = time.monotonic, tombstones: int = TOMBSTONES
    ) -> None:
        self._prefix, self._replica = f"{replica}-{boot}-", replica
        self._clock, self._most_tombstones = clock, tombstones
        self._tenants: dict[str, _Tenant] = {}
        self._buckets: dict[int, set[Session]] = {}
        self._swept = int(clock())
        self._tombstones: OrderedDict[str, _Tombstone] = OrderedDict()
        self.accepting = True

    def __len__(self) -> int:
        return sum(len(tenant.sessions) for tenant in self._tenants.values())

    def __repr__(self) -> str:
        return f"<SessionTable {len(self)} live, {len(self._tombstones)} tombstones>"

    def __iter__(self) -> Iterator[Session]:
        for tenant in self._tenants.values():
            yield from tenant.sessions.values()

    def create(
        self, tenant: str, model: "ServedModel", idle_limit: float, name: str | None = None, keep: int = 0
    ) -> Session:
        """Open a session at the model's initial state, under a name of the tenant's where it gives one.

        Raises:
            ShuttingDown: The service is going away.
            NotStreamable: The model's card says that it reads whole sequences only.
            TableFull: The model has as many sessions, or rows to keep for them, as it may have.
        """
        if not self.accepting:
            raise ShuttingDown
        if not model.card.streams:
            raise NotStreamable(model.name)
        if model.promised + 1 + keep > model.max_sessions:
            raise TableFull(model.max_sessions)
        session = Session(self._prefix + secrets.token_hex(16), tenant, model, idle_limit, self._clock(), name, keep)
        owner = self._tenants.get(tenant)
        if owner is None:
            owner = self._tenants[tenant] = _Tenant()
        owner.add(session)
        self._put_in_bucket(session)
        model.promised += 1 + keep
        model.sessions += 1
        model.sessions_created += 1
        return session

    def fork(self, session: Session, idle_limit: float, keep: int) -> Session:
        """Open a session at another one's state; both point at the same row until they step.

        Raises:
            TableFull: As `create`.
        """
        forked = self.create(session.tenant, session.model, idle_limit, keep=keep)
        session.branch(forked)
        return forked

    def find(self, session_id: str, tenant: str) -> Session:
        """Return a live session of the tenant.

        Raises:
            SessionNotFound: It never was, or is another tenant's.
            SessionExpired, SessionClosed, ModelReplaced: It was this tenant's, and ended.
            SessionLost: It was made by this replica before its last start.
        """
        owner = self._tenants.get(tenant)
        session = owner.sessions.get(session_id) if owner is not None else None
        if session is None:
            raise self._why_missing(session_id, tenant)
        if (why := self._why_over(session, self._clock())) is not None:
            raise why
        return session

    def find_fleet(
        self, keys: list[str], tenant: str, model: "ServedModel"
    ) -> tuple[list[Session | None], dict[int, ServiceError]]:
        """Return for each key the live session of that id or name of the model, and by row why there is none."""
        now, owner = self._clock(), self._tenants.get(tenant) or _Tenant()
        sessions, names = owner.sessions, owner.named.get(model.name, {})
        found: list[Session | None] = []
        errors: dict[int, ServiceError] = {}
        for key in keys:
            session = sessions.get(key) or names.get(key)
            error: ServiceError | None = None
            if session is None:
                error = self._why_missing(key, tenant)
            elif session.model is not model and session.model.name != model.name:
                error = SessionNotFound()
            else:
                error = self._why_over(session, now)
            if error is not None:
                errors[len(found)] = error
                session = None
            found.append(session)
        return found, errors

    def page(self, tenant: str, limit: int, after: str | None = None) -> list[Session]:
        """Return the tenant's sessions in the order in which they were opened, `limit` of them, behind one of them.

        A session that has ended still marks a place, as long as its tombstone stands. Those that are over are ended.

        Raises:
            InvalidInput: `after` marks no place.
        """
        owner = self._tenants.get(tenant)
        session = owner.oldest if owner is not None else None
        if after is not None:
            session = self._behind(after, tenant)
        listed: list[Session] = []
        now = self._clock()
        while session is not None and len(listed) < limit:
            newer = session.newer
            if self._why_over(session, now) is None:
                listed.append(session)
            session = newer
        return listed

    def extend(self, session: Session, idle_limit: float) -> None:
        """Give a session another idle limit, from now on."""
        self._leave_bucket(session)
        session.idle_limit, session.used = idle_limit, self._clock()
        self._put_in_bucket(session)

    def close(self, session: Session) -> None:
        """End a session at its tenant's wish; its chunks that wait are refused, its row is let go."""
        self._end(session, Phase.CLOSED)

    def sweep(self) -> int:
        """End the sessions whose idle limit has passed; return how many. Looks only at buckets that are due."""
        now = self._clock()
        ended = 0
        while self._swept < int(now):
            self._swept += 1
            for session in self._buckets.pop(self._swept, ()):
                if self._why_over(session, now) is not None:
                    ended += 1
                else:
                    self._put_in_bucket(session)
        while self._tombstones:
            session_id, tombstone = next(iter(self._tombstones.items()))
            if tombstone.at + TOMBSTONE_SECONDS > now:
                break
            del self._tombstones[session_id]
        return ended

    def _why_over(self, session: Session, now: float) -> ServiceError | None:
        """Return why a session in the table cannot be used any more, having ended it; None where it can."""
        if session.model.retired:
            return self._end(session, Phase.REPLACED)
        if session.used + session.idle_limit <= now and session.last is None:
            return self._end(session, Phase.EXPIRED)
        return None

    def _why_missing(self, session_id: str, tenant: str) -> ServiceError:
        tombstone = self._tombstones.get(session_id)
        if tombstone is not None:
            return GONE[tombstone.phase](tombstone.step) if tombstone.tenant == tenant else SessionNotFound()
        elsewhere = not session_id.startswith(f"{self._replica}-") or session_id.startswith(self._prefix)
        return SessionNotFound() if elsewhere or not self.is_id(session_id) else SessionLost()

    def _behind(self, session_id: str, tenant: str) -> Session | None:
        """Return the session that was opened next after one that is live, or ended not long ago."""
        owner, place = self._tenants.get(tenant) or _Tenant(), session_id
        session = owner.sessions.get(place)
        if session is not None:
            return session.newer
        while session is None:
            tombstone = self._tombstones.get(place)
            if tombstone is None or tombstone.tenant != tenant:
                raise InvalidInput("after", "the id of one of your sessions", "another id")
            if tombstone.newer.id is None:
                return None
            place = tombstone.newer.id
            session = owner.sessions.get(place)
        return session

    @staticmethod
    def is_id(key: str) -> bool:
        """Tell whether a key has the form of the ids that are made here, so that no client may choose it as a name."""
        return _ID.fullmatch(key) is not None

    def _put_in_bucket(self, session: Session) -> None:
        session.bucket = max(int(session.expires()) + 1, self._swept + 1)
        bucket = self._buckets.get(session.bucket)
        if bucket is None:
            self._buckets[session.bucket] = {session}
        else:
            bucket.add(session)

    def _leave_bucket(self, session: Session) -> None:
        if bucket := self._buckets.get(session.bucket):
            bucket.discard(session)
            if not bucket:
                del self._buckets[session.bucket]

    def _end(self, session: Session, phase: Phase) -> ServiceError:
        """Take a session out of the table and return the error that says why."""
        if session.phase is not Phase.LIVE:
            raise ValueError(f"expected a live session, found {session!r}")
        session.phase, session.ended = phase, GONE[phase](session.step)
        owner = self._tenants[session.tenant]
        newer = _Next(session.newer.id) if session.newer is not None else owner.next
        owner.remove(session)
        self._leave_bucket(session)
        model = session.model
        model.promised -= 1 + session.keep
        model.sessions -= 1
        if phase is Phase.EXPIRED:
            model.sessions_expired += 1
        elif phase is Phase.REPLACED:
            model.sessions_lost += 1
        session.forget()
        model.arena.slots.release(session.slot)
        self._tombstones[session.id] = _Tombstone(phase, session.step, session.tenant, self._clock(), newer)
        while len(self._tombstones) > self._most_tombstones:
            self._tombstones.popitem(last=False)
        return GONE[phase](session.step)
