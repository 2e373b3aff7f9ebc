"""Tensors of a request: named, shaped, as JSON numbers or as raw bytes behind the head."""

import math
import struct
from itertools import chain
from typing import Any, NamedTuple

from service.codec.json_values import kind
from service.errors import InvalidInput
from service.oip.errors import (
    InvalidRequest,
    MissingInputs,
    NeedsBinary,
    TooFewBytes,
    TooManyBytes,
    UnexpectedInput,
    Unsupported,
    WrongDatatype,
    WrongShape,
    WrongSize,
)
from service.oip.model_io import ModelIO
from service.oip.parameters import Parameters
from service.sessions.names import NAME_LENGTH, NUMBER_PREFIX, name_of_number

SESSIONS, STEPS = "session_id", "step"
"""Inputs that make a request a fleet step: whose row each is, and the number of its first step, 0 for none."""

_SOURCES = ("data", "binary_data_size", "shared_memory_region")
_MOST_DIM = 1 << 40


class Inputs(NamedTuple):
    """A request's tensors: raw bytes of each input, (rows, steps, *shape), and the sessions of a fleet step."""

    rows: int
    steps: int
    raw: tuple[bytes, ...]
    sessions: list[str] | None = None
    numbers: list[int | None] | None = None


class Limits(NamedTuple):
    """The most time steps, and the most numbers, in all rows together."""

    steps: int
    elements: int


def read_step(io: ModelIO, fields: dict[str, Any], head: bytes, tail: bytes, asked: Parameters) -> bytes | None:
    """Return the one step of one sequence that a request brings in its commonest forms, None in any other."""
    tensors = fields.get("inputs")
    if type(tensors) is not list or len(tensors) != 1 or type(tensors[0]) is not dict:
        return None
    tensor, spec = tensors[0], io.inputs[0]
    shape = tensor.get("shape")
    if shape != spec.step_shape or tensor.get("name") != spec.name or tensor.get("datatype") != spec.datatype:
        return None
    if set(map(type, shape)) != {int} or len(tensor) != 4 or len(io.inputs) != 1:
        return None
    if tail:
        parameters = tensor.get("parameters")
        ours = parameters == {"binary_data_size": len(tail)} and type(parameters["binary_data_size"]) is int
        return tail if ours and io.codec.is_raw_step(tail) else None
    data = tensor.get("data")
    if io.pack_step is None or type(data) is not list:
        return None
    if head.count(b"true") + head.count(b"false") != asked.booleans:  # there are some among the numbers
        return None
    try:  # packing checks the numbers' kind, count and range
        return io.pack_step(*data)
    except (TypeError, struct.error, OverflowError):
        return None


def read_inputs(io: ModelIO, fields: dict[str, Any], tail: bytes, limits: Limits) -> Inputs:
    """Read all tensors of a request.

    Raises:
        InvalidInput, InvalidRequest, Unsupported: They are not what the model's card asks for.
    """
    tensors = fields.get("inputs")
    if type(tensors) is not list or not tensors:
        raise InvalidInput("inputs", "an array of at least one tensor", kind(tensors))
    reader = _Reader(io, tail, limits)
    for index, tensor in enumerate(tensors):
        reader.read(tensor, f"inputs[{index}]")
    return reader.result()


def read_raw(io: ModelIO, body: bytes, limits: Limits) -> Inputs:
    """Read a body that is the one input's bytes and nothing else: one sequence."""
    if len(io.inputs) != 1:
        raise InvalidRequest(f"a raw request needs a model with one input, and '{io.name}' has {len(io.inputs)}")
    tensor = io.inputs[0]
    array = io.codec.checked(body, "body", limits.elements)
    if len(array) > limits.steps:
        raise InvalidInput(f"input '{tensor.name}'", f"at most {limits.steps} steps", f"{len(array)}")
    return Inputs(1, len(array), (body,))


class _Reader:
    """Reads one tensor after the other; raw bytes are taken off `tail` in their order."""

    def __init__(self, io: ModelIO, tail: bytes, limits: Limits) -> None:
        self._io, self._tail, self._at, self._limits = io, tail, 0, limits
        self._raw: dict[str, bytes] = {}
        self._shapes: dict[str, tuple[int, int]] = {}
        self._sessions: list[str] | None = None
        self._numbers: list[int | None] | None = None

    def read(self, tensor: Any, where: str) -> None:
        if type(tensor) is not dict:
            raise InvalidInput(where, "an object with name, shape, datatype and data", kind(tensor))
        name, datatype, shape = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
        if type(name) is not str:
            raise InvalidInput(f"{where}.name", "a string", kind(name))
        if type(datatype) is not str:
            raise InvalidInput(f"{where}.datatype", "a string", kind(datatype))
        if type(shape) is not list or not all(type(dim) is int and 0 <= dim < _MOST_DIM for dim in shape):
            raise InvalidInput(f"{where}.shape", "an array of lengths", kind(shape))
        if name in self._raw:
            raise InvalidInput(f"{where}.name", "each input once", "the same one again")
        index = self._io.input_index.get(name)
        if index is not None:
            self._raw[name] = self._read_input(index, tensor, datatype, shape, where)
        elif name == SESSIONS and self._sessions is None:
            self._sessions = self._read_sessions(tensor, datatype, shape, where)
        elif name == STEPS and self._numbers is None:
            self._numbers = self._read_numbers(tensor, datatype, shape, where)
        else:
            raise UnexpectedInput(name, self._io.name)

    def result(self) -> Inputs:
        """Return what was read, once all of it fits together."""
        io = self._io
        if self._at != len(self._tail):
            raise TooManyBytes(io.name)
        names = [tensor.name for tensor in io.inputs]
        if len(self._raw) < len(names):
            raise MissingInputs(io.name, names, list(self._raw))
        shapes = set(self._shapes.values())
        if len(shapes) > 1:
            raise InvalidInput("inputs", "as many rows and steps of each input", " and ".join(map(str, sorted(shapes))))
        rows, steps = shapes.pop()
        if self._numbers is not None and self._sessions is None:
            raise UnexpectedInput(STEPS, io.name)
        for name, values in ((SESSIONS, self._sessions), (STEPS, self._numbers)):
            if values is not None and len(values) != rows:
                raise WrongShape(name, io.name, [rows], [len(values)])
        return Inputs(rows, steps, tuple(self._raw[name] for name in names), self._sessions, self._numbers)

    def _read_input(self, index: int, tensor: Any, datatype: str, shape: list[int], where: str) -> bytes:
        io, spec = self._io, self._io.inputs[index]
        if datatype != spec.datatype:
            raise WrongDatatype(spec.name, io.name, spec.datatype, datatype)
        if len(shape) != 2 + len(spec.spec.shape) or tuple(shape[2:]) != spec.spec.shape or 0 in shape[:2]:
            raise WrongShape(spec.name, io.name, [-1, -1, *spec.spec.shape], shape)
        rows, steps = self._shapes[spec.name] = shape[0], shape[1]
        if rows * steps > self._limits.steps:
            raise InvalidInput(f"{where}.shape", f"at most {self._limits.steps} steps in all", f"{rows * steps}")
        if rows * steps * spec.width > self._limits.elements:
            raise InvalidInput(f"{where}.shape", f"at most {self._limits.elements} numbers", "more")
        source = _source(tensor, where)
        if source == "data":
            if not spec.in_json:
                raise NeedsBinary(spec.datatype, "input", spec.name)
            flat = _flat(tensor["data"], shape, f"{where}.data")
            raw = io.codec.pack_flat(flat, f"{where}.data", index)
        else:
            raw = self._take(tensor, spec.name, where)
            if len(raw) != rows * steps * spec.step_bytes:
                raise WrongSize(spec.name, io.name, rows * steps * spec.step_bytes, len(raw))
        io.codec.checked(raw, where, self._limits.elements, index)
        return raw

    def _read_sessions(self, tensor: Any, datatype: str, shape: list[int], where: str) -> list[str]:
        """Read whose each row is: names or ids as BYTES, numbers as UINT64."""
        count = self._count(SESSIONS, shape)
        if datatype == "UINT64":
            numbers = self._integers(tensor, SESSIONS, count, "Q", where)
            if 0 in numbers:
                raise InvalidInput(where, "ids from 1 to 2^64 - 1", "0")
            return [name_of_number(number) for number in numbers]
        if datatype != "BYTES":
            raise WrongDatatype(SESSIONS, self._io.name, "BYTES", datatype)
        if _source(tensor, where) == "data":
            names = _flat(tensor["data"], shape, f"{where}.data")
        else:
            names = _strings(self._take(tensor, SESSIONS, where), count, where)
        if set(map(type, names)) != {str} or not all(names) or max(map(len, names)) > NAME_LENGTH:
            raise InvalidInput(where, f"ids or names of 1 to {NAME_LENGTH} characters", "others")
        if any(name.startswith(NUMBER_PREFIX) for name in names):
            raise InvalidInput(where, "ids or names that do not begin with U+001F", "one that does")
        return names

    def _read_numbers(self, tensor: Any, datatype: str, shape: list[int], where: str) -> list[int | None]:
        """Read the number of each row's first step."""
        if datatype != "INT64":
            raise WrongDatatype(STEPS, self._io.name, "INT64", datatype)
        numbers = self._integers(tensor, STEPS, self._count(STEPS, shape), "q", where)
        if min(numbers) < 0:
            raise InvalidInput(where, "step numbers, or 0 for none", "a negative number")
        return [number or None for number in numbers]

    def _count(self, name: str, shape: list[int]) -> int:
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or not shape[0]:
            raise WrongShape(name, self._io.name, [-1], shape)
        if shape[0] > self._limits.steps:
            raise InvalidInput(f"input '{name}'", f"at most {self._limits.steps} rows", "more")
        return shape[0]

    def _integers(self, tensor: Any, name: str, count: int, form: str, where: str) -> list[int]:
        packing = f"<{count}{form}"
        if _source(tensor, where) == "data":
            numbers = _flat(tensor["data"], tensor["shape"], f"{where}.data")
            try:
                if bool not in set(map(type, numbers)):
                    return list(struct.unpack(packing, struct.pack(packing, *numbers)))
            except struct.error:
                pass
            raise InvalidInput(f"{where}.data", "whole numbers of the datatype's range", "others")
        raw = self._take(tensor, name, where)
        if len(raw) != 8 * count:
            raise WrongSize(name, self._io.name, 8 * count, len(raw))
        return list(struct.unpack(packing, raw))

    def _take(self, tensor: Any, name: str, where: str) -> bytes:
        """Take a tensor's bytes off the tail."""
        size = tensor["parameters"]["binary_data_size"]
        if type(size) is not int or size < 0:
            raise InvalidInput(f"{where}.parameters.binary_data_size", "a number of bytes", kind(size))
        left = len(self._tail) - self._at
        if size > left:
            raise TooFewBytes(name, self._io.name, size - left)
        self._at += size
        return self._tail[self._at - size : self._at]


def _source(tensor: Any, where: str) -> str:
    """Tell where a tensor's numbers are: in its `data`, or in binary."""
    parameters = tensor.get("parameters", {})
    if type(parameters) is not dict:
        raise InvalidInput(f"{where}.parameters", "an object", kind(parameters))
    if any(key.startswith("shared_memory_") for key in parameters):
        raise Unsupported("shared memory")
    given = [source for source in _SOURCES if source in (tensor if source == "data" else parameters)]
    if len(given) != 1:
        raise InvalidInput(where, "either data or binary_data_size", "both" if given else "neither")
    return given[0]


def _flat(data: Any, shape: list[int], where: str) -> list[Any]:
    """Return the elements of `data`, which is flat or nested as the shape says."""
    if type(data) is not list:
        raise InvalidInput(where, "an array", kind(data))
    flat = data
    if list in set(map(type, data)):
        for depth, dim in enumerate(shape):
            if depth:
                if set(map(type, flat)) != {list}:
                    raise InvalidInput(where, f"arrays nested as the shape {shape} says, or none in another", "others")
                if set(map(len, flat)) != {dim}:
                    raise InvalidInput(where, f"arrays nested as the shape {shape} says", "other lengths")
                flat = list(chain.from_iterable(flat))
            elif len(flat) != dim:
                raise InvalidInput(where, f"arrays nested as the shape {shape} says", "other lengths")
    if len(flat) != math.prod(shape):
        raise InvalidInput(where, f"{math.prod(shape)} elements for the shape {shape}", f"{len(flat)}")
    return flat


def _strings(raw: bytes, count: int, where: str) -> list[Any]:
    """Split elements of BYTES, each behind its length in four bytes."""
    strings: list[Any] = []
    at = 0
    while at < len(raw) and len(strings) <= count:
        size = int.from_bytes(raw[at : at + 4], "little")
        at += 4 + size
        if at > len(raw):
            raise InvalidInput(where, "elements of BYTES, each behind its length", "fewer bytes than the lengths say")
        try:
            strings.append(raw[at - size : at].decode())
        except UnicodeDecodeError as exc:
            raise InvalidInput(where, "text in UTF-8", "other bytes") from exc
    if len(strings) != count:
        raise InvalidInput(where, f"{count} elements", "another number of them")
    return strings
