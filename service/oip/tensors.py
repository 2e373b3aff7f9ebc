"""Reading of the tensors of a request, sent as JSON numbers or as raw bytes after the JSON head."""

import struct
from typing import Any, NamedTuple

from service.codec.json_values import kind
from service.errors import InvalidInput
from service.oip.elements import flat_elements, source_of, split_strings
from service.oip.errors import (
    InvalidRequest,
    MissingInputs,
    NeedsBinary,
    TooFewBytes,
    TooManyBytes,
    UnexpectedInput,
    WrongDatatype,
    WrongShape,
    WrongSize,
)
from service.oip.model_io import ModelIO
from service.oip.parameters import Parameters
from service.sessions.names import NAME_LENGTH, NUMBER_PREFIX, name_of_number

SESSIONS, STEPS = "session_id", "step"
"""Inputs of a fleet step: the session of each row, and the index of the row's first step, 0 for none."""

_MAX_DIM = 1 << 40


class Inputs(NamedTuple):
    """The raw bytes (rows, steps, *shape) of each input; for a fleet step each row's session and step number."""

    rows: int
    steps: int
    raw: tuple[bytes, ...]
    sessions: list[str] | None = None
    numbers: list[int | None] | None = None


class Limits(NamedTuple):
    """The most time steps, and the most numbers, that all rows of a request may have together."""

    steps: int
    elements: int


def read_step(io: ModelIO, fields: dict[str, Any], head: bytes, tail: bytes, parameters: Parameters) -> bytes | None:
    """Return the raw bytes of a request's only step where it is written in the most common ways; None otherwise."""
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
        described = tensor.get("parameters")
        fits = described == {"binary_data_size": len(tail)} and type(described["binary_data_size"]) is int
        return tail if fits and io.codec.is_raw_step(tail) else None
    data = tensor.get("data")
    if io.pack_step is None or type(data) is not list:
        return None
    if head.count(b"true") + head.count(b"false") != parameters.booleans:  # some of the numbers are booleans
        return None
    try:  # packing checks the numbers' types, count and range
        return io.pack_step(*data)
    except (TypeError, struct.error, OverflowError):
        return None


def read_inputs(io: ModelIO, fields: dict[str, Any], tail: bytes, limits: Limits) -> Inputs:
    """Read all tensors of a request.

    Raises:
        InvalidInput, InvalidRequest, Unsupported: They do not match the model's card, or exceed a limit.
    """
    tensors = fields.get("inputs")
    if type(tensors) is not list or not tensors:
        raise InvalidInput("inputs", "an array of at least one tensor", kind(tensors))
    reader = _Reader(io, tail, limits)
    for index, tensor in enumerate(tensors):
        reader.read(tensor, f"inputs[{index}]")
    return reader.result()


def read_raw(io: ModelIO, body: bytes, limits: Limits) -> Inputs:
    """Read a body that is one sequence as raw bytes of the model's only input.

    Raises:
        InvalidRequest: The model has several inputs.
        InvalidInput: The bytes do not match the model's card, or exceed a limit.
    """
    if len(io.inputs) != 1:
        raise InvalidRequest(f"a raw request needs a model with one input, and '{io.name}' has {len(io.inputs)}")
    tensor = io.inputs[0]
    array = io.codec.checked(body, "body", limits.elements)
    if len(array) > limits.steps:
        raise InvalidInput(f"input '{tensor.name}'", f"at most {limits.steps} steps", f"{len(array)}")
    return Inputs(1, len(array), (body,))


class _Reader:
    """Reads the tensors of a request one by one, in the sequence in which the head lists them.

    `_tail` holds the raw bytes after the head; those before `_offset` have been read. `_raw` and `_shapes` have by name
    the bytes and (rows, steps) of each input that has been read; `_sessions` and `_numbers` are None until read.
    """

    def __init__(self, io: ModelIO, tail: bytes, limits: Limits) -> None:
        self._io, self._tail, self._offset, self._limits = io, tail, 0, limits
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
        if type(shape) is not list or not all(type(dim) is int and 0 <= dim < _MAX_DIM for dim in shape):
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
        """Return what was read, after a check that no input is missing and all have as many rows and steps."""
        io = self._io
        if self._offset != len(self._tail):
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
        source = source_of(tensor, where)
        if source == "data":
            if not spec.in_json:
                raise NeedsBinary(spec.datatype, "input", spec.name)
            flat = flat_elements(tensor["data"], shape, f"{where}.data")
            raw = io.codec.pack_flat(flat, f"{where}.data", index)
        else:
            raw = self._next_bytes(tensor, spec.name, where)
            if len(raw) != rows * steps * spec.step_bytes:
                raise WrongSize(spec.name, io.name, rows * steps * spec.step_bytes, len(raw))
        io.codec.checked(raw, where, self._limits.elements, index)
        return raw

    def _read_sessions(self, tensor: Any, datatype: str, shape: list[int], where: str) -> list[str]:
        """Return the session of each row: names or ids as BYTES, or numbers as UINT64."""
        count = self._count(SESSIONS, shape)
        if datatype == "UINT64":
            numbers = self._integers(tensor, SESSIONS, count, "Q", where)
            if 0 in numbers:
                raise InvalidInput(where, "ids from 1 to 2^64 - 1", "0")
            return [name_of_number(number) for number in numbers]
        if datatype != "BYTES":
            raise WrongDatatype(SESSIONS, self._io.name, "BYTES", datatype)
        if source_of(tensor, where) == "data":
            names = flat_elements(tensor["data"], shape, f"{where}.data")
        else:
            names = split_strings(self._next_bytes(tensor, SESSIONS, where), count, where)
        if set(map(type, names)) != {str} or not all(names) or max(map(len, names)) > NAME_LENGTH:
            raise InvalidInput(where, f"ids or names of 1 to {NAME_LENGTH} characters", "others")
        if any(name.startswith(NUMBER_PREFIX) for name in names):
            raise InvalidInput(where, "ids or names that do not begin with U+001F", "one that does")
        return names

    def _read_numbers(self, tensor: Any, datatype: str, shape: list[int], where: str) -> list[int | None]:
        """Return the index of each row's first step, None for none."""
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

    def _integers(self, tensor: Any, name: str, count: int, code: str, where: str) -> list[int]:
        packing = f"<{count}{code}"
        if source_of(tensor, where) == "data":
            numbers = flat_elements(tensor["data"], tensor["shape"], f"{where}.data")
            try:
                if bool not in set(map(type, numbers)):
                    return list(struct.unpack(packing, struct.pack(packing, *numbers)))
            except struct.error:
                pass
            raise InvalidInput(f"{where}.data", "whole numbers of the datatype's range", "others")
        raw = self._next_bytes(tensor, name, where)
        if len(raw) != 8 * count:
            raise WrongSize(name, self._io.name, 8 * count, len(raw))
        return list(struct.unpack(packing, raw))

    def _next_bytes(self, tensor: Any, name: str, where: str) -> bytes:
        """Return the raw bytes of a tensor, and advance `_offset`."""
        size = tensor["parameters"]["binary_data_size"]
        if type(size) is not int or size < 0:
            raise InvalidInput(f"{where}.parameters.binary_data_size", "a number of bytes", kind(size))
        left = len(self._tail) - self._offset
        if size > left:
            raise TooFewBytes(name, self._io.name, size - left)
        self._offset += size
        return self._tail[self._offset - size : self._offset]
