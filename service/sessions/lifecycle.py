"""What clients do with whole sessions: open, describe, list, extend, fork, rewind, snapshot, restore, close."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from service.codec.codec import StepInputs
from service.errors import InvalidInput, ServiceError
from service.repository.served_model import ServedModel
from service.sessions.replay import Creations
from service.sessions.session import Session
from service.sessions.snapshots import max_bytes, read_snapshot, write_snapshot
from service.sessions.steps import StepRequest, Steps
from service.sessions.table import SessionTable
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How a session is kept: seconds until it ends when idle, and how many requests can be rewound; None: defaults."""

    idle_limit: float | None = None
    keep: int | None = None


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A session to be opened: at the model's initial state, after the steps of a history, or at a snapshot."""

    model: ServedModel
    options: SessionOptions
    history: StepInputs | None = None
    snapshot: bytes | None = None


class CreationKey(NamedTuple):
    """A client's key for one creation of a session: of what, the key itself, and the request's content."""

    what: str
    key: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """What a client may know of its session; it ends at `expires_at` unless it is used before."""

    session_id: str
    model: str
    version: int
    step: int
    epoch: int
    keep: int
    idle_limit: float
    expires_at: datetime


class Lifecycle:
    """Opens, changes and ends the sessions of one table.

    `_prefills` holds by session id the tasks that run a new session's history; it can be used when its task is done.
    """

    def __init__(self, settings: Settings, table: SessionTable, steps: Steps, clock: Callable[[], float]) -> None:
        self._settings, self._table, self._steps, self._clock = settings, table, steps, clock
        self._creations = Creations(clock)
        self._prefills: dict[str, asyncio.Task[None]] = {}

    async def opened_before(self, tenant: str, key: CreationKey) -> SessionDescription | None:
        """Return the session that a key has opened, None where it has opened none.

        Raises:
            InvalidInput, IdempotencyConflict: The key is none, or was used with other content.
            SessionNotFound, SessionGone: The session has ended.
            ServiceError: Its history was not taken.
        """
        session = await self._opened_before(tenant, key)
        return await self._filled(session, key) if session is not None else None

    async def open(self, tenant: str, request: OpenRequest, key: CreationKey | None = None) -> SessionDescription:
        """Open a session, which the key will give again.

        Raises:
            NotStreamable, ModelReplaced, TableFull, TenantFull, ShuttingDown: No session can be opened.
            InvalidInput, SnapshotCorrupt, SnapshotMismatch: It cannot begin there.
            ServiceError: The history was not taken.
        """
        model = request.model
        row = read_snapshot(request.snapshot, model) if request.snapshot is not None else None
        session = self.create(tenant, model, request.options)
        if row is not None:
            session.begin(*row)
        elif request.history is not None:
            prefill = self._prefills[session.id] = asyncio.create_task(self._prefill(session, request.history))
            prefill.add_done_callback(partial(self._prefilled, session.id))
        if key is not None:
            self._creations.remember(tenant, *key, session.id)
        return await self._filled(session, key)

    def create(self, tenant: str, model: ServedModel, options: SessionOptions) -> Session:
        """Open a session at the model's initial state; raises as `open` does."""
        limit = self._settings.idle_limit if options.idle_limit is None else self._checked_limit(options.idle_limit)
        return self._table.create(tenant, model, limit, keep=options.keep or 0)

    async def describe(self, tenant: str, session_id: str) -> SessionDescription:
        """Return where a session is; raises SessionNotFound, SessionGone."""
        return self._described(await self._table.get(session_id, tenant))

    def page(self, tenant: str, limit: int, after: str | None) -> tuple[list[SessionDescription], str | None]:
        """Return `limit` of the tenant's sessions at most, and the id that the next page begins behind."""
        listed, following = self._table.page(tenant, limit, after)
        return [self._described(session) for session in listed], following

    async def extend(self, tenant: str, session_id: str, idle_limit: float) -> SessionDescription:
        """Give a session another idle limit, in seconds from now on."""
        session = await self._table.get(session_id, tenant)
        self._table.extend(session, self._checked_limit(idle_limit))
        return self._described(session)

    async def fork(
        self, tenant: str, session_id: str, options: SessionOptions, key: CreationKey | None
    ) -> SessionDescription:
        """Open a session at another one's state; what the options leave out is as that one's."""
        session = await self._table.get(session_id, tenant)
        limit = session.idle_limit if options.idle_limit is None else self._checked_limit(options.idle_limit)
        keep = session.keep if options.keep is None else options.keep
        fork = await self._opened_before(tenant, key) if key is not None else None
        if fork is None:
            fork = self._table.fork(session, limit, keep)
            if key is not None:
                self._creations.remember(tenant, *key, fork.id)
        session.used = self._clock()
        return self._described(fork)

    async def rewind(self, tenant: str, session_id: str, requests: int, epoch: int | None) -> SessionDescription:
        """Take a session's last requests back; raises SessionInUse, EpochConflict, RewindTooFar."""
        session = await self._table.get(session_id, tenant)
        session.rewind(requests, epoch)
        session.used = self._clock()
        return self._described(session)

    async def snapshot(self, tenant: str, session_id: str) -> tuple[bytes, int]:
        """Return a snapshot of a session's state, and its step; raises SnapshotUnsupported."""
        session = await self._table.get(session_id, tenant)
        return write_snapshot(session), session.step

    def snapshot_limit(self, model: ServedModel) -> int:
        """Return the most bytes of a snapshot of a model's state."""
        return max_bytes(model)

    async def restore(self, tenant: str, session_id: str, snapshot: bytes) -> SessionDescription:
        """Exchange a session's state for that of a snapshot; raises SessionInUse, SnapshotCorrupt, SnapshotMismatch."""
        session = await self._table.get(session_id, tenant)
        session.restore(*read_snapshot(snapshot, session.model))
        session.used = self._clock()
        return self._described(session)

    async def close(self, tenant: str, session_id: str) -> None:
        """End a session and free its state."""
        self._table.close(await self._table.get(session_id, tenant))

    async def _opened_before(self, tenant: str, key: CreationKey) -> Session | None:
        session_id = self._creations.recall(tenant, *key)
        return await self._table.get(session_id, tenant) if session_id is not None else None

    async def _filled(self, session: Session, key: CreationKey | None) -> SessionDescription:
        """Return a session once its history has been run; where that fails, its key is forgotten."""
        if (prefill := self._prefills.get(session.id)) is not None:
            try:
                await asyncio.shield(prefill)  # it goes on when one of those who wait for it goes away
            except ServiceError:
                if key is not None:
                    self._creations.forget(session.tenant, key.what, key.key)
                raise
        return self._described(session)

    async def _prefill(self, session: Session, history: StepInputs) -> None:
        """Run a new session's history; where that fails, the session is closed."""
        try:
            await self._steps.take(session.tenant, StepRequest(session.id, *history))
        except BaseException:
            if session.ended is None:
                self._table.close(session)
            raise
        session.forget()

    def _prefilled(self, session_id: str, prefill: asyncio.Task[None]) -> None:
        del self._prefills[session_id]
        if not prefill.cancelled():
            prefill.exception()  # requests that wait raise it; without one, asyncio would log it as never retrieved

    def _checked_limit(self, seconds: float) -> float:
        limit = self._settings.max_idle_limit
        if seconds > limit:
            raise InvalidInput("idle_limit", f"at most {limit:g} seconds", f"{seconds:g}")
        return seconds

    def _described(self, session: Session) -> SessionDescription:
        left = timedelta(seconds=session.expires() - self._clock())
        return SessionDescription(
            session_id=session.id,
            model=session.model.name,
            version=session.model.card.version,
            step=session.step,
            epoch=session.epoch,
            keep=session.keep,
            idle_limit=session.idle_limit,
            expires_at=datetime.now(UTC) + left,
        )
