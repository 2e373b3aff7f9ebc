"""Packing of one input's JSON arrays into a raw tensor, checked against the input's spec."""

import math
import struct
from itertools import chain
from typing import Any

import numpy as np

from models.card import TensorSpec
from service.codec.json_values import kind
from service.errors import InvalidInput

SHORT_STEPS = 16
"""Most steps in a request that `pack_short` packs without checking each number."""

_FORMATS = {"float32": "f", "float16": "e", "float64": "d", "int64": "q", "int32": "i", "bool": "?"}
"""The `struct` format of each dtype."""


class Packer:
    """Packs the JSON arrays of one input into a raw little-endian tensor; immutable.

    `dtype` is the input's numpy dtype in little-endian, `step_bytes` the size of one step in bytes.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self._format = _FORMATS[spec.dtype]
        self.dtype = np.dtype(spec.dtype).newbyteorder("<")
        self.step_bytes = math.prod(spec.shape) * self.dtype.itemsize
        packing_suffices = len(spec.shape) == 1 and spec.vocabulary is None and spec.dtype != "bool"
        widths = [steps * spec.shape[0] for steps in range(SHORT_STEPS + 1)] if packing_suffices else []
        self.pack_short = [struct.Struct(f"<{width}{self._format}").pack for width in widths]
        """Item k packs the numbers of k steps, given row-major. Empty where packing does not check all of them."""
        self._plural = "integers" if spec.dtype.startswith("int") else "booleans" if spec.dtype == "bool" else "numbers"

    def pack(self, value: Any, where: str, max_elements: int, booleans: bool, first: int = 0) -> tuple[bytes, int]:
        """Return an array (steps, *shape) as a raw tensor, and its number of steps.

        `booleans` says whether true or false occurs anywhere in the body: only then they are looked for in the array.
        The array's first step has the index `first` in errors.

        Raises:
            InvalidInput: The array has another shape, more than `max_elements` numbers, or a number that does not fit.
        """
        spec = self.spec
        if type(value) is not list or not value:
            raise InvalidInput(where, f"an array of at least one step, each {self._expected_step()}", kind(value))
        flat = value
        try:
            for dim in spec.shape:
                if set(map(len, flat)) != {dim}:
                    raise self._error(value, where, first)
                flat = list(chain.from_iterable(flat))
            if len(flat) > max_elements:
                raise InvalidInput(where, f"at most {max_elements} numbers", f"{len(flat)}")
            packed = struct.pack(f"<{len(flat)}{self._format}", *flat)
            if (booleans or spec.dtype == "bool") and {type(v) is bool for v in flat} != {spec.dtype == "bool"}:
                raise self._error(value, where, first)
            if spec.vocabulary is not None and not (min(flat) >= 0 and max(flat) < spec.vocabulary):
                raise InvalidInput(where, f"token ids from 0 to {spec.vocabulary - 1}", f"{min(flat)} to {max(flat)}")
        except (TypeError, struct.error, OverflowError) as exc:
            raise self._error(value, where, first) from exc
        return packed, len(value)

    def pack_flat(self, flat: list[Any], where: str) -> bytes:
        """Return the numbers of whole steps, row-major, as a raw tensor.

        Raises:
            InvalidInput: One of them is not a number that the dtype can hold.
        """
        boolean = self.spec.dtype == "bool"
        try:
            if (bool in set(map(type, flat))) == boolean:
                packed = struct.pack(f"<{len(flat)}{self._format}", *flat)
                if not boolean or set(map(type, flat)) == {bool}:
                    return packed
        except (TypeError, struct.error, OverflowError):
            pass  # the error raised below names the number
        error = self._first_error(flat, where, ())
        raise error or InvalidInput(where, f"an array of {self._plural}", kind(flat))

    def _expected_step(self) -> str:
        shape = self.spec.shape
        if not shape:
            return f"one of {self._plural}"
        return " of ".join(f"an array of {dim}" for dim in shape) + f" {self._plural} ({self.spec.dtype})"

    def _error(self, value: Any, where: str, first: int) -> InvalidInput:
        """Return the error for the first value that does not match the spec."""
        return self._first_error(value, where, self.spec.shape, first) or InvalidInput(
            where, self._expected_step(), kind(value)
        )

    def _first_error(self, value: Any, where: str, shape: tuple[int, ...], first: int = 0) -> InvalidInput | None:
        for index, item in enumerate(value, first):
            here = f"{where}[{index}]"
            if not shape:
                if not self._can_hold(item):
                    return InvalidInput(here, self._expected_number(), kind(item))
                continue
            if type(item) is not list or len(item) != shape[0]:
                got = f"an array of {len(item)}" if type(item) is list else kind(item)
                return InvalidInput(here, f"an array of {shape[0]}", got)
            if (error := self._first_error(item, here, shape[1:])) is not None:
                return error
        return None

    def _expected_number(self) -> str:
        return f"a finite {self.spec.dtype}" if self._format in "efd" else f"{self.spec.dtype}"

    def _can_hold(self, item: Any) -> bool:
        if (type(item) is bool) != (self.spec.dtype == "bool"):
            return False
        try:
            struct.pack(f"<{self._format}", item)
        except (TypeError, struct.error, OverflowError):
            return False
        return True
