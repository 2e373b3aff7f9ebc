"""Sequences: sessions under ids that clients choose, started and ended by flags, whose requests may be sent again."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass

from service.engine.chunk import Chunk
from service.engine.digest import digest
from service.errors import (
    EpochConflict,
    InvalidInput,
    SequenceNotStarted,
    ServiceError,
    SessionGone,
    SessionNotFound,
    StepGap,
)
from service.repository.served_model import ServedModel
from service.sessions.replay import FinalResponse, FinalResponses, RequestIdentity
from service.sessions.session import Session
from service.sessions.steps import StepResult, Steps
from service.sessions.table import SessionTable


@dataclass(slots=True)
class SequenceRequest:
    """One request of a sequence.

    `model` is the version that a new sequence runs on, `version` the one that the request names, None where it names
    none. `name` is the sequence's name among the tenant's sessions, `shown` as the client wrote it. `start` and `end`
    are its flags; `number`, `epoch` and `patience` are those of a `StepRequest`, and `request_name` is its `name`.
    `inputs` and `steps` are read against the card of the version that `Sequences.version_of` returns.
    """

    model: ServedModel
    version: str | None
    name: str
    shown: str
    start: bool
    end: bool
    number: int
    epoch: int | None
    request_name: str
    patience: float = math.inf
    inputs: tuple[bytes, ...] = ()
    steps: int = 0

    @property
    def is_recognisable(self) -> bool:
        """Whether it can be told from all others of its sequence, so that it is known when it is sent again."""
        return bool(self.request_name or (self.number and not self.start))

    @property
    def step_number(self) -> int:
        """The index of its first step, 0 where it has none; a start that has a name is known by that."""
        return 0 if self.start and self.request_name else self.number

    def digest(self) -> int:
        """Return what tells its content from another's, as of a chunk."""
        return digest(self.inputs, "" if self.step_number else self.request_name)

    def identity(self) -> RequestIdentity:
        """Return what it is recognised by when it is sent again."""
        return self.request_name, self.step_number, self.digest()

    def chunk(self, session: Session | None) -> Chunk:
        """Return its steps as a chunk of a session."""
        number = self.step_number
        return Chunk(session, self.inputs, self.steps, number, self.epoch, self.request_name)


@dataclass(slots=True)
class _Start:
    """A request under way that starts a sequence, its first chunk, and the session that the sequence replaces."""

    identity: RequestIdentity
    chunk: Chunk
    before: Session | None


class Sequences:
    """Advances sequences of one table of sessions, in which fleet steps find them by the same names.

    A sequence that replaces another takes its name at once, and ends it when its own first request has been taken;
    where that is not taken, everything is as it was. Until then its session is in `_starting`, and all other requests
    for it wait.
    """

    def __init__(self, table: SessionTable, steps: Steps, idle_limit: float, clock: Callable[[], float]) -> None:
        """Take the idle limit of the sequences, in seconds."""
        self._table, self._steps, self._idle_limit = table, steps, idle_limit
        self._finals = FinalResponses(clock)
        self._starting: dict[Session, _Start] = {}

    def version_of(self, tenant: str, request: SequenceRequest) -> ServedModel:
        """Return the version of the model against whose card a request's inputs are read.

        For a request that starts a sequence, it is the version that took an earlier copy, if there may be one; where
        `is_repeated` then says that there is none, they are read again, against `request.model`.

        Raises:
            SequenceNotStarted: There is no such sequence, and the request starts none.
            InvalidInput: The sequence runs on another version than the request names.
        """
        session, why = self._find(tenant, request)
        if session is None:
            final = self._final(tenant, request)
            if final is None and not request.start:
                raise SequenceNotStarted(request.shown, request.model.name, why)
            return final.model if final is not None else request.model
        if request.start:
            return session.model
        version = str(session.model.card.version)
        if request.version not in (None, version):
            raise InvalidInput("version", f"{version}, which the sequence runs on", str(request.version))
        return session.model

    def is_repeated(self, tenant: str, request: SequenceRequest) -> bool:
        """Tell whether a request that starts a sequence, and whose inputs have been read, was taken before."""
        session, _ = self._find(tenant, request)
        if session is not None:
            return _is_sent_again(session, request)
        final = self._final(tenant, request)
        return final is not None and final.request == request.identity()

    def next_session(self, tenant: str, model: ServedModel, name: str) -> str | None:
        """Return the id of the session of a sequence, None unless it has been started and runs on this version."""
        try:
            session = self._table.find_named(name, tenant, model.name)
        except ServiceError:
            return None
        return session.id if session.model is model and session not in self._starting else None

    async def take(self, tenant: str, request: SequenceRequest) -> StepResult:
        """Take a request's steps: find or start → run → end where it asks for that.

        A request that is sent again while it is under way waits for its own answer.

        Raises:
            SequenceNotStarted: There is no such sequence.
            ServiceError: The steps were not taken.
        """
        model, chunk = await self._try(tenant, request)
        if isinstance(chunk.error, SessionGone):  # it ended while this one waited: by its own first copy, perhaps
            if request.start:
                model, chunk = await self._try(tenant, request)
            else:
                model, chunk = self._replayed(tenant, request) or (model, chunk)
        if isinstance(chunk.error, SessionGone):
            raise SequenceNotStarted(request.shown, request.model.name, chunk.error)
        return StepResult(model, chunk)

    async def _try(self, tenant: str, request: SequenceRequest) -> tuple[ServedModel, Chunk]:
        """Return the answered chunk of a request, and the version that took it; the chunk may carry an error."""
        session, why = self._find(tenant, request)
        start = self._starting.get(session) if session is not None else None
        if session is None and (replayed := self._replayed(tenant, request)) is not None:
            return replayed
        started = False
        if request.start:
            if start is not None and start.identity == request.identity():
                await asyncio.wait([start.chunk.waiter.future])
                return await self._try(tenant, request)
            if session is None or not _is_sent_again(session, request):
                session, chunk = self._start(tenant, request, session)
                started = True
        elif session is None:
            raise SequenceNotStarted(request.shown, request.model.name, why)
        elif start is not None:
            await asyncio.wait([start.chunk.waiter.future])
        if not started:
            if session.ended is not None:  # or it was never begun
                raise SequenceNotStarted(request.shown, request.model.name, session.ended)
            chunk = request.chunk(session)
            self._steps.queue(session, chunk, request.patience)
        try:
            await chunk.waiter.future
        finally:
            if started:
                self._settle_start(session, taken=chunk.error is None and session.step > 0)
        if chunk.error is None and request.end and session.ended is None:
            if request.is_recognisable:
                self._finals.remember(session, request.name, request.identity(), chunk)
            self._table.close(session)
        return session.model, chunk

    def _find(self, tenant: str, request: SequenceRequest) -> tuple[Session | None, ServiceError]:
        try:
            return self._table.find_named(request.name, tenant, request.model.name), SessionNotFound()
        except ServiceError as error:
            return None, error.untraced()

    def _final(self, tenant: str, request: SequenceRequest) -> FinalResponse | None:
        """Return the final response of the sequence that ended, where the request may be the one that ended it."""
        if not (request.end and request.is_recognisable):
            return None
        model = request.model.name
        return self._finals.find(tenant, model, request.name, self._table.last_of_name(request.name, tenant, model))

    def _replayed(self, tenant: str, request: SequenceRequest) -> tuple[ServedModel, Chunk] | None:
        """Return the stored answer of the request that ended a sequence, where this is that request."""
        final = self._final(tenant, request)
        if final is None or final.request != request.identity():
            return None
        chunk = request.chunk(None)
        chunk.outputs = [(final.model.codec.stored_outputs(final.outputs, final.steps), 0, final.steps)]
        chunk.last_step, chunk.replayed = final.last_step, True
        return final.model, chunk

    def _start(self, tenant: str, request: SequenceRequest, before: Session | None) -> tuple[Session, Chunk]:
        """Open a session and queue its first chunk; a sequence of the same name is nameless from now on.

        Raises:
            ServiceError: There is no room; everything is as it was.
        """
        table = self._table
        if table.is_id(request.name):
            raise InvalidInput("parameters.sequence_id", "an id of your own to start a sequence", "a session's id")
        if request.number > 1:
            raise StepGap(request.number, 1)
        if request.epoch:
            raise EpochConflict(request.epoch, 0)
        session = table.create(tenant, request.model, self._idle_limit, request.name, instead_of=before)
        chunk = request.chunk(session)
        try:
            self._steps.queue(session, chunk, request.patience)
        except ServiceError:
            table.undo(session, before)
            raise
        self._starting[session] = _Start(request.identity(), chunk, before)
        return session, chunk

    def _settle_start(self, session: Session, *, taken: bool) -> None:
        """End the session that a started sequence replaces, or undo the start."""
        before = self._starting.pop(session).before
        if taken or session.ended is not None:
            while before is not None:  # and the one that this was to replace
                self._let_end(before)
                earlier = self._starting.get(before)
                before = earlier.before if earlier is not None else None
                if earlier is not None:
                    earlier.before = None
            return
        if before is not None and session.name is None:  # another start has taken its name meanwhile
            taker = next(start for start in self._starting.values() if start.before is session)
            taker.before, before = before, None
        self._table.undo(session, before)

    def _let_end(self, session: Session) -> None:
        """Close a session, now or when all that waits for it is answered."""
        if session.ended is not None:
            return
        newest = session.newest
        if newest is None:
            self._table.close(session)
        else:
            newest.waiter.future.add_done_callback(lambda _: self._let_end(session))


def _is_sent_again(session: Session, request: SequenceRequest) -> bool:
    """Tell whether a request to start a sequence is the very one that started it, sent again."""
    if not request.request_name:
        return False
    newest = session.newest
    if newest is None:
        return session.repeats(request.chunk(session))
    return newest.repeats(request.request_name, request.digest())
