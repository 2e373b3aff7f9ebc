"""Sequences: sessions that a client calls by an id of its own, starts and ends by flags, and may send to twice."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

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
from service.oip.wishes import Wish, request_name
from service.repository import ServedModel
from service.session import Session
from service.sessions import SessionTable
from service.settings import Settings
from service.work import Chunk

Decode = Callable[[ServedModel], Chunk]
"""Reads a request's steps as a version of the model takes them."""

_MOST, _MOST_BYTES, _SECONDS = 20_000, 16 << 20, 900.0


class Taken(NamedTuple):
    """A chunk that was taken, and the version of the model that took it."""

    model: ServedModel
    chunk: Chunk


class _Ended(NamedTuple):
    """The last answer of a sequence that ended, raw, and the request that it was for."""

    content: int
    model: ServedModel
    answer: bytes
    steps: int
    last_step: int
    at: float


class Farewells:
    """The last answers of ended sequences, for those who did not hear them: bounded in number, bytes and time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ended: OrderedDict[tuple[str, str, str], _Ended] = OrderedDict()
        self._bytes = 0

    def remember(self, tenant: str, model: ServedModel, name: str, chunk: Chunk) -> None:
        """Keep the answer of a chunk that ended its sequence."""
        key = (tenant, model.name, name)
        self._forget(key)
        answer, now = chunk.raw_outputs(), self._clock()
        self._ended[key] = _Ended(chunk.content(), model, answer, chunk.steps, chunk.last_step, now)
        self._bytes += len(answer)
        while self._bytes > _MOST_BYTES or len(self._ended) > _MOST or self._oldest().at + _SECONDS < now:
            self._forget(next(iter(self._ended)))

    def replayed(self, tenant: str, model: str, name: str, decode: Decode) -> Taken | None:
        """Return the answer that was given to the same request before, if it was."""
        ended = self._ended.get((tenant, model, name))
        if ended is None:
            return None
        if ended.at + _SECONDS < self._clock() or ended.model.retired:
            self._forget((tenant, model, name))
            return None
        chunk = decode(ended.model)
        if chunk.content() != ended.content:
            return None
        chunk.results = [(ended.model.codec.stored(ended.answer, ended.steps), 0, ended.steps)]
        chunk.last_step, chunk.replayed = ended.last_step, True
        return Taken(ended.model, chunk)

    def _oldest(self) -> _Ended:
        return next(iter(self._ended.values()))

    def _forget(self, key: tuple[str, str, str]) -> None:
        ended = self._ended.pop(key, None)
        if ended is not None:
            self._bytes -= len(ended.answer)


class Sequences:
    """Advances sequences of one table of sessions, in which fleet steps find them by the same names."""

    def __init__(self, settings: Settings, sessions: SessionTable, clock: Callable[[], float]) -> None:
        self._settings, self._sessions = settings, sessions
        self._farewells = Farewells(clock)

    def follow(self, tenant: str, model: ServedModel, wish: Wish, raw: bytes, request_id: str) -> Chunk | None:
        """Queue one step of a sequence that goes on; None where that is not all there is to it."""
        try:
            session = self._sessions.find_named(wish.name, tenant, model.name)
        except ServiceError:
            return None
        if session.model is not model:
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
        if isinstance(taken.chunk.error, SessionGone):  # ended while this one waited: by its own first copy, perhaps
            taken = await self._try(tenant, model, version, wish, decode)
        error = taken.chunk.error
        if error is None:
            return taken
        if isinstance(error, SessionGone):
            raise StartNeeded(wish.shown, model.name, error)
        raise error.with_traceback(None)

    async def _try(self, tenant: str, model: ServedModel, version: str | None, wish: Wish, decode: Decode) -> Taken:
        if wish.end and wish.request:
            before = self._farewells.replayed(tenant, model.name, wish.name, decode)
            if before is not None:
                return before
        session, why = self._find(tenant, model, wish)
        if session is None or wish.start:
            chunk = decode(model)
            if session is not None and _is_sent_again(session, chunk):
                started = False
            elif wish.start:
                session, started = self._start(tenant, model, wish, chunk, session), True
            else:
                raise StartNeeded(wish.shown, model.name, why)
        else:
            if version not in (None, str(session.model.card.version)):
                raise InvalidInput("version", f"{session.model.card.version}, which the sequence runs on", str(version))
            chunk, started = decode(session.model), False
        if not started:
            self._queue(session, chunk, wish)
        try:
            await chunk.entry.future
        except BaseException:
            if started and session.ended is None and not session.step:
                self._sessions.close(session)
            raise
        if chunk.error is None and wish.end and session.ended is None:
            self._end(tenant, session, wish, chunk)
        elif chunk.error is not None and started and session.ended is None:
            self._sessions.close(session)
        return Taken(session.model, chunk)

    def _find(self, tenant: str, model: ServedModel, wish: Wish) -> tuple[Session | None, ServiceError]:
        try:
            return self._sessions.find_named(wish.name, tenant, model.name), SessionNotFound()
        except ServiceError as error:
            return None, error.with_traceback(None)

    def _start(self, tenant: str, model: ServedModel, wish: Wish, chunk: Chunk, before: Session | None) -> Session:
        """Open a session and queue its first chunk; a sequence of the same id ends, once what it waits for is done.

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
            if before is None:
                table.close(session)
            else:
                table.give_back(wish.name, before, session)
            raise
        if before is not None:
            self._let_end(before)
        return session

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

    def _end(self, tenant: str, session: Session, wish: Wish, chunk: Chunk) -> None:
        if wish.request:
            self._farewells.remember(tenant, session.model, wish.name, chunk)
        self._sessions.close(session)


def _is_sent_again(session: Session, chunk: Chunk) -> bool:
    """Tell whether a request to start a sequence is the very one that started it, sent again."""
    if not chunk.request:
        return False
    last = session.last
    if last is None:
        chunk.commit = True
        return session.was(chunk)
    return isinstance(last, Chunk) and last.request == chunk.request and last.content() == chunk.content()
