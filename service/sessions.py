"""Sessions: who owns which row of the arena, since when, and until when."""

import enum
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from service.arena import INITIAL, SINK
from service.errors import (
    NotStreamable,
    ServiceError,
    SessionClosed,
    SessionExpired,
    SessionGone,
    SessionLost,
    SessionNotFound,
    TableFull,
)
from service.work import Chunk, FleetStep

if TYPE_CHECKING:
    from service.repository import ServedModel

_ID = re.compile(r"[A-Za-z0-9]{1,32}-[A-Za-z0-9]+-[0-9a-f]{32}")

TOMBSTONES = 100_000
TOMBSTONE_SECONDS = 3600.0


class Phase(enum.Enum):
    """A session's life; only LIVE leads to another phase."""

    LIVE = "live"
    EXPIRED = "expired"
    CLOSED = "closed"


_GONE: dict[Phase, type[SessionGone]] = {Phase.EXPIRED: SessionExpired, Phase.CLOSED: SessionClosed}


class Session:
    """One live sequence.

    `slot` is the row of its committed state (0 before the first step), `step` the steps committed; both change only
    in `advanced`. `last` is the newest of its chunks on the way, `behind` counts those behind the
    first. `used` is when it was last created or advanced.
    `bucket` is the second of the table's bucket that holds it. `name` is what the client calls it, if it does.
    `ended` is what it answers once `phase` is another than LIVE.
    """

    __slots__ = (
        "behind",
        "bucket",
        "ended",
        "id",
        "idle_limit",
        "last",
        "model",
        "name",
        "phase",
        "slot",
        "step",
        "tenant",
        "used",
    )

    def __init__(
        self, session_id: str, tenant: str, model: "ServedModel", idle_limit: float, now: float, name: str | None
    ) -> None:
        self.name = name
        self.id, self.tenant, self.model, self.idle_limit = session_id, tenant, model, idle_limit
        self.phase, self.slot, self.step, self.used = Phase.LIVE, INITIAL, 0, now
        self.last: Chunk | FleetStep | None = None
        self.behind = self.bucket = 0
        self.ended: ServiceError | None = None

    def __repr__(self) -> str:
        return f"<Session {self.id} {self.phase.value} at step {self.step}, slot {self.slot}>"

    def advanced(self, slot: int, steps: int, now: float) -> None:
        """Point at the row that was written, `steps` time steps on."""
        self.slot, self.step, self.used = slot, self.step + steps, now

    def expires(self) -> float:
        """Return the time at which it ends unless it is used before."""
        return self.used + self.idle_limit


class SessionTable:
    """All live sessions, and for an hour the tombstones of those that ended.

    Creating, finding and ending a session take constant time. Each live session is in one bucket of `_buckets`, by
    the second in which it was going to expire when it was put there; it may have been used since.
    """

    def __init__(
        self, *, replica: str, boot: str, clock: Callable[[], float] = time.monotonic, tombstones: int = TOMBSTONES
    ) -> None:
        self._prefix, self._replica = f"{replica}-{boot}-", replica
        self._clock, self._most_tombstones = clock, tombstones
        self._sessions: dict[str, Session] = {}
        self._named: dict[tuple[str, str], dict[str, Session]] = {}
        self._buckets: dict[int, dict[str, Session]] = {}
        self._swept = int(clock())
        self._tombstones: OrderedDict[str, tuple[Phase, int, str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def __repr__(self) -> str:
        return f"<SessionTable {len(self._sessions)} live, {len(self._tombstones)} tombstones>"

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def create(self, tenant: str, model: "ServedModel", idle_limit: float, name: str | None = None) -> Session:
        """Open a session at the model's initial state, under a name of the tenant's where it gives one.

        Raises:
            NotStreamable: The model's card says that it reads whole sequences only.
            TableFull: The model has as many sessions as it may have.
        """
        if not model.card.streams:
            raise NotStreamable(model.name)
        if model.sessions >= model.max_sessions:
            raise TableFull(model.max_sessions)
        now = self._clock()
        session = Session(self._prefix + secrets.token_hex(16), tenant, model, idle_limit, now, name)
        self._sessions[session.id] = session
        self._put_in_bucket(session)
        if name is not None:
            self._named.setdefault((tenant, model.name), {})[name] = session
        model.sessions += 1
        model.sessions_created += 1
        return session

    def find(self, session_id: str, tenant: str) -> Session:
        """Return a live session of the tenant.

        Raises:
            SessionNotFound: It never was, or is another tenant's.
            SessionExpired, SessionClosed: It was this tenant's, and ended.
            SessionLost: It was made by this replica before its last start.
        """
        session = self._sessions.get(session_id)
        if session is not None:
            if session.tenant != tenant:
                raise SessionNotFound
            if session.last is None and session.used + session.idle_limit <= self._clock():
                self._end(session, Phase.EXPIRED)
                raise SessionExpired(session.step)
            return session
        raise self._why_missing(session_id, tenant)

    def find_fleet(
        self, keys: list[str], tenant: str, model: "ServedModel"
    ) -> tuple[list[Session | None], dict[int, ServiceError]]:
        """Return for each key the model's live session of that id or name, and by row why there is none."""
        now, sessions = self._clock(), self._sessions
        names = self._named.get((tenant, model.name), {})
        found: list[Session | None] = []
        errors: dict[int, ServiceError] = {}
        for key in keys:
            session = sessions.get(key) or names.get(key)
            if session is None:
                errors[len(found)] = self._why_missing(key, tenant)
            elif session.tenant != tenant or session.model is not model:
                session, errors[len(found)] = None, SessionNotFound()
            elif session.last is None and session.used + session.idle_limit <= now:
                self._end(session, Phase.EXPIRED)
                errors[len(found)] = SessionExpired(session.step)
                session = None
            found.append(session)
        return found, errors

    def close(self, session: Session) -> None:
        """End a session at its tenant's wish; its chunks that wait are refused, its row is let go."""
        self._end(session, Phase.CLOSED)

    def sweep(self) -> int:
        """End the sessions whose idle limit has passed; return how many. Looks only at buckets that are due."""
        now = self._clock()
        ended = 0
        while self._swept < int(now):
            self._swept += 1
            for session in self._buckets.pop(self._swept, {}).values():
                if session.last is None and session.expires() <= now:
                    self._end(session, Phase.EXPIRED)
                    ended += 1
                else:
                    self._put_in_bucket(session)
        while self._tombstones:
            session_id, (_, _, _, at) = next(iter(self._tombstones.items()))
            if at + TOMBSTONE_SECONDS > now:
                break
            del self._tombstones[session_id]
        return ended

    def _why_missing(self, session_id: str, tenant: str) -> ServiceError:
        tombstone = self._tombstones.get(session_id)
        if tombstone is not None:
            phase, step, owner, _ = tombstone
            return _GONE[phase](step) if owner == tenant else SessionNotFound()
        elsewhere = not session_id.startswith(f"{self._replica}-") or session_id.startswith(self._prefix)
        return SessionNotFound() if elsewhere or not self.is_id(session_id) else SessionLost()

    @staticmethod
    def is_id(key: str) -> bool:
        """Tell whether a key has the form of the ids that are made here, so that no client may choose it as a name."""
        return _ID.fullmatch(key) is not None

    def _put_in_bucket(self, session: Session) -> None:
        session.bucket = max(int(session.expires()) + 1, self._swept + 1)
        self._buckets.setdefault(session.bucket, {})[session.id] = session

    def _end(self, session: Session, phase: Phase) -> None:
        if session.phase is not Phase.LIVE:
            raise ValueError(f"expected a live session, found {session!r}")
        session.phase, session.ended = phase, _GONE[phase](session.step)
        del self._sessions[session.id]
        if session.name is not None:
            names = self._named[session.tenant, session.model.name]
            del names[session.name]
            if not names:
                del self._named[session.tenant, session.model.name]
        if bucket := self._buckets.get(session.bucket):
            bucket.pop(session.id, None)
        model = session.model
        model.sessions -= 1
        if phase is Phase.EXPIRED:
            model.sessions_expired += 1
        if session.slot > SINK:
            model.arena.slots.release(session.slot)
        self._tombstones[session.id] = (phase, session.step, session.tenant, self._clock())
        while len(self._tombstones) > self._most_tombstones:
            self._tombstones.popitem(last=False)
