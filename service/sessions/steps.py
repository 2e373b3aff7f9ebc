"""Steps: what clients compute, on values that know no protocol. A front decodes a request and encodes the result."""

import asyncio
import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from service.codec.codec import StepInputs
from service.engine.chunk import Chunk
from service.engine.outputs import OutputRow
from service.engine.work import Job
from service.errors import SessionBusy
from service.repository.served_model import ServedModel
from service.sessions.session import Session
from service.sessions.table import SessionTable


@dataclass(slots=True)
class StepRequest:
    """A chunk of one session: raw tensors (steps, *shape), one for each input, little-endian.

    `number` is the index that the client gives the first step, 0 where it is unnumbered; `epoch` is the one that it
    expects the session in, None for any; `name` is its name for an unnumbered request that it may send again, "" for
    none. The request waits for at most `patience` seconds.
    """

    session_id: str
    inputs: tuple[bytes, ...]
    steps: int
    number: int = 0
    epoch: int | None = None
    name: str = ""
    patience: float = math.inf


class StepResult:
    """The answer to a chunk: where its outputs are, how many steps it has, and the session's step after it.

    `last_step` is 0 for a sequence of no session; `replayed` tells that this is the stored answer of a request that was
    answered before. `model` is the version that gave it.
    """

    __slots__ = ("last_step", "model", "outputs", "replayed", "steps")

    def __init__(self, model: ServedModel, chunk: Chunk) -> None:
        """Take an answered chunk; raises the error that it was refused with."""
        if chunk.error is not None:
            raise chunk.error.untraced()
        self.model, self.steps, self.last_step, self.replayed = model, chunk.steps, chunk.last_step, chunk.replayed
        self.outputs: list[OutputRow] = chunk.outputs


class Steps:
    """Advances sessions by chunks, peeks ahead, and runs whole sequences."""

    def __init__(self, table: SessionTable, session_queue_limit: int) -> None:
        self._table, self._limit = table, session_queue_limit

    async def take(self, tenant: str, request: StepRequest, *, keep: bool = True) -> StepResult:
        """Advance a session by a chunk: all of its steps are taken, or none.

        Raises:
            SessionNotFound, SessionGone: The tenant has no such session.
            SessionBusy, TenantBusy, QueueFull, DeadlineExceeded: It waits behind too many others, or for too long.
            StepOutOfOrder, EpochConflict: Its number or epoch is not the session's.
            StateNotFinite, EngineFailed: The run gave no state to keep.
        """
        session_id = request.session_id
        session = self._table.resident(session_id, tenant) or await self._table.load(session_id, tenant)
        chunk = Chunk(session, request.inputs, request.steps, request.number, request.epoch, request.name, keep)
        await self.queue(session, chunk, request.patience)
        return StepResult(session.model, chunk)

    def peek(self, tenant: str, request: StepRequest) -> Awaitable[StepResult]:
        """Return what a chunk would give; the session stays as it is. Raises as `take` does."""
        return self.take(tenant, request, keep=False)

    async def predict(
        self, tenant: str, model: ServedModel, sequences: list[StepInputs], patience: float = math.inf
    ) -> list[StepResult]:
        """Run whole sequences from the model's initial state; nothing is kept of them.

        Raises:
            TenantBusy, QueueFull, DeadlineExceeded, StateNotFinite, EngineFailed: One of them was not run.
        """
        chunks = [Chunk(None, inputs, steps, keep=False) for inputs, steps in sequences]
        await self.submit(tenant, model, chunks, patience)
        return [StepResult(model, chunk) for chunk in chunks]

    def queue(self, session: Session, chunk: Chunk, patience: float = math.inf) -> "asyncio.Future[None]":
        """Queue a chunk of a session, which waits for at most `patience` seconds.

        Raises:
            SessionBusy, TenantBusy, QueueFull, ServiceError: Nothing was queued.
        """
        self.check_queue(session)
        return session.model.batcher.submit((chunk,), patience, session.tenant)

    def submit(
        self, tenant: str, model: ServedModel, jobs: Sequence[Job], patience: float = math.inf
    ) -> "asyncio.Future[None]":
        """Queue the jobs of one request, each of another session or of none; they wait for at most `patience` seconds.

        Raises:
            TenantBusy, QueueFull, ServiceError: Nothing was queued.
        """
        return model.batcher.submit(jobs, patience, tenant)

    def check_queue(self, session: Session, more: int = 0) -> None:
        """Raise SessionBusy where as many requests of a session wait as may; `more` are about to be queued."""
        if (len(session.waiting) if session.waiting is not None else 0) + more >= self._limit:
            raise SessionBusy(self._limit)
