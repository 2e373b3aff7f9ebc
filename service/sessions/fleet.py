"""The fleet step: many sessions of one model advanced by one request, each row for itself."""

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import numpy as np

from models.card import TensorSpec
from service.engine.chunk import SHORT, Chunk
from service.engine.fleet_step import FleetStep
from service.engine.outputs import output_tensor
from service.errors import InvalidInput, NotStreamable, ServiceError
from service.repository.served_model import ServedModel
from service.sessions.session import Session
from service.sessions.steps import Steps
from service.sessions.table import SessionTable


@dataclass(slots=True)
class FleetRequest:
    """A row for each session: its id or name in `keys`, its number of steps in `steps`, and its inputs.

    `raw` holds the inputs of all rows, one behind the other, each (steps, *shape). `numbers` gives the index of each
    row's first step, None for a row without one; `epochs` each session's epoch, None for any; both are None where no
    row has one. `create` opens a session under each name that has none. The request waits for at most `patience`
    seconds.
    """

    model: ServedModel
    keys: list[str]
    steps: list[int]
    raw: bytes
    create: bool = False
    numbers: list[int | None] | None = None
    epochs: list[int | None] | None = None
    patience: float = math.inf

    def number(self, row: int) -> int:
        """Return the index of a row's first step, 0 where it is unnumbered."""
        return (self.numbers[row] or 0) if self.numbers is not None else 0

    def epoch(self, row: int) -> int | None:
        """Return the epoch that a row's session is expected in, None for any."""
        return self.epochs[row] if self.epochs is not None else None

    def inputs(self, rows: Sequence[int]) -> list[bytes]:
        """Return the inputs of some rows."""
        size = len(self.raw) // sum(self.steps)
        ends = [count * size for count in accumulate(self.steps, initial=0)]
        return [self.raw[ends[row] : ends[row + 1]] for row in rows]


@dataclass(slots=True)
class FleetResult:
    """For each row its outputs (steps, *shape) and its session's step after it, or None and, by row, its error.

    `outputs` is one array (rows, steps, *shape) where every row was taken and all were run together. `replayed` and
    `created` list the rows that were given a stored answer, and those whose sessions were opened by the request.
    """

    last_steps: list[int | None]
    outputs: list[np.ndarray | None] | np.ndarray
    errors: dict[int, ServiceError]
    replayed: list[int] = field(default_factory=list)
    created: list[int] = field(default_factory=list)

    def tensor(self, spec: TensorSpec, steps: int) -> np.ndarray:
        """Return the outputs of equally long rows as one array; NaN in a row that was not taken, 0 among integers."""
        if isinstance(self.outputs, np.ndarray):
            return self.outputs
        tensor = np.zeros((len(self.outputs), steps, *spec.shape), np.dtype(spec.dtype))
        if tensor.dtype.kind == "f":
            tensor[:] = np.nan  # zeros would look like outputs
        for row, outputs in enumerate(self.outputs):
            if outputs is not None:
                tensor[row] = outputs
        return tensor

    def notes(self) -> dict[str, object]:
        """Return what a response says beside the outputs."""
        errors = [{"row": row, **error.body()} for row, error in sorted(self.errors.items())]
        return {"steps": self.last_steps, "replayed": self.replayed, "created": self.created, "errors": errors}


class Fleet:
    """Advances many sessions at once."""

    def __init__(self, table: SessionTable, steps: Steps, idle_limit: float) -> None:
        """Take the idle limit, in seconds, of the sessions that a request creates."""
        self._table, self._steps, self._idle_limit = table, steps, idle_limit

    async def take(self, tenant: str, request: FleetRequest) -> FleetResult:
        """Advance the sessions that a request names; a row that fails does not touch the others.

        Raises:
            NotStreamable: The model has no sessions.
            TenantBusy, QueueFull, ShuttingDown: No row was taken.
        """
        model = request.model
        if not model.card.streams:
            raise NotStreamable(model.name)
        lookup = self._table.find_fleet(request.keys, tenant, model)
        found, errors = lookup.sessions, lookup.errors
        created = self._create(request, tenant, found, errors) if request.create and errors else []
        if not lookup.uniform:
            _refuse_other_tensors(model, found, errors)
        rows: Sequence[int] = range(len(found))
        sessions = cast(list[Session], found)
        if errors:
            rows = [row for row, session in enumerate(found) if session is not None]
            sessions = [session for session in found if session is not None]
        if not sessions:
            return FleetResult([None] * len(found), [None] * len(found), errors, created=created)
        together = _are_next(request, rows, sessions) and (lookup.uniform or _are_uniform(model, sessions))
        run = self._run_together if together else self._run_one_by_one
        try:
            result = await run(request, rows, sessions, errors)
        except ServiceError:  # no row was taken
            self._close_unused(created, found)
            raise
        result.created = self._close_unused(created, found) if errors else created
        return result

    def _close_unused(self, created: list[int], found: list[Session | None]) -> list[int]:
        """Close the sessions that a request opened and took no step of; return the rows of the others.

        One that a later request has work for, under its name, stays.
        """
        kept = []
        for row in created:
            session = cast(Session, found[row])
            if session.step or session.busy is not None or session.ended is not None:
                kept.append(row)
            else:
                self._table.undo(session, None)
        return kept

    def _create(
        self, request: FleetRequest, tenant: str, found: list[Session | None], errors: dict[int, ServiceError]
    ) -> list[int]:
        """Open a session for each name without one, which removes its error; return their rows."""
        opened: dict[str, Session] = {}
        created = []
        for row in list(errors):
            key = request.keys[row]
            if self._table.is_id(key):
                continue
            try:
                if key not in opened:
                    opened[key] = self._table.create(tenant, request.model, self._idle_limit, key)
                    created.append(row)
                found[row] = opened[key]
                del errors[row]
            except ServiceError as error:
                errors[row] = error
        return created

    async def _run_together(
        self, request: FleetRequest, rows: Sequence[int], sessions: list[Session], errors: dict[int, ServiceError]
    ) -> FleetResult:
        """Run rows as one fleet step."""
        whole = len(rows) == len(request.keys)
        raw = request.raw if whole else b"".join(request.inputs(rows))
        fleet = FleetStep(sessions, raw, request.steps[0])
        await self._steps.submit(sessions[0].tenant, request.model, (fleet,), request.patience)
        parts = [part.tensors[0] for part in fleet.parts]
        if whole and not fleet.errors:
            return FleetResult(list(fleet.last_steps), parts[0] if len(parts) == 1 else np.concatenate(parts), errors)
        outputs: list[np.ndarray | None] = [None] * len(request.keys)
        last_steps: list[int | None] = [None] * len(request.keys)
        taken = [row for part in parts for row in part]
        for at, row in enumerate(rows):
            if at in fleet.errors:
                errors[row] = fleet.errors[at]
            else:
                outputs[row], last_steps[row] = taken[at], fleet.last_steps[at]
        return FleetResult(last_steps, outputs, errors)

    async def _run_one_by_one(
        self, request: FleetRequest, rows: Sequence[int], sessions: list[Session], errors: dict[int, ServiceError]
    ) -> FleetResult:
        """Run each row as a chunk of its session, behind the chunks that it has waiting."""
        queued: Counter[str] = Counter()
        by_version: dict[ServedModel, list[Chunk]] = {}  # sessions stay on the version that they were opened on
        chunks: dict[int, Chunk] = {}
        for row, session, raw in zip(rows, sessions, request.inputs(rows), strict=True):
            try:
                self._steps.check_queue(session, queued[session.id])
            except ServiceError as error:
                errors[row] = error
                continue
            queued[session.id] += 1
            chunk = Chunk(session, (raw,), request.steps[row], request.number(row), request.epoch(row))
            chunks[row] = chunk
            by_version.setdefault(session.model, []).append(chunk)
        waiting = []
        for version, of_version in by_version.items():
            try:
                waiting.append(self._steps.submit(sessions[0].tenant, version, of_version, request.patience))
            except ServiceError as error:
                if len(by_version) == 1:
                    raise
                for chunk in of_version:
                    chunk.error = error
        await asyncio.gather(*waiting)
        result = FleetResult([None] * len(request.keys), [None] * len(request.keys), errors)
        for row, chunk in chunks.items():
            if chunk.error is not None:
                errors[row] = chunk.error
            else:
                result.outputs[row], result.last_steps[row] = output_tensor(chunk.outputs), chunk.last_step
                if chunk.replayed:
                    result.replayed.append(row)
        return result


def _refuse_other_tensors(model: ServedModel, found: list[Session | None], errors: dict[int, ServiceError]) -> None:
    """Refuse the rows of sessions that run on a version whose inputs or outputs are not this one's."""
    for row, session in enumerate(found):
        if session is not None and session.model is not model:
            theirs, ours = session.model.card, model.card
            if (theirs.inputs, theirs.outputs) != (ours.inputs, ours.outputs):
                expected = f"a session whose version takes and gives what version {ours.version} does"
                errors[row] = InvalidInput(f"sessions[{row}]", expected, f"one on version {theirs.version}")
                found[row] = None


def _are_uniform(model: ServedModel, sessions: list[Session]) -> bool:
    """Tell whether sessions are distinct, idle, and all on this version of the model."""
    if any(session.busy or session.model is not model for session in sessions):
        return False
    return len(set(map(id, sessions))) == len(sessions)


def _are_next(request: FleetRequest, rows: Sequence[int], sessions: list[Session]) -> bool:
    """Tell whether all rows are short and equally long, and each row has its session's next steps."""
    if request.steps[0] > SHORT or len(set(request.steps)) > 1:
        return False
    if request.numbers is None and request.epochs is None:
        return True
    return all(
        request.number(row) in (0, session.step + 1) and request.epoch(row) in (None, session.epoch)
        for row, session in zip(rows, sessions, strict=True)
    )
