"""The bodies of fleet steps: JSON, and a JSON head with one raw tensor behind it."""

from typing import Any

import numpy as np
import orjson

from service.api.request import CONTENT_TYPE, OCTETS, Reply, json_reply
from service.codec.binary import DATATYPE_OF, HEAD_LENGTH, declared_shape, split_head
from service.codec.codec import to_json
from service.codec.json_values import kind, load_large_json, whole_number
from service.errors import InvalidInput
from service.repository.served_model import ServedModel
from service.sessions.fleet import FleetRequest, FleetResult
from service.sessions.names import NAME_LENGTH, NUMBER_PREFIX
from service.settings import Settings

_FIELDS = ("sessions", "inputs", "steps", "epochs", "create")


async def read_json(model: ServedModel, body: bytes, settings: Settings) -> FleetRequest:
    """Read {"sessions": [id or name, …], "inputs": [chunk, …], "steps": [n, …], "create": false}.

    Raises:
        MalformedJson, InvalidInput: The body is not that, or over a limit.
    """
    model.codec.needs_one_tensor("body")
    fields = await load_large_json(body, settings.predict_elements, max_texts=settings.predict_steps)
    keys, create, numbers, epochs = _read_rows(fields)
    inputs = fields.get("inputs")
    if type(inputs) is not list or len(inputs) != len(keys):
        got = f"one of {len(inputs)}" if type(inputs) is list else kind(inputs)
        raise InvalidInput("inputs", f"an array of {len(keys)} chunks, one for each session", got)
    decoded = await model.codec.decode_all(inputs, body, settings.predict_steps, settings.predict_elements)
    raw = b"".join([tensors[0] for tensors, _ in decoded])
    return FleetRequest(model, keys, [steps for _, steps in decoded], raw, create, numbers, epochs)


def read_framed(model: ServedModel, body: bytes, head_length: bytes, settings: Settings) -> FleetRequest:
    """Read a head {"sessions": …, "create": …, "inputs": [one tensor (rows, steps, *shape)]}, then the tensor.

    Raises:
        MalformedJson, InvalidInput: The body is not that, or over a limit.
    """
    model.codec.needs_one_tensor("body")
    head, raw = split_head(body, head_length)
    keys, create, numbers, epochs = _read_rows(head)
    spec = model.card.inputs[0]
    tensors = head.get("inputs")
    if type(tensors) is not list or len(tensors) != 1 or type(tensors[0]) is not dict:
        raise InvalidInput("inputs", f"an array of one tensor, {spec.name}", kind(tensors))
    if tensors[0].get("name") != spec.name:
        raise InvalidInput("inputs[0].name", spec.name, "another name")
    shape = declared_shape(tensors[0], "inputs[0]", spec.dtype, len(raw))
    if len(shape) != 2 + len(spec.shape) or shape[0] != len(keys) or tuple(shape[2:]) != spec.shape:
        raise InvalidInput("inputs[0].shape", f"[{len(keys)}, steps, {', '.join(map(str, spec.shape))}]", str(shape))
    tensor = model.codec.checked(raw, "inputs[0]", settings.predict_elements)
    if shape[1] < 1 or len(tensor) != shape[0] * shape[1]:
        raise InvalidInput("inputs[0]", f"the bytes of shape {shape}, at least one step", f"{len(raw)} bytes")
    if len(tensor) > settings.predict_steps:
        raise InvalidInput("inputs[0]", f"at most {settings.predict_steps} steps in all", f"{len(tensor)}")
    return FleetRequest(model, keys, [shape[1]] * len(keys), raw, create, numbers, epochs)


def json_answer(result: FleetResult) -> Reply:
    """Return the reply in JSON; null for a row that was not taken."""
    if isinstance(result.outputs, np.ndarray):
        outputs = to_json(result.outputs)
    else:
        outputs = b"[%b]" % b",".join([b"null" if row is None else to_json(row) for row in result.outputs])
    return json_reply(b'{"outputs":%b,%b' % (outputs, orjson.dumps(result.notes())[1:]))


def framed_answer(request: FleetRequest, result: FleetResult) -> Reply:
    """Return the reply as a JSON head and one raw tensor (rows, steps, *shape); NaN in a row that was not taken."""
    spec = request.model.card.outputs[0]
    tensor = result.tensor(spec, request.steps[0])
    raw = tensor.tobytes()
    described = {
        "name": spec.name,
        "datatype": DATATYPE_OF[spec.dtype],
        "shape": tensor.shape,
        "parameters": {"binary_data_size": len(raw)},
    }
    head = orjson.dumps({"outputs": [described], **result.notes()})
    return 200, [(CONTENT_TYPE, OCTETS), (HEAD_LENGTH, b"%d" % len(head))], head + raw


_Numbers = list[int | None] | None


def _read_rows(fields: object) -> tuple[list[str], bool, _Numbers, _Numbers]:
    """Read which sessions a request names, whether it creates them, and their step numbers and epochs."""
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
    if NUMBER_PREFIX in "".join(keys) and any(key.startswith(NUMBER_PREFIX) for key in keys):
        raise InvalidInput("sessions", "ids or names that do not begin with U+001F", "one that does")
    if type(create) is not bool:
        raise InvalidInput("create", "true or false", kind(create))
    numbers = _whole_numbers(fields.get("steps"), "steps", 1, len(keys))
    return keys, create, numbers, _whole_numbers(fields.get("epochs"), "epochs", 0, len(keys))


def _whole_numbers(values: Any, where: str, least: int, rows: int) -> _Numbers:
    if values is None:
        return None
    if type(values) is not list or len(values) != rows:
        got = f"one of {len(values)}" if type(values) is list else kind(values)
        raise InvalidInput(where, f"an array of {rows} whole numbers or nulls, one for each session", got)
    for row, value in enumerate(values):
        if value is not None:
            whole_number(value, f"{where}[{row}]", least)
    return values
