"""The table of all sessions: who may find which, until when, and what is remembered of those that ended."""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

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
from service.sessions.session import End, Session

if TYPE_CHECKING:
    from service.repository.repository import ServedModel

_ID = re.compile(r"[A-Za-z0-9]{1,32}-[A-Za-z0-9]+-[A-Za-z0-9_-]{22}")

TOMBSTONES = 100_000
TOMBSTONE_SECONDS = 3600.0
SWEEP = 2048
"""So many sessions are looked at before others get a turn."""


class _Next:
    """The id of the session that a tenant opens next, behind those that have ended as its newest; None until then."""

    __slots__ = ("id",)

    def __init__(self) -> None:
        self.id: str | None = None


class _Tombstone(NamedTuple):
    """What is remembered of a session that ended; `newer` is, or leads to, the id of the one opened next."""

    end: End
    step: int
    tenant: str
    at: float
    newer: "str | _Next"
    named: tuple[str, str, str] | None
    """Tenant, model and name, where it had one."""


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

    def rename(self, session: Session, name: str | None) -> None:
        if session.name is not None:
            names = self.named[session.model.name]
            del names[session.name]
            if not names:
                del self.named[session.model.name]
        session.name = name
        if name is not None:
            self.named.setdefault(session.model.name, {})[name] = session

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
        self.rename(session, None)


class Bucket:
    """The sessions that were going to expire within one second when they were put here.

    One that leaves before its time stays in the list, but does not point here any more; one that comes back is in it
    twice. The list is cleared of those when they are half of it, so that leaving takes constant time on the whole.
    """

    __slots__ = ("left", "second", "sessions")

    def __init__(self, second: int) -> None:
        self.second, self.left = second, 0
        self.sessions: list[Session] = []

    def add(self, session: Session) -> None:
        session.bucket = self
        self.sessions.append(session)

    def leave(self, session: Session) -> None:
        session.bucket = None
        self.left += 1
        if 2 * self.left >= len(self.sessions):
            self.sessions = [session for session in dict.fromkeys(self.sessions) if session.bucket is self]
            self.left = 0


class SessionTable:
    """All live sessions, and for an hour the tombstones of those that ended. `accepting` tells that more may come.

    Creating, finding and ending a session take constant time. Each live session is in one bucket of `_buckets`, by
    the second in which it was going to expire when it was put there; it may have been used since. Buckets up to the
    second `_swept` have been looked at, and `_due` is the one that is being looked at.
    """

    def __init__(
        self, *, replica: str, boot: str, clock: Callable[[], float] = time.monotonic, tombstones: int = TOMBSTONES
    ) -> None:
        self._prefix, self._replica = f"{replica}-{boot}-", replica
        self._clock, self._most_tombstones = clock, tombstones
        self._tenants: dict[str, _Tenant] = {}
        self._buckets: dict[int, Bucket] = {}
        self._due: Bucket | None = None
        self._swept = int(clock())
        self._tombstones: OrderedDict[str, _Tombstone] = OrderedDict()
        self._named: dict[tuple[str, str, str], str] = {}
        """Which id the last session of a name had that ended, as long as its tombstone stands."""
        self.accepting = True

    def __len__(self) -> int:
        return sum(len(tenant.sessions) for tenant in self._tenants.values())

    def __repr__(self) -> str:
        return f"<SessionTable {len(self)} live, {len(self._tombstones)} tombstones>"

    def __iter__(self) -> Iterator[Session]:
        for tenant in self._tenants.values():
            yield from tenant.sessions.values()

    def create(
        self,
        tenant: str,
        model: "ServedModel",
        idle_limit: float,
        name: str | None = None,
        keep: int = 0,
        instead_of: Session | None = None,
    ) -> Session:
        """Open a session at the model's initial state, under a name of the tenant's where it gives one.

        It may take the name and the place of a session, which is then nameless and to be closed, or `undo` is called.

        Raises:
            ShuttingDown: The service is going away.
            NotStreamable: The model's card says that it reads whole sequences only.
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
            owner = self._tenants[tenant] = _Tenant()
        if instead_of is not None:
            owner.rename(instead_of, None)
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
        now = self._clock()
        if session.used + session.idle_limit <= now or session.model.retired:
            why = self._why_over(session, now)
            if why is not None:
                raise why
        return session

    def resident(self, session_id: str, tenant: str) -> Session | None:
        """Return a live session of the tenant that is held here; raises as `find` where it is over."""
        owner = self._tenants.get(tenant)
        session = owner.sessions.get(session_id) if owner is not None else None
        if session is not None:
            now = self._clock()
            if session.used + session.idle_limit <= now or session.model.retired:
                why = self._why_over(session, now)
                if why is not None:
                    raise why
        return session

    async def load(self, session_id: str, tenant: str) -> Session:
        raise self._why_missing(session_id, tenant)

    def find_named(self, name: str, tenant: str, model: str) -> Session:
        """Return the tenant's live session of a model by its name, or by its id; raises as `find` does."""
        owner = self._tenants.get(tenant)
        if owner is not None:
            names = owner.named.get(model)
            session = names.get(name) if names is not None else None
            if session is None:
                session = owner.sessions.get(name)
                if session is not None and session.model.name != model:
                    raise SessionNotFound
            if session is not None:
                if (why := self._why_over(session, self._clock())) is not None:
                    raise why
                return session
        raise self._why_missing(self._named.get((tenant, model, name), name), tenant)

    def last_of_name(self, name: str, tenant: str, model: str) -> str | None:
        """Return the id of the last session of that name that ended, as long as that is known."""
        return self._named.get((tenant, model, name))

    def undo(self, session: Session, before: Session | None) -> None:
        """Undo that a session was opened: its name is that of `before` again, in whose place it was, or nobody's."""
        owner, name = self._tenants[session.tenant], session.name
        owner.rename(session, None)
        if before is not None and before.ended is None:
            owner.rename(before, name)
        self.close(session)

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
                error = self._why_missing(self._named.get((tenant, model.name, key), key), tenant)
            elif session.model is not model and session.model.name != model.name:
                error = SessionNotFound()
            elif session.used + session.idle_limit <= now or session.model.retired:
                error = self._why_over(session, now)
            if error is not None:
                errors[len(found)] = error
                session = None
            found.append(session)
        return found, errors

    def page(self, tenant: str, limit: int, after: str | None = None) -> tuple[list[Session], str | None]:
        """Return the tenant's sessions in the order in which they were opened, and the place to go on from.

        There are `limit` of them at most, behind the place `after`; fewer where many that were opened next have ended.
        A session that has ended still marks a place, as long as its tombstone stands. Those that are over are ended.

        Raises:
            InvalidInput: `after` marks no place.
        """
        owner = self._tenants.get(tenant) or _Tenant()
        if after is not None:
            following = self._newer(after, owner, tenant)
        else:
            following = owner.oldest.id if owner.oldest is not None else None
        listed: list[Session] = []
        place, now = after, self._clock()
        for _ in range(SWEEP):
            if following is None or len(listed) == limit:
                break
            place, session = following, owner.sessions.get(following)
            following = self._newer(place, owner, tenant)
            if session is not None and self._why_over(session, now) is None:
                listed.append(session)
        return listed, place if following is not None else None

    def extend(self, session: Session, idle_limit: float) -> None:
        """Give a session another idle limit, from now on."""
        self._leave_bucket(session)
        session.idle_limit, session.used = idle_limit, self._clock()
        self._put_in_bucket(session)

    def close(self, session: Session) -> None:
        """End a session at its tenant's wish; its chunks that wait are refused, its row is let go."""
        self._end(session, End.CLOSED)

    def sweep(self, most: int = SWEEP) -> int:
        """Look at `most` of the sessions whose idle limit may have passed, and end those whose did; return how many.

        What is left over when `sweeping` says so is for the next call. Looks only at buckets that are due.
        """
        now, ended, looked = self._clock(), 0, 0
        while looked < most and (bucket := self._next_due(now)) is not None:
            looked += 1
            session = bucket.sessions.pop()
            if session.bucket is not bucket:
                continue
            session.bucket = None
            if self._why_over(session, now) is not None:
                ended += 1
            else:
                self._put_in_bucket(session)
        while self._tombstones:
            tombstone = next(iter(self._tombstones.values()))
            if tombstone.at + TOMBSTONE_SECONDS > now:
                break
            self._forget_oldest()
        return ended

    @property
    def sweeping(self) -> bool:
        """Whether the last sweep left some sessions that are due."""
        return self._due is not None and bool(self._due.sessions)

    def _next_due(self, now: float) -> Bucket | None:
        """Return a bucket that is due and not empty."""
        while not self.sweeping:
            if self._swept >= int(now):
                return None
            self._swept += 1
            self._due = self._buckets.pop(self._swept, None)
        return self._due

    def _why_over(self, session: Session, now: float) -> ServiceError | None:
        """Return why a session in the table cannot be used any more, having ended it; None where it can."""
        if session.model.retired:
            return self._end(session, End.REPLACED)
        if session.used + session.idle_limit <= now and session.busy is None:
            return self._end(session, End.EXPIRED)
        return None

    def _why_missing(self, session_id: str, tenant: str) -> ServiceError:
        tombstone = self._tombstones.get(session_id)
        if tombstone is not None:
            return tombstone.end.error(tombstone.step) if tombstone.tenant == tenant else SessionNotFound()
        elsewhere = not session_id.startswith(f"{self._replica}-") or session_id.startswith(self._prefix)
        return SessionNotFound() if elsewhere or not self.is_id(session_id) else SessionLost()

    def _newer(self, session_id: str, owner: _Tenant, tenant: str) -> str | None:
        """Return the id of the session that was opened next after one that is live, or ended not long ago."""
        session = owner.sessions.get(session_id)
        if session is not None:
            return session.newer.id if session.newer is not None else None
        tombstone = self._tombstones.get(session_id)
        if tombstone is None or tombstone.tenant != tenant:
            raise InvalidInput("after", "the id of one of your sessions", "another id")
        return tombstone.newer.id if isinstance(tombstone.newer, _Next) else tombstone.newer

    @staticmethod
    def is_id(key: str) -> bool:
        """Tell whether a key has the form of the ids that are made here, so that no client may choose it as a name."""
        return _ID.fullmatch(key) is not None

    def _forget_oldest(self) -> None:
        """Let go of the oldest tombstone, and of its name unless that has another one by now."""
        session_id, tombstone = self._tombstones.popitem(last=False)
        if tombstone.named is not None and self._named[tombstone.named] == session_id:
            del self._named[tombstone.named]

    def _put_in_bucket(self, session: Session) -> None:
        second = max(int(session.expires()) + 1, self._swept + 1)
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = Bucket(second)
        bucket.add(session)

    def _leave_bucket(self, session: Session) -> None:
        bucket = session.bucket
        if bucket is not None:
            bucket.leave(session)
            if not bucket.sessions and bucket is not self._due:
                del self._buckets[bucket.second]

    def _end(self, session: Session, end: End) -> ServiceError:
        """Take a session out of the table and return the error that says why."""
        if session.ended is not None:
            raise ValueError(f"expected a live session, found {session!r}")
        session.ended = end.error(session.step)
        named = (session.tenant, session.model.name, session.name) if session.name is not None else None
        owner = self._tenants[session.tenant]
        newer = session.newer.id if session.newer is not None else owner.next
        owner.remove(session)
        self._leave_bucket(session)
        model = session.model
        model.promised -= 1 + session.keep
        model.sessions -= 1
        if end is End.EXPIRED:
            model.sessions_expired += 1
        session.forget()
        model.arena.slots.release(session.slot)
        self._tombstones[session.id] = _Tombstone(end, session.step, session.tenant, self._clock(), newer, named)
        if named is not None:
            self._named[named] = session.id
        while len(self._tombstones) > self._most_tombstones:
            self._forget_oldest()
        return end.error(session.step)
