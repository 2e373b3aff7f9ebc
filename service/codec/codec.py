"""Decode request bodies into tensors as a model's card specifies them, and encode outputs as JSON.

A decoded tensor is raw little-endian bytes, row-major (steps, *shape), so that a step is copied only once, into the
input of the run.
"""

import asyncio
import math
import struct
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import orjson

from models.card import ModelCard
from service.codec.json_values import kind, load_json, load_large_json, whole_number
from service.codec.large_json import LARGE
from service.codec.packer import SHORT_STEPS, Packer
from service.engine.outputs import OutputRow, RunOutputs, output_tensor
from service.errors import InvalidInput

_SEQUENCES_PER_YIELD = 256
"""Sequences that are decoded or encoded before other tasks of the event loop may run."""
_STEPS_PER_YIELD = 1024
"""Steps of one sequence that are decoded or encoded before other tasks may run."""
_SEARCHED = 256 << 10
"""Bytes of a body that are searched before other tasks may run."""
_TEXTS = 64
"""Most names and other texts of a large prediction of a model with one input, which needs one."""

StepInputs = tuple[tuple[bytes, ...], int]
"""A raw tensor (steps, *shape) for each input, and the number of steps."""


class Codec:
    """Decodes the inputs and encodes the outputs of one model; immutable."""

    def __init__(self, card: ModelCard) -> None:
        self._packers = tuple(Packer(spec) for spec in card.inputs)
        self.pack_short = self._packers[0].pack_short if len(self._packers) == 1 else []
        """`Packer.pack_short` of the only input; empty where the model has several inputs."""
        self._widths = set(card.inputs[0].shape[:1])
        one_float = len(card.inputs) == len(card.outputs) == 1 and card.inputs[0].dtype == "float32"
        self._raw_step_bytes = self._packers[0].step_bytes if one_float else -1
        self._unpack_step = struct.Struct(f"<{math.prod(card.inputs[0].shape)}f").unpack
        self._arrays_per_step = sum(
            math.prod(spec.shape[:depth]) for spec in card.inputs for depth in range(len(spec.shape))
        )
        self._step_size = sum(math.prod(spec.shape) for spec in card.inputs)
        self._output_specs = card.outputs
        self._outputs = tuple(spec.name for spec in card.outputs)

    def decode_steps(
        self, body: bytes, max_steps: int, max_elements: int
    ) -> tuple[tuple[bytes, ...], int, int, int | None]:
        """Decode a step request {"inputs": …, "step": n, "epoch": n}.

        Return the raw tensors, the number of steps, the step number (0: none) and the epoch (None: none).

        Raises:
            MalformedJson, InvalidInput: The body is not such a request, or it exceeds a limit.
        """
        max_arrays = self._max_arrays(max_steps) if len(body) >= LARGE else None
        fields = load_json(body, max_elements, max_arrays)
        number, epoch = None, None
        if type(fields) is dict and len(fields) > 1:
            number, epoch = fields.pop("step", None), fields.pop("epoch", None)
        booleans = b"true" in body or b"false" in body
        decoded: StepInputs | None = None
        if self.pack_short and not booleans and type(fields) is dict and len(fields) == 1:
            rows = fields.get("inputs")
            if type(rows) is list and 0 < len(rows) <= min(SHORT_STEPS, max_steps, max_elements // self._step_size):
                try:  # the common case, a few steps of plain numbers: packing checks their types and range
                    if len(rows) == 1:
                        decoded = (self.pack_short[1](*rows[0]),), 1
                    elif set(map(len, rows)) == self._widths:
                        decoded = (self.pack_short[len(rows)](*chain.from_iterable(rows)),), len(rows)
                except (TypeError, struct.error, OverflowError):
                    pass  # the error raised below names the number
        if decoded is None:
            value = self._inputs_field(fields, "inputs, step and epoch")
            decoded = self._decode(value, "inputs", max_steps, max_elements, booleans)
        if number is not None:
            number = whole_number(number, "step", 1)
        if epoch is not None:
            epoch = whole_number(epoch, "epoch", 0)
        return *decoded, number or 0, epoch

    async def decode_history(self, value: Any, body: bytes, max_steps: int, max_elements: int) -> StepInputs:
        """Decode the field `history` of a JSON body: steps that a new session takes when it is created.

        Other tasks of the event loop may run in between, and a long array has no steps afterwards.

        Raises:
            InvalidInput: The steps do not match the card, or exceed a limit.
        """
        booleans = await _has_booleans_meanwhile(body)
        if type(value) is list and len(value) > _STEPS_PER_YIELD:
            return await self._decode_long(value, "history", max_steps, max_elements, booleans)
        return self._decode(value, "history", max_steps, max_elements, booleans)

    async def decode_sequences(self, body: bytes, max_steps: int, max_elements: int) -> list[StepInputs]:
        """Decode a predict request {"inputs": [sequence, …]}.

        Raises:
            MalformedJson, InvalidInput: The body is not such a request, or it exceeds a limit.
        """
        texts = _TEXTS if len(self._packers) == 1 else None
        fields = await load_large_json(body, max_elements, self._max_arrays(max_steps), texts)
        value = self._inputs_field(fields, "inputs")
        if type(value) is not list or not value:
            raise InvalidInput("inputs", "an array of at least one sequence", kind(value))
        return await self.decode_all(value, body, max_steps, max_elements)

    async def decode_all(
        self, sequences: list[Any], body: bytes, max_steps: int, max_elements: int
    ) -> list[StepInputs]:
        """Decode the sequences of a JSON body; the limits apply to all of them together.

        Other tasks of the event loop may run in between, as many sequences take long.

        Raises:
            InvalidInput: A sequence does not match the card, or the sequences exceed a limit.
        """
        booleans = await _has_booleans_meanwhile(body)
        decoded, steps_left = [], max_steps
        for index, sequence in enumerate(sequences):
            where = f"inputs[{index}]"
            if type(sequence) is list and len(sequence) > _STEPS_PER_YIELD:
                one = await self._decode_long(sequence, where, max_steps, max_elements, booleans)
            else:
                one = self._decode(sequence, where, max_steps, max_elements, booleans)
            steps_left -= one[1]
            max_elements -= one[1] * self._step_size
            if steps_left < 0 or max_elements < 0:
                raise InvalidInput("inputs", "fewer steps in all sequences together", "more than one request may have")
            decoded.append(one)
            if index % _SEQUENCES_PER_YIELD == _SEQUENCES_PER_YIELD - 1:
                await asyncio.sleep(0)
        return decoded

    async def _decode_long(
        self, steps: list[Any], where: str, max_steps: int, max_elements: int, booleans: bool
    ) -> StepInputs:
        """Decode the steps of a long sequence, which has none afterwards; other tasks may run in between.

        Raises:
            InvalidInput: The steps do not match the card, or exceed a limit.
        """
        if len(self._packers) > 1:
            return self._decode(steps, where, max_steps, max_elements, booleans)  # it refuses: these are in an object
        count, parts = len(steps), []
        numbers = count * self._step_size
        try:
            for start in range(0, count, _STEPS_PER_YIELD):
                piece = steps[start : start + _STEPS_PER_YIELD]
                parts.append(self._packers[0].pack(piece, where, numbers, booleans, start)[0])
                steps[start : start + len(piece)] = [None] * len(piece)  # freeing them all at the end takes long
                await asyncio.sleep(0)
        except InvalidInput:
            while steps:
                del steps[-_STEPS_PER_YIELD:]
                await asyncio.sleep(0)
            raise
        if numbers > max_elements:
            raise InvalidInput(where, f"at most {max_elements} numbers", f"{numbers}")
        if count > max_steps:
            raise InvalidInput(where, f"at most {max_steps} steps", f"{count}")
        return (b"".join(parts),), count

    async def encode_all(self, sequences: Iterable[list[OutputRow]]) -> list[bytes]:
        """Return the outputs of each sequence as JSON; other tasks of the event loop may run in between."""
        parts = []
        for index, outputs in enumerate(sequences):
            parts.append(await self._encode_long(outputs) if len(outputs) > 1 else self.encode_steps(outputs))
            if index % _SEQUENCES_PER_YIELD == _SEQUENCES_PER_YIELD - 1:
                await asyncio.sleep(0)
        return parts

    async def _encode_long(self, outputs: list[OutputRow]) -> bytes:
        """Return the outputs of a sequence that took several runs as `encode_steps` does; others may run in between."""
        if len(self._outputs) > 1:
            return self.encode_steps(outputs)
        parts, steps = [], 0
        for row in outputs:
            parts.append(_row_json(*row)[1:-1])
            steps += row[2]
            if steps >= _STEPS_PER_YIELD:
                steps = 0
                await asyncio.sleep(0)
        return b"[%b]" % b",".join(parts)

    def decode_binary(self, body: bytes, max_steps: int, max_elements: int) -> StepInputs:
        """Decode a raw little-endian tensor (steps, *shape).

        Raises:
            InvalidInput: The model has several inputs or outputs, or the bytes are not whole steps of finite numbers.
        """
        if self.is_raw_step(body):
            return (body,), 1  # the common case, one step of float32
        self.needs_one_tensor("body")
        tensor = self.checked(body, "body", max_elements)
        if len(tensor) > max_steps:
            raise InvalidInput("body", f"at most {max_steps} steps", f"{len(tensor)}")
        return (body,), len(tensor)

    def is_raw_step(self, raw: bytes) -> bool:
        """Return whether bytes are one step of finite numbers of a model with one float32 input and one output."""
        # float32 numbers that are added as doubles cannot overflow, so the sum is finite where all of them are
        return len(raw) == self._raw_step_bytes and math.isfinite(sum(self._unpack_step(raw)))

    def checked(self, raw: bytes, where: str, max_elements: int, index: int = 0) -> np.ndarray:
        """Return the raw bytes of an input as an array (steps, *shape) of finite numbers.

        Raises:
            InvalidInput: They are not whole steps, not finite, outside the vocabulary, or more than `max_elements`.
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
        """Return the numbers of whole steps of an input, row-major, as a raw tensor; `checked` has to follow.

        Raises:
            InvalidInput: One of them is not a number that the input's dtype can hold.
        """
        return self._packers[index].pack_flat(flat, where)

    def needs_one_tensor(self, where: str) -> None:
        """Check that the model has one input and one output, as raw bytes hold a single tensor.

        Raises:
            InvalidInput: It has several of either.
        """
        if len(self._packers) > 1 or len(self._outputs) > 1:
            raise InvalidInput(where, "JSON, as this model has several inputs or outputs", "raw bytes")

    def stored_outputs(self, response: bytes, steps: int) -> RunOutputs:
        """Return a stored response, the concatenated raw outputs, as the outputs of a run with one row."""
        tensors, offset = [], 0
        for spec in self._output_specs:
            shape = (1, steps, *spec.shape)
            tensor = np.frombuffer(response, np.dtype(spec.dtype), math.prod(shape), offset).reshape(shape)
            offset += tensor.nbytes
            tensors.append(tensor)
        return RunOutputs(tensors)

    def encode_steps(self, outputs: list[OutputRow]) -> bytes:
        """Return outputs as JSON: an array (steps, *shape), or an object of name → array where there are several."""
        if len(self._outputs) == 1:
            if len(outputs) == 1:
                return _row_json(*outputs[0])
            return b"[%b]" % b",".join([_row_json(*row)[1:-1] for row in outputs])
        tensors = (to_json(output_tensor(outputs, k)) for k in range(len(self._outputs)))
        fields = (b'"%b":%b' % (name.encode(), json) for name, json in zip(self._outputs, tensors, strict=True))
        return b"{%b}" % b",".join(fields)

    def _max_arrays(self, steps: int) -> int:
        """Return how many arrays a body of that many steps can have, each step in a sequence of its own."""
        return steps * (1 + self._arrays_per_step) + LARGE // 16

    def _inputs_field(self, fields: Any, known: str) -> Any:
        if type(fields) is not dict or "inputs" not in fields:
            raise InvalidInput("body", 'an object {"inputs": …}', kind(fields))
        if len(fields) > 1:
            unknown = next(name for name in fields if name != "inputs")
            raise InvalidInput("body", f"no field but {known}", f'a field "{unknown[:64]}"')
        return fields["inputs"]

    def _decode(self, value: Any, where: str, max_steps: int, max_elements: int, booleans: bool) -> StepInputs:
        if len(self._packers) == 1:
            packed, steps = self._packers[0].pack(value, where, max_elements, booleans)
            tensors: tuple[bytes, ...] = (packed,)
        else:
            tensors, steps = self._decode_named(value, where, max_elements, booleans)
        if steps > max_steps:
            raise InvalidInput(where, f"at most {max_steps} steps", f"{steps}")
        return tensors, steps

    def _decode_named(self, value: Any, where: str, max_elements: int, booleans: bool) -> tuple[tuple[bytes, ...], int]:
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


async def _has_booleans_meanwhile(body: bytes) -> bool:
    """Return whether true or false occurs in a body; other tasks may run while a long one is searched."""
    overlap = len(b"false") - 1
    for start in range(0, len(body), _SEARCHED):
        if start:
            await asyncio.sleep(0)
        end = start + _SEARCHED + overlap
        if body.find(b"true", start, end) >= 0 or body.find(b"false", start, end) >= 0:
            return True
    return False


def to_json(tensor: np.ndarray) -> bytes:
    """Return a contiguous tensor as nested JSON arrays."""
    return orjson.dumps(tensor, option=orjson.OPT_SERIALIZE_NUMPY)


def flat_json(outputs: list[OutputRow], output: int = 0) -> bytes:
    """Return one output as JSON numbers separated by commas, row-major, without brackets."""
    if output == 0 and len(outputs) == 1:
        run, row, steps = outputs[0]
        tensor = run.tensors[0]
        if steps == tensor.shape[1]:
            if run.flat is None:
                run.flat = to_json(tensor.reshape(len(tensor), -1))[2:-2].split(b"],[")
            return run.flat[row]
    return to_json(output_tensor(outputs, output).reshape(-1))[1:-1]


def _row_json(run: RunOutputs, row: int, steps: int) -> bytes:
    """Return the first output of one row of a run as JSON; the first call encodes all rows of the run at once."""
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
