"""The infer operation: decode a request, run it, encode the response."""

from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import orjson

from service.api.request import Call, OperationOf, Reply
from service.codec.binary import HEAD_LENGTH, split_head
from service.codec.json_values import kind, load_json, load_large_json
from service.codec.large_json import LARGE
from service.engine.outputs import output_tensor
from service.errors import InvalidInput, NotStreamable, SequenceNotStarted, ServiceError, SessionGone
from service.oip.compression import check_encoding, compressed, decompressed
from service.oip.errors import NoSequence, Refused, UnknownModel, oip_reply
from service.oip.model_io import ModelIOCache
from service.oip.models import served_model
from service.oip.parameters import Parameters, request_name, requested_outputs
from service.oip.responses import rows_response, sequence_response
from service.oip.templates import Requested, Template
from service.oip.tensors import Inputs, Limits, read_inputs, read_raw, read_step
from service.repository.repository import Repository
from service.repository.served_model import ServedModel
from service.sessions.fleet import Fleet, FleetRequest
from service.sessions.sequences import Sequences
from service.sessions.steps import StepRequest, Steps
from service.settings import Settings


class _Steps(NamedTuple):
    """The steps of one sequence: a raw tensor for each input, how many they are, and the outputs asked for."""

    inputs: tuple[bytes, ...]
    steps: int
    requested: Requested


class Inference:
    """Advances one or many sequences, and runs whole sequences of stateless models."""

    def __init__(
        self, settings: Settings, repository: Repository, steps: Steps, fleet: Fleet, sequences: Sequences
    ) -> None:
        self._settings, self._repository = settings, repository
        self._steps, self._fleet, self._sequences = steps, fleet, sequences
        self._ios = ModelIOCache()
        self._limits = Limits(settings.predict_steps, settings.predict_elements)
        self._step_limits = Limits(settings.step_steps, settings.step_elements)
        self.infer = OperationOf(
            "infer", self._infer, oip_reply, settings.predict_body, self._check, self._find, compressed=True
        )

    def _find(self, call: Call) -> ServedModel:
        return served_model(self._repository, call.argument)

    def _check(self, call: Call) -> int:
        check_encoding(call)
        return self._settings.predict_body

    async def _infer(self, call: Call, body: bytes) -> Reply:
        model = call.model
        if b"content-encoding" in call.headers:
            body = await decompressed(call, body, self._settings.predict_body)
        head_length = call.headers.get(HEAD_LENGTH)
        reply = await self._take_by_template(call, model, body, head_length)
        if reply is None:
            reply = await self._take(call, model, body, head_length)
        return await compressed(reply, call) if b"accept-encoding" in call.headers else reply

    async def _take_by_template(
        self, call: Call, model: ServedModel, body: bytes, head_length: bytes | None
    ) -> Reply | None:
        """Advance a sequence by a request that has a stored template; return None for another request."""
        io = self._ios.of(model)
        found = io.templates.read(call.tenant, body, head_length)
        if found is None:
            return None
        template, raw, request_id = found
        session_id = self._sequences.next_session(call.tenant, model, template.sequence)
        if session_id is None:
            return None
        name = request_name(request_id)
        request = StepRequest(session_id, (raw,), 1, 0, template.epoch, name, template.patience)
        try:
            result = await self._steps.take(call.tenant, request)
        except SessionGone as exc:
            raise SequenceNotStarted(template.shown, model.name, exc) from exc
        return sequence_response(io, request_id, template.requested, result)

    async def _take(self, call: Call, model: ServedModel, body: bytes, head_length: bytes | None) -> Reply:
        """Answer a request that has no stored template."""
        io = self._ios.of(model)
        if head_length and not head_length.strip(b"0"):
            if io.carries_state:
                raise NoSequence(model.name)
            return await self._predict(
                call.tenant, model, read_raw(io, body, self._limits), Parameters({}), io.all_binary
            )
        fields, head, tail = await _read(body, head_length, self._limits)
        parameters = Parameters(fields)
        name, _, version = call.argument.partition("/")
        if (parameters.start or parameters.create) and model is not self._repository.models.get(name):
            raise UnknownModel(name, version)  # a replaced version takes no new sequences
        if not parameters.name:
            return await self._take_without_name(call, model, fields, tail, parameters)
        if not model.card.streams:
            raise NotStreamable(model.name)
        request = parameters.sequence_request(model, version or None)
        served = self._sequences.version_of(call.tenant, request)
        steps: _Steps | None = None
        if request.start and served is not model:  # an earlier copy of it may have been taken by another version
            with suppress(ServiceError):
                steps = self._read_steps(call.tenant, served, fields, head, tail, parameters)
                request.inputs, request.steps = steps.inputs, steps.steps
                if not self._sequences.is_repeated(call.tenant, request):
                    steps = None
            served = served if steps is not None else model
        steps = steps or self._read_steps(call.tenant, served, fields, head, tail, parameters)
        request.inputs, request.steps, requested = steps
        result = await self._sequences.take(call.tenant, request)
        io = self._ios.of(result.model)
        if result.model is not served:
            requested = requested_outputs(io, fields, parameters)
        return sequence_response(io, parameters.id, requested, result)

    def _read_steps(
        self,
        tenant: str,
        model: ServedModel,
        fields: dict[str, Any],
        head: bytes,
        tail: bytes,
        parameters: Parameters,
    ) -> _Steps:
        """Read the steps of one sequence, and which outputs are asked for."""
        io = self._ios.of(model)
        requested = requested_outputs(io, fields, parameters)
        raw = read_step(io, fields, head, tail, parameters)
        if raw is not None:
            if not (parameters.start or parameters.end or parameters.number):  # no later request is the same
                template = Template(parameters.name, parameters.shown, parameters.epoch, parameters.patience, requested)
                io.templates.learn(tenant, template, parameters.id, fields, head, tail)
            return _Steps((raw,), 1, requested)
        inputs = read_inputs(io, fields, tail, self._step_limits)
        if inputs.sessions is not None:
            raise Refused("sequence_id", "names one sequence, and the input session_id several: give one of them")
        if inputs.rows != 1:
            raise InvalidInput("inputs", "one row, [1, steps, …], as a request advances one sequence", "more")
        return _Steps(inputs.raw, inputs.steps, requested)

    async def _take_without_name(
        self, call: Call, model: ServedModel, fields: dict[str, Any], tail: bytes, parameters: Parameters
    ) -> Reply:
        """Answer a request that names no sequence: a fleet step, or whole sequences of a stateless model."""
        io = self._ios.of(model)
        if io.carries_state and "session_id" not in _input_names(fields):
            raise NoSequence(model.name)
        requested = requested_outputs(io, fields, parameters)
        inputs = read_inputs(io, fields, tail, self._limits)
        for parameter, given in (
            ("sequence_start", parameters.start),
            ("sequence_end", parameters.end),
            ("step", parameters.number),
            ("epoch", parameters.epoch is not None),
        ):
            if given:
                raise Refused(parameter, "needs a sequence_id")
        if inputs.sessions is not None:
            return await self._take_fleet(call, model, inputs.sessions, inputs, parameters, requested)
        if parameters.create:
            raise Refused("create", "needs an input session_id")
        return await self._predict(call.tenant, model, inputs, parameters, requested)

    async def _take_fleet(
        self,
        call: Call,
        model: ServedModel,
        sessions: list[str],
        inputs: Inputs,
        parameters: Parameters,
        requested: Requested,
    ) -> Reply:
        """Advance many sequences; a row that fails does not affect the others."""
        if not model.card.streams:
            raise NotStreamable(model.name)
        model.codec.needs_one_tensor("inputs")
        request = FleetRequest(
            model,
            sessions,
            [inputs.steps] * inputs.rows,
            inputs.raw[0],
            parameters.create,
            inputs.numbers,
            patience=parameters.patience,
        )
        result = await self._fleet.take(call.tenant, request)
        notes = {name: orjson.dumps(value).decode() for name, value in result.notes().items()}
        tensor = result.tensor(model.card.outputs[0], inputs.steps)
        io = self._ios.of(model)
        return rows_response(io, parameters.id, requested, [tensor], {"failed": len(result.errors), **notes})

    async def _predict(
        self, tenant: str, model: ServedModel, inputs: Inputs, parameters: Parameters, requested: Requested
    ) -> Reply:
        """Run each row as a whole sequence from the initial state, without keeping a state."""
        rows = zip(*map(partial(_rows, inputs.rows), inputs.raw), strict=True)
        sequences = [(raw, inputs.steps) for raw in rows]
        results = await self._steps.predict(tenant, model, sequences, parameters.patience)
        io = self._ios.of(model)
        tensors = [np.stack([output_tensor(result.outputs, k) for result in results]) for k in range(len(io.outputs))]
        return rows_response(io, parameters.id, requested, tensors, {})


def infer_at(inference: Inference, parts: list[str]) -> "tuple[OperationOf[Reply], str] | None":
    """Return the operation and its argument, NAME or NAME/VERSION, for the path of an infer request; else None.

    `parts` is the path split at its slashes.
    """
    if parts[-1] != "infer" or parts[:3] != ["", "v2", "models"]:
        return None
    if len(parts) == 5 and parts[3]:
        return inference.infer, parts[3]
    if len(parts) == 7 and parts[3] and parts[4] == "versions" and parts[5].isascii() and parts[5].isdigit():
        return inference.infer, f"{parts[3]}/{parts[5]}"
    return None


async def _read(body: bytes, head_length: bytes | None, limits: Limits) -> tuple[dict[str, Any], bytes, bytes]:
    """Return what `_split` does; while a large JSON body is parsed, other tasks of the event loop may run."""
    if head_length is not None or len(body) < LARGE:
        return _split(body, head_length)
    return _object(await load_large_json(body, limits.elements, max_texts=limits.steps)), body, b""


def _split(body: bytes, head_length: bytes | None) -> tuple[dict[str, Any], bytes, bytes]:
    """Return the fields of a body's JSON head, the bytes of the head, and the bytes after it."""
    if head_length is not None:
        fields, tail = split_head(body, head_length)
        return fields, body[: len(body) - len(tail)], tail
    return _object(load_json(body)), body, b""


def _object(fields: Any) -> dict[str, Any]:
    if type(fields) is not dict:
        raise InvalidInput("body", "an object", kind(fields))
    return fields


def _input_names(fields: dict[str, Any]) -> list[Any]:
    tensors = fields.get("inputs")
    if type(tensors) is not list:
        return []
    return [tensor.get("name") for tensor in tensors if type(tensor) is dict]


def _rows(rows: int, raw: bytes) -> list[bytes]:
    """Split the raw bytes of an input into those of each row."""
    size = len(raw) // rows
    return [raw[at : at + size] for at in range(0, len(raw), size)]
