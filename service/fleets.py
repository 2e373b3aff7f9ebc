"""The fleet step: many sessions advanced by one request, each row for itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import cast

import numpy as np
import orjson

from service.codec import kind, load_json, outputs_of, to_json
from service.errors import InvalidInput, NotStreamable, ServiceError, SessionBusy
from service.framing import DATATYPE_OF, HEAD_LENGTH, declared_shape, split_head
from service.gate import Call, Reply, json_reply
from service.repository import Repository, ServedModel
from service.sessions import Session, SessionTable
from service.settings import Settings
from service.work import SHORT, Chunk, FleetStep

_NAME_LENGTH = 128


@dataclass(slots=True)
class _Request:
    """What was asked: for each row a session's id or name, and its steps; `raw` holds all rows' inputs in order."""

    keys: list[str]
    steps: list[int]
    raw: bytes
    create: bool

    def row_inputs(self, rows: Sequence[int]) -> list[bytes]:
        """Return the inputs of some rows."""
        size = len(self.raw) // sum(self.steps)
        ends = [count * size for count in accumulate(self.steps, initial=0)]
        return [self.raw[ends[row] : ends[row + 1]] for row in rows]


@dataclass(slots=True)
class _Result:
    """What came of it: for each row its outputs (steps, *shape) and last step, or its error."""

    steps: list[int | None]
    outputs: list[np.ndarray | None] | np.ndarray
    """One array (rows, steps, *shape) where every row was taken in one piece."""
    errors: dict[int, ServiceError]
    created: list[int] = field(default_factory=list)

    def notes(self) -> dict[str, object]:
        """Return what JSON says beside the outputs."""
        errors = [{"row": row, **error.body()} for row, error in sorted(self.errors.items())]
        return {"steps": self.steps, "created": self.created, "errors": errors}


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
        length = call.headers.get(HEAD_LENGTH)
        model.codec.needs_one_tensor("body")
        request = await self._read_json(model, body) if length is None else self._read_frame(model, body, length)
        result = await self._run(model, request, call.tenant)
        return _json_answer(result) if length is None else _framed_answer(model, request, result)

    async def _read_json(self, model: ServedModel, body: bytes) -> _Request:
        """Read {"sessions": [id or name, …], "inputs": [chunk, …], "create": false}."""
        fields = load_json(body)
        keys, create = _keys(fields, {"sessions", "inputs", "create"})
        inputs = fields.get("inputs")
        if type(inputs) is not list or len(inputs) != len(keys):
            got = f"one of {len(inputs)}" if type(inputs) is list else kind(inputs)
            raise InvalidInput("inputs", f"an array of {len(keys)} chunks, one for each session", got)
        limits = self._settings.predict_steps, self._settings.predict_elements
        chunks = await model.codec.decode_all(inputs, body, *limits)
        steps = [chunk.steps for chunk in chunks]
        return _Request(keys, steps, b"".join([chunk.inputs[0] for chunk in chunks]), create)

    def _read_frame(self, model: ServedModel, body: bytes, length: bytes) -> _Request:
        """Read a head {"sessions": …, "create": …, "inputs": [one tensor (rows, steps, *shape)]}, then the tensor."""
        head, raw = split_head(body, length)
        keys, create = _keys(head, {"sessions", "inputs", "create"})
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
        return _Request(keys, [shape[1]] * len(keys), raw, create)

    async def _run(self, model: ServedModel, request: _Request, tenant: str) -> _Result:
        found, errors = self._sessions.find_fleet(request.keys, tenant, model)
        created = self._create(model, request, tenant, found, errors) if request.create and errors else []
        rows: Sequence[int] = range(len(found))
        sessions = cast(list[Session], found)
        if errors:
            rows = [row for row, session in enumerate(found) if session is not None]
            sessions = [session for session in found if session is not None]
        if not sessions:
            return _Result([None] * len(found), [None] * len(found), errors)
        run = self._one_piece if _in_one_piece(sessions, request) else self._row_by_row
        result = await run(model, request, rows, sessions, errors)
        result.created = created
        return result

    def _create(
        self,
        model: ServedModel,
        request: _Request,
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
        request: _Request,
        rows: Sequence[int],
        sessions: list[Session],
        errors: dict[int, ServiceError],
    ) -> _Result:
        whole = len(rows) == len(request.keys)
        raw = request.raw if whole else b"".join(request.row_inputs(rows))
        fleet = FleetStep(sessions, raw, request.steps[0])
        await model.batcher.submit_fleet(fleet)
        parts = [part.tensors[0] for part in fleet.parts]
        if whole and not fleet.errors:
            return _Result(list(fleet.last_steps), parts[0] if len(parts) == 1 else np.concatenate(parts), errors)
        outputs: list[np.ndarray | None] = [None] * len(request.keys)
        steps: list[int | None] = [None] * len(request.keys)
        taken = [row for part in parts for row in part]
        for at, row in enumerate(rows):
            if at in fleet.errors:
                errors[row] = fleet.errors[at]
            else:
                outputs[row], steps[row] = taken[at], fleet.last_steps[at]
        return _Result(steps, outputs, errors)

    async def _row_by_row(
        self,
        model: ServedModel,
        request: _Request,
        rows: Sequence[int],
        sessions: list[Session],
        errors: dict[int, ServiceError],
    ) -> _Result:
        limit = self._settings.session_queue_limit
        queued: Counter[str] = Counter()
        chunks: dict[int, Chunk] = {}
        for row, session, raw in zip(rows, sessions, request.row_inputs(rows), strict=True):
            if session.behind + queued[session.id] >= limit:
                errors[row] = SessionBusy(limit)
            else:
                queued[session.id] += 1
                chunks[row] = Chunk(session, (raw,), request.steps[row])
        if chunks:  # an entry without chunks would never be answered
            await model.batcher.submit(list(chunks.values()))
        outputs: list[np.ndarray | None] = [None] * len(request.keys)
        steps: list[int | None] = [None] * len(request.keys)
        for row, chunk in chunks.items():
            if chunk.error is not None:
                errors[row] = chunk.error
            else:
                outputs[row], steps[row] = outputs_of(chunk), chunk.last_step
        return _Result(steps, outputs, errors)


def _keys(fields: object, known: set[str]) -> tuple[list[str], bool]:
    """Return the sessions' ids or names, and whether unknown names are opened."""
    if type(fields) is not dict:
        raise InvalidInput("body", "an object", kind(fields))
    for name in fields:
        if name not in known:
            raise InvalidInput("body", f"no field but {', '.join(sorted(known))}", f'a field "{name[:64]}"')
    keys, create = fields.get("sessions"), fields.get("create", False)
    if type(keys) is not list or not keys or set(map(type, keys)) != {str}:
        raise InvalidInput("sessions", "an array of at least one id or name", kind(keys))
    if not all(keys) or max(map(len, keys)) > _NAME_LENGTH:
        raise InvalidInput("sessions", f"ids or names of 1 to {_NAME_LENGTH} characters", "another length")
    if type(create) is not bool:
        raise InvalidInput("create", "true or false", kind(create))
    return keys, create


def _in_one_piece(sessions: list[Session], request: _Request) -> bool:
    """Tell whether the rows can be run together: short, equally long, and each an idle session of its own."""
    return (
        request.steps[0] <= SHORT
        and len(set(request.steps)) == 1
        and len(set(map(id, sessions))) == len(sessions)
        and not any(session.last for session in sessions)
    )


def _json_answer(result: _Result) -> Reply:
    if isinstance(result.outputs, np.ndarray):
        outputs = to_json(result.outputs)
    else:
        outputs = b"[%b]" % b",".join([b"null" if row is None else to_json(row) for row in result.outputs])
    return json_reply(b'{"outputs":%b,%b' % (outputs, orjson.dumps(result.notes())[1:]))


def _framed_answer(model: ServedModel, request: _Request, result: _Result) -> Reply:
    spec = model.card.outputs[0]
    if isinstance(result.outputs, np.ndarray):
        tensor = result.outputs
    else:
        tensor = np.zeros((len(request.keys), request.steps[0], *spec.shape), np.dtype(spec.dtype))
        if tensor.dtype.kind == "f":
            tensor[:] = np.nan  # a row that was not taken has no numbers, and zeros would look like some
        for row, outputs in enumerate(result.outputs):
            if outputs is not None:
                tensor[row] = outputs
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
