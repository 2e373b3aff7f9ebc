"""Bytes of a request → tensors as the card asks for them, and outputs → bytes of an answer.

Tensors travel through the service as raw little-endian bytes, row-major (steps, *shape): one step is copied once,
straight into the run's input.
"""

import asyncio
import math
import struct
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import orjson

from models.card import ModelCard, TensorSpec
from service.engine.outputs import OutputRow, RunOutputs, output_tensor
from service.errors import InvalidInput, MalformedJson

_GROUP = 256
"""After this many sequences that were read or written, other tasks may run."""
_SHORT = 16
"""Requests of up to this many steps of plain numbers are packed without a look at each number."""

Decoded = tuple[tuple[bytes, ...], int]
"""A raw tensor (steps, *shape) for each input, and the number of steps."""

_MOST_NUMBER = 2**63 - 1

_FORMATS = {"float32": "f", "float16": "e", "float64": "d", "int64": "q", "int32": "i", "bool": "?"}
_JSON_TYPES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def load_json(body: bytes) -> Any:
    """Parse a JSON body.

    Raises:
        MalformedJson: It is none; NaN, Infinity and numbers beyond a double are none either.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedJson(str(exc)) from exc


class _Packer:
    """Packs the JSON arrays of one input."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self._format = _FORMATS[spec.dtype]
        self.dtype = np.dtype(spec.dtype).newbyteorder("<")
        self.step_bytes = math.prod(spec.shape) * self.dtype.itemsize
        plain = len(spec.shape) == 1 and spec.vocabulary is None and spec.dtype != "bool"
        widths = [steps * spec.shape[0] for steps in range(_SHORT + 1)] if plain else []
        self.pack_short = [struct.Struct(f"<{width}{self._format}").pack for width in widths]
        """Packs the numbers of so many steps, where they are flat rows that need no check but their packing."""
        self._numbers = (
            "integers" if spec.dtype.startswith("int") else "booleans" if spec.dtype == "bool" else "numbers"
        )

    def pack(self, value: Any, where: str, max_elements: int, booleans: bool) -> tuple[bytes, int]:
        """Return the raw tensor and its steps; `booleans` tells that true or false stand somewhere in the body."""
        spec = self.spec
        if type(value) is not list or not value:
            raise InvalidInput(where, f"an array of at least one step, each {self._step()}", kind(value))
        flat = value
        try:
            for dim in spec.shape:
                if set(map(len, flat)) != {dim}:
                    raise self._diagnosis(value, where)
                flat = list(chain.from_iterable(flat))
            if len(flat) > max_elements:
                raise InvalidInput(where, f"at most {max_elements} numbers", f"{len(flat)}")
            packed = struct.pack(f"<{len(flat)}{self._format}", *flat)
            if (booleans or spec.dtype == "bool") and {type(v) is bool for v in flat} != {spec.dtype == "bool"}:
                raise self._diagnosis(value, where)
            if spec.vocabulary is not None and not (min(flat) >= 0 and max(flat) < spec.vocabulary):
                raise InvalidInput(where, f"token ids from 0 to {spec.vocabulary - 1}", f"{min(flat)} to {max(flat)}")
        except (TypeError, struct.error, OverflowError) as exc:
            raise self._diagnosis(value, where) from exc
        return packed, len(value)

    def pack_flat(self, flat: list[Any], where: str) -> bytes:
        """Return the numbers of whole steps, row-major, as a raw tensor."""
        boolean = self.spec.dtype == "bool"
        try:
            if (bool in set(map(type, flat))) == boolean:
                packed = struct.pack(f"<{len(flat)}{self._format}", *flat)
                if not boolean or set(map(type, flat)) == {bool}:
                    return packed
        except (TypeError, struct.error, OverflowError):
            pass  # said below, with the place
        misfit = self._misfit(flat, where, ())
        raise misfit or InvalidInput(where, f"an array of {self._numbers}", kind(flat))

    def _step(self) -> str:
        shape = self.spec.shape
        if not shape:
            return f"one of {self._numbers}"
        return " of ".join(f"an array of {dim}" for dim in shape) + f" {self._numbers} ({self.spec.dtype})"

    def _diagnosis(self, value: Any, where: str) -> InvalidInput:
        """Return the error for the first place that does not fit."""
        return self._misfit(value, where, self.spec.shape) or InvalidInput(where, self._step(), kind(value))

    def _misfit(self, value: Any, where: str, shape: tuple[int, ...]) -> InvalidInput | None:
        for index, item in enumerate(value):
            here = f"{where}[{index}]"
            if not shape:
                if not self._fits(item):
                    return InvalidInput(here, self._number(), kind(item))
                continue
            if type(item) is not list or len(item) != shape[0]:
                got = f"an array of {len(item)}" if type(item) is list else kind(item)
                return InvalidInput(here, f"an array of {shape[0]}", got)
            if (misfit := self._misfit(item, here, shape[1:])) is not None:
                return misfit
        return None

    def _number(self) -> str:
        return f"a finite {self.spec.dtype}" if self._format in "efd" else f"{self.spec.dtype}"

    def _fits(self, item: Any) -> bool:
        if (type(item) is bool) != (self.spec.dtype == "bool"):
            return False
        try:
            struct.pack(f"<{self._format}", item)
        except (TypeError, struct.error, OverflowError):
            return False
        return True


class Codec:
    """Reads and writes one model's tensors."""

    def __init__(self, card: ModelCard) -> None:
        self._packers = tuple(_Packer(spec) for spec in card.inputs)
        self.pack_short = self._packers[0].pack_short if len(self._packers) == 1 else []
        """As the packer's, where the model has one input; else, or where its numbers need a look, nothing."""
        self._widths = set(card.inputs[0].shape[:1])
        one_float = len(card.inputs) == len(card.outputs) == 1 and card.inputs[0].dtype == "float32"
        self._raw_step_bytes = self._packers[0].step_bytes if one_float else -1
        self._unpack_step = struct.Struct(f"<{math.prod(card.inputs[0].shape)}f").unpack
        self._step_size = sum(math.prod(spec.shape) for spec in card.inputs)
        self._output_specs = card.outputs
        self._outputs = tuple(spec.name for spec in card.outputs)

    def decode_steps(
        self, body: bytes, max_steps: int, max_elements: int
    ) -> tuple[tuple[bytes, ...], int, int, int | None]:
        """Read {"inputs": …, "step": n, "epoch": n}: inputs, steps, step number (0: none), epoch (None: none).

        Raises:
            MalformedJson, InvalidInput: The body is not that, or over a limit.
        """
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError as exc:
            raise MalformedJson(str(exc)) from exc
        number, epoch = None, None
        if type(fields) is dict and len(fields) > 1:
            number, epoch = fields.pop("step", None), fields.pop("epoch", None)
        booleans = b"true" in body or b"false" in body
        decoded: Decoded | None = None
        if self.pack_short and not booleans and type(fields) is dict and len(fields) == 1:
            rows = fields.get("inputs")
            if type(rows) is list and 0 < len(rows) <= min(_SHORT, max_steps, max_elements // self._step_size):
                try:  # a few steps of plain numbers, the common case: packing checks their kind and range
                    if len(rows) == 1:
                        decoded = (self.pack_short[1](*rows[0]),), 1
                    elif set(map(len, rows)) == self._widths:
                        decoded = (self.pack_short[len(rows)](*chain.from_iterable(rows)),), len(rows)
                except (TypeError, struct.error, OverflowError):
                    pass  # the error is raised below, with the place
        if decoded is None:
            value = self._only_inputs(fields, "inputs, step and epoch")
            decoded = self._decode(value, "inputs", max_steps, max_elements, booleans)
        if number is not None:
            number = whole_number(number, "step", 1)
        if epoch is not None:
            epoch = whole_number(epoch, "epoch", 0)
        return *decoded, number or 0, epoch

    def decode_history(self, value: Any, body: bytes, max_steps: int, max_elements: int) -> Decoded:
        """Read the steps before a new session's first one, a field of a JSON body."""
        return self._decode(value, "history", max_steps, max_elements, _has_booleans(body))

    async def decode_sequences(self, body: bytes, max_steps: int, max_elements: int) -> list[Decoded]:
        """Read a predict request {"inputs": [sequence, …]}.

        Raises:
            MalformedJson, InvalidInput: The body is not that, or over a limit.
        """
        value = self._only_inputs(load_json(body), "inputs")
        if type(value) is not list or not value:
            raise InvalidInput("inputs", "an array of at least one sequence", kind(value))
        return await self.decode_all(value, body, max_steps, max_elements)

    async def decode_all(self, sequences: list[Any], body: bytes, max_steps: int, max_elements: int) -> list[Decoded]:
        """Read the sequences of a JSON body; the limits are for all of them together.

        Many sequences take long, so other tasks run in between.

        Raises:
            InvalidInput: A sequence is not what the card asks for, or they are over a limit.
        """
        booleans = _has_booleans(body)
        decoded, steps_left = [], max_steps
        for index, sequence in enumerate(sequences):
            one = self._decode(sequence, f"inputs[{index}]", max_steps, max_elements, booleans)
            steps_left -= one[1]
            max_elements -= one[1] * self._step_size
            if steps_left < 0 or max_elements < 0:
                raise InvalidInput("inputs", "fewer steps in all sequences together", "more than one request may have")
            decoded.append(one)
            if index % _GROUP == _GROUP - 1:
                await asyncio.sleep(0)
        return decoded

    async def encode_all(self, sequences: Iterable[list[OutputRow]]) -> list[bytes]:
        """Return the outputs of many sequences, each as JSON; other tasks run in between."""
        parts = []
        for index, outputs in enumerate(sequences):
            parts.append(self.encode_steps(outputs))
            if index % _GROUP == _GROUP - 1:
                await asyncio.sleep(0)
        return parts

    def decode_binary(self, body: bytes, max_steps: int, max_elements: int) -> Decoded:
        """Read a raw little-endian tensor (steps, *shape).

        Raises:
            InvalidInput: The model has several inputs or outputs, or the bytes are not whole, finite steps.
        """
        if self.is_raw_step(body):
            return (body,), 1  # one step of float32, the common case: a sum of doubles cannot overflow
        self.needs_one_tensor("body")
        tensor = self.checked(body, "body", max_elements)
        if len(tensor) > max_steps:
            raise InvalidInput("body", f"at most {max_steps} steps", f"{len(tensor)}")
        return (body,), len(tensor)

    def is_raw_step(self, raw: bytes) -> bool:
        """Tell whether bytes are one finite step of a model with one input and one output of float32."""
        return len(raw) == self._raw_step_bytes and math.isfinite(sum(self._unpack_step(raw)))

    def checked(self, raw: bytes, where: str, max_elements: int, index: int = 0) -> np.ndarray:
        """Return the raw bytes of an input as an array (steps, *shape) of finite numbers.

        Raises:
            InvalidInput: They are not that, or too many.
        """
        packer = self._packers[index]
        dtype, size = packer.dtype, packer.step_bytes
        if not raw or len(raw) % size:
            raise InvalidInput(
                where, f"a multiple of {size} bytes, {packer.spec.dtype} in little-endian", f"{len(raw)}"
            )
        flat = np.frombuffer(raw, dtype)
        if len(flat) > max_elements:
            raise InvalidInput(where, f"at most {max_elements} numbers", f"{len(flat)}")
        if dtype.kind == "f" and not np.isfinite(flat).all():
            raise InvalidInput(where, "finite numbers", "NaN or an infinity")
        if dtype.kind == "b" and raw.strip(b"\0\1"):
            raise InvalidInput(where, "bytes 0 or 1", "another byte")
        if (vocabulary := packer.spec.vocabulary) is not None and not (flat.min() >= 0 and flat.max() < vocabulary):
            raise InvalidInput(where, f"token ids from 0 to {vocabulary - 1}", f"{flat.min()} to {flat.max()}")
        return flat.reshape(-1, *packer.spec.shape)

    def pack_flat(self, flat: list[Any], where: str, index: int) -> bytes:
        """Return the numbers of an input's whole steps, row-major, as a raw tensor that is still to be `checked`.

        Raises:
            InvalidInput: One of them is no number that the input's dtype can hold.
        """
        return self._packers[index].pack_flat(flat, where)

    def needs_one_tensor(self, where: str) -> None:
        """Raise InvalidInput where raw bytes could not tell one tensor from another."""
        if len(self._packers) > 1 or len(self._outputs) > 1:
            raise InvalidInput(where, "JSON, as this model has several inputs or outputs", "raw bytes")

    def stored_outputs(self, answer: bytes, steps: int) -> RunOutputs:
        """Return a stored answer, raw outputs one behind the other, as the outputs of a run of one row."""
        tensors, at = [], 0
        for spec in self._output_specs:
            shape = (1, steps, *spec.shape)
            tensor = np.frombuffer(answer, np.dtype(spec.dtype), math.prod(shape), at).reshape(shape)
            at += tensor.nbytes
            tensors.append(tensor)
        return RunOutputs(tensors)

    def encode_steps(self, outputs: list[OutputRow]) -> bytes:
        """Return outputs as JSON: an array (steps, *shape), or an object of them where there are several."""
        if len(self._outputs) == 1:
            if len(outputs) == 1:
                return _row_json(*outputs[0])
            return b"[%b]" % b",".join([_row_json(*row)[1:-1] for row in outputs])
        tensors = (to_json(output_tensor(outputs, k)) for k in range(len(self._outputs)))
        fields = (b'"%b":%b' % (name.encode(), json) for name, json in zip(self._outputs, tensors, strict=True))
        return b"{%b}" % b",".join(fields)

    def _only_inputs(self, fields: Any, known: str) -> Any:
        if type(fields) is not dict or "inputs" not in fields:
            raise InvalidInput("body", 'an object {"inputs": …}', kind(fields))
        if len(fields) > 1:
            unknown = next(name for name in fields if name != "inputs")
            raise InvalidInput("body", f"no field but {known}", f'a field "{unknown[:64]}"')
        return fields["inputs"]

    def _decode(self, value: Any, where: str, max_steps: int, max_elements: int, booleans: bool) -> Decoded:
        if len(self._packers) == 1:
            packed, steps = self._packers[0].pack(value, where, max_elements, booleans)
            tensors: tuple[bytes, ...] = (packed,)
        else:
            tensors, steps = self._several(value, where, max_elements, booleans)
        if steps > max_steps:
            raise InvalidInput(where, f"at most {max_steps} steps", f"{steps}")
        return tensors, steps

    def _several(self, value: Any, where: str, max_elements: int, booleans: bool) -> tuple[tuple[bytes, ...], int]:
        names = [packer.spec.name for packer in self._packers]
        if type(value) is not dict or sorted(value) != sorted(names):
            got = f"an object of {', '.join(sorted(value))[:128]}" if type(value) is dict else kind(value)
            raise InvalidInput(where, f"an object of {', '.join(names)}", got)
        packed = [
            packer.pack(value[name], f"{where}.{name}", max_elements, booleans)
            for name, packer in zip(names, self._packers, strict=True)
        ]
        steps = {count for _, count in packed}
        if len(steps) > 1:
            raise InvalidInput(where, "as many steps of each input", " and ".join(map(str, sorted(steps))))
        return tuple(data for data, _ in packed), steps.pop()


def _has_booleans(body: bytes) -> bool:
    return b"true" in body or b"false" in body


def whole_number(value: Any, where: str, least: int) -> int:
    """Return a step number, an epoch or a count that stands in a body.

    Raises:
        InvalidInput: It is no integer from `least` to 2^63 − 1.
    """
    if type(value) is not int or not least <= value <= _MOST_NUMBER:
        got = str(value) if type(value) is int else kind(value)
        raise InvalidInput(where, f"a whole number from {least} to 2^63 - 1", got)
    return value


def kind(value: Any) -> str:
    """Name a JSON value's kind; never the value itself, which the client knows and a log should not."""
    if type(value) is list and not value:
        return "an empty array"
    return _JSON_TYPES.get(type(value), "a number")


def to_json(tensor: np.ndarray) -> bytes:
    """Return a contiguous tensor as nested JSON arrays."""
    return orjson.dumps(tensor, option=orjson.OPT_SERIALIZE_NUMPY)


def flat_json(outputs: list[OutputRow], output: int = 0) -> bytes:
    """Return one output as JSON numbers without brackets, row-major."""
    if output == 0 and len(outputs) == 1:
        run, row, steps = outputs[0]
        tensor = run.tensors[0]
        if steps == tensor.shape[1]:
            if run.flat is None:
                run.flat = to_json(tensor.reshape(len(tensor), -1))[2:-2].split(b"],[")
            return run.flat[row]
    return to_json(output_tensor(outputs, output).reshape(-1))[1:-1]


def _row_json(run: RunOutputs, row: int, steps: int) -> bytes:
    """Return the first output of one row of a run; all rows are encoded in one go, when the first is asked for."""
    tensor = run.tensors[0]
    if steps < tensor.shape[1]:
        return to_json(tensor[row, :steps])
    if run.json is None:
        text = orjson.dumps(tensor, option=orjson.OPT_SERIALIZE_NUMPY)
        if len(tensor) == 1:
            run.json = [text[1:-1]]
        else:
            depth = tensor.ndim - 1
            opening, closing = b"[" * depth, b"]" * depth
            parts = text[depth + 1 : -depth - 1].split(closing + b"," + opening)
            run.json = [opening + part + closing for part in parts]
    return run.json[row]
