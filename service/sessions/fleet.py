"""The fleet step: many sessions advanced by one request, each row for itself."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, cast

import numpy as np
import orjson

from models.card import TensorSpec
from service.api.handler import Call, Reply, json_reply
from service.codec.binary import DATATYPE_OF, HEAD_LENGTH, declared_shape, split_head
from service.codec.codec import kind, load_json, outputs_of, to_json, whole_number
from service.engine.work import SHORT, Chunk, FleetStep
from service.errors import InvalidInput, NotStreamable, ServiceError, SessionBusy
from service.repository.repository import Repository
from service.repository.served_model import ServedModel
from service.sessions.session import Session
from service.sessions.table import SessionTable
from service.settings import Settings

NAME_LENGTH = 128
NUMBERED = "\x1f"
"""Begins the names of sequences that a client calls by a number; no name that it chooses itself may."""
_FIELDS = ("sessions", "inputs", "steps", "epochs", "create")


@dataclass(slots=True)
class FleetRows:
    """Which sessions a request names; `numbers` and `epochs` are their steps' and its own where it gives any."""

    keys: list[str]
    create: bool
    numbers: list[int | None] | None
    epochs: list[int | None] | None

    def order(self, row: int) -> tuple[int, int | None]:
        """Return a row's step number, 0 for none, and its epoch."""
        number = self.numbers[row] if self.numbers is not None else None
        return number or 0, self.epochs[row] if self.epochs is not None else None


@dataclass(slots=True)
class FleetRequest:
    """What was asked: for each row a session's id or name, and its steps; `raw` holds all rows' inputs in order."""

    rows: FleetRows
    steps: list[int]
    raw: bytes
    patience: float = math.inf
    """Seconds that it may wait for its turn."""

    @property
    def keys(self) -> list[str]:
        return self.rows.keys

    def row_inputs(self, rows: Sequence[int]) -> list[bytes]:
        """Return the inputs of some rows."""
        size = len(self.raw) // sum(self.steps)
        ends = [count * size for count in accumulate(self.steps, initial=0)]
        return [self.raw[ends[row] : ends[row + 1]] for row in rows]


@dataclass(slots=True)
class FleetResult:
    """What came of it: for each row its outputs (steps, *shape) and last step, or its error."""

    steps: list[int | None]
    outputs: list[np.ndarray | None] | np.ndarray
    """One array (rows, steps, *shape) where every row was taken in one piece."""
    errors: dict[int, ServiceError]
    replayed: list[int] = field(default_factory=list)
    created: list[int] = field(default_factory=list)

    def tensor(self, spec: TensorSpec, steps: int) -> np.ndarray:
        """Return the outputs of equally long rows as one array; a row that was not taken is NaN, 0 among integers."""
        if isinstance(self.outputs, np.ndarray):
            return self.outputs
        tensor = np.zeros((len(self.outputs), steps, *spec.shape), np.dtype(spec.dtype))
        if tensor.dtype.kind == "f":
            tensor[:] = np.nan  # a row that was not taken has no numbers, and zeros would look like some
        for row, outputs in enumerate(self.outputs):
            if outputs is not None:
                tensor[row] = outputs
        return tensor

    def notes(self) -> dict[str, object]:
        """Return what JSON says beside the outputs."""
        errors = [{"row": row, **error.body()} for row, error in sorted(self.errors.items())]
        return {"steps": self.steps, "replayed": self.replayed, "created": self.created, "errors": errors}


class Fleets:
    """Reads fleet requests, JSON or framed, and answers them in kind."""

    def __init__(self, settings: Settings, repository: Repository, sessions: SessionTable) -> None:
        self._settings, self._repository, self._sessions = settings, repository, sessions

    async def step(self, call: Call) -> Reply:
        """Advance many sessions of one model: read → find → run → answer."""
        model = self._repository.find(call.argument)
        if not model.card.streams:
            raise NotStreamable(model.name)
        body = await call.body(self._settings.predict_body)
        model = self._repository.find(call.argument)  # which may be a newer version, now that the body is here
        length = call.headers.get(HEAD_LENGTH)
        model.codec.needs_one_tensor("body")
        request = await self._read_json(model, body) if length is None else self._read_frame(model, body, length)
        result = await self.run(model, request, call.tenant)
        return _json_answer(result) if length is None else _framed_answer(model, request, result)

    async def _read_json(self, model: ServedModel, body: bytes) -> FleetRequest:
        """Read {"sessions": [id or name, …], "inputs": [chunk, …], "steps": [n, …], "create": false}."""
        fields = load_json(body)
        rows = _rows(fields)
        keys = rows.keys
        inputs = fields.get("inputs")
        if type(inputs) is not list or len(inputs) != len(keys):
            got = f"one of {len(inputs)}" if type(inputs) is list else kind(inputs)
            raise InvalidInput("inputs", f"an array of {len(keys)} chunks, one for each session", got)
        limits = self._settings.predict_steps, self._settings.predict_elements
        chunks = await model.codec.decode_all(inputs, body, *limits)
        steps = [chunk.steps for chunk in chunks]
        return FleetRequest(rows, steps, b"".join([chunk.inputs[0] for chunk in chunks]))

    def _read_frame(self, model: ServedModel, body: bytes, length: bytes) -> FleetRequest:
        """Read a head {"sessions": …, "create": …, "inputs": [one tensor (rows, steps, *shape)]}, then the tensor."""
        head, raw = split_head(body, length)
        rows = _rows(head)
        keys = rows.keys
        spec = model.card.inputs[0]
        tensors = head.get("inputs")
        if type(tensors) is not list or len(tensors) != 1 or type(tensors[0]) is not dict:
            raise InvalidInput("inputs", f"an array of one tensor, {spec.name}", kind(tensors))
        if tensors[0].get("name") != spec.name:
            raise InvalidInput("inputs[0].name", spec.name, "another name")
        shape = declared_shape(tensors[0], "inputs[0]", spec.dtype, len(raw))
        if len(shape) != 2 + len(spec.shape) or shape[0] != len(keys) or tuple(shape[2:]) != spec.shape:
            raise InvalidInput(
                "inputs[0].shape", f"[{len(keys)}, steps, {', '.join(map(str, spec.shape))}]", str(shape)
            )
        tensor = model.codec.checked(raw, "inputs[0]", self._settings.predict_elements)
        if shape[1] < 1 or len(tensor) != shape[0] * shape[1]:
            raise InvalidInput("inputs[0]", f"the bytes of shape {shape}, at least one step", f"{len(raw)} bytes")
        if len(tensor) > self._settings.predict_steps:
            raise InvalidInput("inputs[0]", f"at most {self._settings.predict_steps} steps in all", f"{len(tensor)}")
        return FleetRequest(rows, [shape[1]] * len(keys), raw)

    async def run(self, model: ServedModel, request: FleetRequest, tenant: str) -> FleetResult:
        """Advance the sessions that a request names, each row for itself."""
        lookup = self._sessions.find_fleet(request.keys, tenant, model)
        found, errors = lookup.sessions, lookup.errors
        created = self._create(model, request, tenant, found, errors) if request.rows.create and errors else []
        if not lookup.uniform:
            _refuse_other_tensors(model, found, errors)
        rows: Sequence[int] = range(len(found))
        sessions = cast(list[Session], found)
        if errors:
            rows = [row for row, session in enumerate(found) if session is not None]
            sessions = [session for session in found if session is not None]
        if not sessions:
            return FleetResult([None] * len(found), [None] * len(found), errors)
        run = self._one_piece if _in_one_piece(model, rows, sessions, request, lookup.uniform) else self._row_by_row
        result = await run(model, request, rows, sessions, errors)
        result.created = created
        return result

    def _create(
        self,
        model: ServedModel,
        request: FleetRequest,
        tenant: str,
        found: list[Session | None],
        errors: dict[int, ServiceError],
    ) -> list[int]:
        """Open a session under each name that has none, in place of its error; return their rows."""
        opened: dict[str, Session] = {}
        created = []
        for row in list(errors):
            key = request.keys[row]
            if self._sessions.is_id(key):
                continue
            try:
                if key not in opened:
                    opened[key] = self._sessions.create(tenant, model, self._settings.idle_limit, key)
                    created.append(row)
                found[row] = opened[key]
                del errors[row]
            except ServiceError as error:
                errors[row] = error
        return created

    async def _one_piece(
        self,
        model: ServedModel,
        request: FleetRequest,
        rows: Sequence[int],
        sessions: list[Session],
        errors: dict[int, ServiceError],
    ) -> FleetResult:
        whole = len(rows) == len(request.keys)
        raw = request.raw if whole else b"".join(request.row_inputs(rows))
        fleet = FleetStep(sessions, raw, request.steps[0])
        await model.batcher.submit_fleet(fleet, request.patience)
        parts = [part.tensors[0] for part in fleet.parts]
        if whole and not fleet.errors:
            return FleetResult(list(fleet.last_steps), parts[0] if len(parts) == 1 else np.concatenate(parts), errors)
        outputs: list[np.ndarray | None] = [None] * len(request.keys)
        steps: list[int | None] = [None] * len(request.keys)
        taken = [row for part in parts for row in part]
        for at, row in enumerate(rows):
            if at in fleet.errors:
                errors[row] = fleet.errors[at]
            else:
                outputs[row], steps[row] = taken[at], fleet.last_steps[at]
        return FleetResult(steps, outputs, errors)

    async def _row_by_row(
        self,
        model: ServedModel,
        request: FleetRequest,
        rows: Sequence[int],
        sessions: list[Session],
        errors: dict[int, ServiceError],
    ) -> FleetResult:
        limit = self._settings.session_queue_limit
        queued: Counter[str] = Counter()
        chunks: dict[int, Chunk] = {}
        for row, session, raw in zip(rows, sessions, request.row_inputs(rows), strict=True):
            if session.behind + queued[session.id] >= limit:
                errors[row] = SessionBusy(limit)
                continue
            queued[session.id] += 1
            chunk = chunks[row] = Chunk(session, (raw,), request.steps[row])
            chunk.number, chunk.epoch = request.rows.order(row)
        versions = {cast(Session, chunk.owner).model for chunk in chunks.values()}
        for version in versions:  # sessions stay on the version that they were opened on
            of_version = [chunk for chunk in chunks.values() if cast(Session, chunk.owner).model is version]
            try:
                await version.batcher.submit(of_version, request.patience)
            except ServiceError as error:
                if len(versions) == 1:
                    raise
                for chunk in of_version:
                    chunk.error = error
        result = FleetResult([None] * len(request.keys), [None] * len(request.keys), errors)
        for row, chunk in chunks.items():
            if chunk.error is not None:
                errors[row] = chunk.error
            else:
                result.outputs[row], result.steps[row] = outputs_of(chunk), chunk.last_step
                if chunk.replayed:
                    result.replayed.append(row)
        return result


def _rows(fields: object) -> FleetRows:
    """Read which sessions a request names, and how."""
    if type(fields) is not dict:
        raise InvalidInput("body", "an object", kind(fields))
    for name in fields:
        if name not in _FIELDS:
            raise InvalidInput("body", f"no field but {', '.join(_FIELDS)}", f'a field "{name[:64]}"')
    keys, create = fields.get("sessions"), fields.get("create", False)
    if type(keys) is not list or not keys or set(map(type, keys)) != {str}:
        raise InvalidInput("sessions", "an array of at least one id or name", kind(keys))
    if not all(keys) or max(map(len, keys)) > NAME_LENGTH:
        raise InvalidInput("sessions", f"ids or names of 1 to {NAME_LENGTH} characters", "another length")
    if NUMBERED in "".join(keys) and any(key.startswith(NUMBERED) for key in keys):
        raise InvalidInput("sessions", "ids or names that do not begin with U+001F", "one that does")
    if type(create) is not bool:
        raise InvalidInput("create", "true or false", kind(create))
    numbers = _whole_numbers(fields.get("steps"), "steps", 1, len(keys))
    return FleetRows(keys, create, numbers, _whole_numbers(fields.get("epochs"), "epochs", 0, len(keys)))


def _whole_numbers(values: Any, where: str, least: int, rows: int) -> list[int | None] | None:
    if values is None:
        return None
    if type(values) is not list or len(values) != rows:
        got = f"one of {len(values)}" if type(values) is list else kind(values)
        raise InvalidInput(where, f"an array of {rows} whole numbers or nulls, one for each session", got)
    for row, value in enumerate(values):
        if value is not None:
            whole_number(value, f"{where}[{row}]", least)
    return values


def _refuse_other_tensors(model: ServedModel, found: list[Session | None], errors: dict[int, ServiceError]) -> None:
    """Refuse the rows of sessions that run on a version whose inputs or outputs are not this one's."""
    for row, session in enumerate(found):
        if session is not None and session.model is not model:
            theirs, ours = session.model.card, model.card
            if (theirs.inputs, theirs.outputs) != (ours.inputs, ours.outputs):
                expected = f"a session whose version takes and gives what version {ours.version} does"
                errors[row] = InvalidInput(f"sessions[{row}]", expected, f"one on version {theirs.version}")
                found[row] = None


def _in_one_piece(
    model: ServedModel, rows: Sequence[int], sessions: list[Session], request: FleetRequest, uniform: bool
) -> bool:
    """Tell whether rows can be run together: short, equally long, each the next step of an idle session of its own."""
    asked = request.rows
    ordered = asked.numbers is not None or asked.epochs is not None
    return (
        request.steps[0] <= SHORT
        and len(set(request.steps)) == 1
        and (uniform or len(set(map(id, sessions))) == len(sessions))
        and (uniform or not any(session.last or session.model is not model for session in sessions))
        and not (ordered and any(not _is_next(s, *asked.order(row)) for row, s in zip(rows, sessions, strict=True)))
    )


def _is_next(session: Session, number: int, epoch: int | None) -> bool:
    return number in (0, session.step + 1) and epoch in (None, session.epoch)


def _json_answer(result: FleetResult) -> Reply:
    if isinstance(result.outputs, np.ndarray):
        outputs = to_json(result.outputs)
    else:
        outputs = b"[%b]" % b",".join([b"null" if row is None else to_json(row) for row in result.outputs])
    return json_reply(b'{"outputs":%b,%b' % (outputs, orjson.dumps(result.notes())[1:]))


def _framed_answer(model: ServedModel, request: FleetRequest, result: FleetResult) -> Reply:
    spec = model.card.outputs[0]
    tensor = result.tensor(spec, request.steps[0])
    raw = tensor.tobytes()
    described = {
        "name": spec.name,
        "datatype": DATATYPE_OF[spec.dtype],
        "shape": tensor.shape,
        "parameters": {"binary_data_size": len(raw)},
    }
    head = orjson.dumps({"outputs": [described], **result.notes()})
    headers = [(b"content-type", b"application/octet-stream"), (HEAD_LENGTH, b"%d" % len(head))]
    return 200, headers, head + raw
