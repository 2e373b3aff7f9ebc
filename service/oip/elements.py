"""The elements of one tensor of a request: where they are, flattened from JSON, or split from raw bytes."""

import math
from itertools import chain
from typing import Any

from service.codec.json_values import kind
from service.errors import InvalidInput
from service.oip.errors import Unsupported

_SOURCES = ("data", "binary_data_size", "shared_memory_region")


def source_of(tensor: Any, where: str) -> str:
    """Return which field says where a tensor's elements are: "data" or "binary_data_size".

    Raises:
        InvalidInput: It has both or neither.
        Unsupported: They are in shared memory.
    """
    parameters = tensor.get("parameters", {})
    if type(parameters) is not dict:
        raise InvalidInput(f"{where}.parameters", "an object", kind(parameters))
    if any(key.startswith("shared_memory_") for key in parameters):
        raise Unsupported("shared memory")
    given = [source for source in _SOURCES if source in (tensor if source == "data" else parameters)]
    if len(given) != 1:
        raise InvalidInput(where, "either data or binary_data_size", "both" if given else "neither")
    return given[0]


def flat_elements(data: Any, shape: list[int], where: str) -> list[Any]:
    """Return the elements of `data`, which is either flat or nested as the shape says.

    Raises:
        InvalidInput: It is neither, or its length does not match the shape.
    """
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


def split_strings(raw: bytes, count: int, where: str) -> list[Any]:
    """Return `count` strings that are each preceded by their length in bytes, four bytes in little-endian.

    Raises:
        InvalidInput: The bytes are not that, or not UTF-8.
    """
    strings: list[Any] = []
    offset = 0
    while offset < len(raw) and len(strings) <= count:
        size = int.from_bytes(raw[offset : offset + 4], "little")
        offset += 4 + size
        if offset > len(raw):
            raise InvalidInput(where, "elements of BYTES, each behind its length", "fewer bytes than the lengths say")
        try:
            strings.append(raw[offset - size : offset].decode())
        except UnicodeDecodeError as exc:
            raise InvalidInput(where, "text in UTF-8", "other bytes") from exc
    if len(strings) != count:
        raise InvalidInput(where, f"{count} elements", "another number of them")
    return strings
