"""Sequences: sessions that a client calls by an id of its own, starts and ends by flags, and may send to twice."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from service.engine.work import Chunk
from service.errors import (
    EpochConflict,
    InvalidInput,
    ServiceError,
    SessionBusy,
    SessionGone,
    SessionNotFound,
    StepGap,
)
from service.oip.errors import StartNeeded
from service.oip.parameters import Wish, request_name
from service.repository.served_model import ServedModel
from service.sessions.replay import Decode, FinalResponses, Taken, request_of
from service.sessions.session import Session
from service.sessions.table import SessionTable
from service.settings import Settings


@dataclass(slots=True)
class _Start:
    """A request to start a sequence, on its way, and the session whose place that is to take."""

    chunk: Chunk
    before: Session | None


class Sequences:
    """Advances sequences of one table of sessions, in which fleet steps find them by the same names.

    A sequence that is started in the place of another has its name at once, and ends it when its first request has
    been taken; where that is not taken, everything is as it was. Until then it is in `_starting`, and all else that
    comes for it waits.
    """

    def __init__(self, settings: Settings, sessions: SessionTable, clock: Callable[[], float]) -> None:
        self._settings, self._sessions = settings, sessions
        self._final_responses = FinalResponses(clock)
        self._starting: dict[Session, _Start] = {}

    def follow(self, tenant: str, model: ServedModel, wish: Wish, raw: bytes, request_id: str) -> Chunk | None:
        """Queue one step of a sequence that goes on; None where that is not all there is to it."""
        try:
            session = self._sessions.find_named(wish.name, tenant, model.name)
        except ServiceError:
            return None
        if session.model is not model or session in self._starting:
            return None
        chunk = Chunk(session, (raw,), 1)
        chunk.epoch = wish.epoch
        chunk.request = request_name(request_id, start=False, end=False)
        self._queue(session, chunk, wish)
        return chunk

    async def advance(self, tenant: str, model: ServedModel, version: str | None, wish: Wish, decode: Decode) -> Taken:
        """Take a request's steps: find or start → run → end where it asks for that.

        A request that is sent again while it is under way waits for its own answer. `version` is the one that the
        request names, if it does.

        Raises:
            StartNeeded: There is no such sequence.
            ServiceError: The steps were not taken.
        """
        taken = await self._try(tenant, model, version, wish, decode)
        error = taken.chunk.error
        if isinstance(error, SessionGone):  # ended while this one waited: by its own first copy, perhaps
            if wish.start:
                taken = await self._try(tenant, model, version, wish, decode)
            else:
                taken = self._replayed(tenant, model, wish, decode) or taken
            error = taken.chunk.error
        if error is None:
            return taken
        if isinstance(error, SessionGone):
            raise StartNeeded(wish.shown, model.name, error)
        raise error.with_traceback(None)

    async def _try(self, tenant: str, model: ServedModel, version: str | None, wish: Wish, decode: Decode) -> Taken:
        session, why = self._find(tenant, model, wish)
        start = self._starting.get(session) if session is not None else None
        if session is None and (before := self._replayed(tenant, model, wish, decode)) is not None:
            return before
        started = False
        if wish.start:
            chunk = decode(model)
            if start is not None and request_of(start.chunk) == request_of(chunk):
                await asyncio.wait([start.chunk.entry.future])
                return await self._try(tenant, model, version, wish, decode)
            if session is None or not _is_sent_again(session, chunk):
                session, started = self._start(tenant, model, wish, chunk, session), True
        elif session is None:
            raise StartNeeded(wish.shown, model.name, why)
        else:
            if version not in (None, str(session.model.card.version)):
                raise InvalidInput("version", f"{session.model.card.version}, which the sequence runs on", str(version))
            if start is not None:
                await asyncio.wait([start.chunk.entry.future])
            if session.ended is not None:  # or never begun
                raise StartNeeded(wish.shown, model.name, session.ended)
            chunk = decode(session.model)
        if not started:
            self._queue(session, chunk, wish)
        try:
            await chunk.entry.future
        finally:
            if started:
                self._settle_start(session, taken=chunk.error is None and session.step > 0)
        if chunk.error is None and wish.end and session.ended is None:
            if wish.known_again:
                self._final_responses.remember(session, wish.name, chunk)
            self._sessions.close(session)
        return Taken(session.model, chunk)

    def _replayed(self, tenant: str, model: ServedModel, wish: Wish, decode: Decode) -> Taken | None:
        """Return the answer that ended a sequence, where this is the request that it was for."""
        if not (wish.end and wish.known_again):
            return None
        last = self._sessions.last_of_name(wish.name, tenant, model.name)
        return self._final_responses.replayed(tenant, model.name, wish.name, last, decode)

    def _find(self, tenant: str, model: ServedModel, wish: Wish) -> tuple[Session | None, ServiceError]:
        try:
            return self._sessions.find_named(wish.name, tenant, model.name), SessionNotFound()
        except ServiceError as error:
            return None, error.with_traceback(None)

    def _start(self, tenant: str, model: ServedModel, wish: Wish, chunk: Chunk, before: Session | None) -> Session:
        """Open a session and queue its first chunk; a sequence of the same id is nameless from now on.

        Raises:
            ServiceError: There is no room; everything is as it was.
        """
        settings, table = self._settings, self._sessions
        if table.is_id(wish.name):
            raise InvalidInput("parameters.sequence_id", "an id of your own to start a sequence", "a session's id")
        if wish.number > 1:
            raise StepGap(wish.number, 1)
        if wish.epoch:
            raise EpochConflict(wish.epoch, 0)
        session = table.create(tenant, model, settings.idle_limit, wish.name, instead_of=before)
        try:
            self._queue(session, chunk, wish)
        except ServiceError:
            table.undo(session, before)
            raise
        self._starting[session] = _Start(chunk, before)
        return session

    def _settle_start(self, session: Session, *, taken: bool) -> None:
        """End what a started sequence takes the place of, or undo the start."""
        before = self._starting.pop(session).before
        if taken or session.ended is not None:
            while before is not None:  # and what that one was to take the place of
                self._let_end(before)
                earlier = self._starting.get(before)
                before = earlier.before if earlier is not None else None
                if earlier is not None:
                    earlier.before = None
            return
        if before is not None and session.name is None:  # another start has taken its name meanwhile
            taker = next(start for start in self._starting.values() if start.before is session)
            taker.before, before = before, None
        self._sessions.undo(session, before)

    def _let_end(self, session: Session) -> None:
        """Close a session, now or when all that it waits for is answered."""
        last = session.last
        if session.ended is not None:
            return
        if last is None:
            self._sessions.close(session)
        else:
            last.entry.future.add_done_callback(lambda _: self._let_end(session))

    def _queue(self, session: Session, chunk: Chunk, wish: Wish) -> None:
        limit = self._settings.session_queue_limit
        if session.behind >= limit:
            raise SessionBusy(limit)
        chunk.owner, chunk.commit = session, True
        session.model.batcher.submit((chunk,), wish.patience)


def _is_sent_again(session: Session, chunk: Chunk) -> bool:
    """Tell whether a request to start a sequence is the very one that started it, sent again."""
    if not chunk.request:
        return False
    last = session.last
    if last is None:
        chunk.commit = True
        return session.was(chunk)
    return isinstance(last, Chunk) and last.request == chunk.request and last.content() == chunk.content()
