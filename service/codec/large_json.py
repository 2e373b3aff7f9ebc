"""Large JSON bodies: their values are counted before they are parsed, and their long array is parsed in pieces.

A parser of compiled code holds the interpreter's lock, so that a thread for it would not help: nothing else runs until
it returns. 16 MiB of `[],` are five million lists, which take a second to make.
"""

import asyncio
import gc
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidInput, MalformedJson

LARGE = 64 << 10
"""Bytes of a body from which on it is treated as large."""
_SLACK = 4
"""Commas and brackets for each number that a request may have: its own, and those of the arrays around it. What is just
over a limit is parsed, so that the error can say which."""
_COUNTED = 128 << 10
_PIECE = 16 << 10
_DEPTH = 64
_ARRAY = re.compile(rb"\s*:\s*(?=\[)")
_SPACE = b" \t\r\n"


def check_size(body: bytes, max_elements: int, max_arrays: int | None = None) -> None:
    """Count the values of a JSON body, without parsing it: about a millisecond for each MiB.

    Raises:
        InvalidInput: There are far more than a request of `max_elements` numbers in `max_arrays` arrays can have.
    """
    for _ in _count(body, max_elements, max_arrays):
        pass


async def check_size_meanwhile(body: bytes, max_elements: int, max_arrays: int | None = None) -> None:
    """Count as `check_size` does; other tasks of the event loop may run in between."""
    for _ in _count(body, max_elements, max_arrays):
        await asyncio.sleep(0)


def _count(body: bytes, max_elements: int, max_arrays: int | None) -> Iterator[None]:
    text = np.frombuffer(body, np.uint8)
    values_left = _SLACK * max_elements + LARGE
    arrays_left = _SLACK * max_arrays if max_arrays is not None else values_left
    for start in range(0, len(text), _COUNTED):
        part = text[start : start + _COUNTED]
        arrays = int(np.count_nonzero(part == ord("[")))
        arrays_left -= arrays
        values_left -= arrays + sum(int(np.count_nonzero(part == sign)) for sign in b",{")
        if values_left < 0:
            raise InvalidInput("body", f"at most {max_elements} numbers", "more values than that")
        if arrays_left < 0:
            raise InvalidInput("body", f"at most {max_arrays} arrays", "more than that")
        yield


def load_whole(body: bytes) -> Any:
    """Parse a large body at once, while the garbage collector does not look at each of its arrays several times.

    Raises:
        MalformedJson: The body is not valid JSON.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedJson(str(exc)) from exc
    finally:
        if collecting:
            gc.enable()


async def load_pieces(body: bytes) -> Any:
    """Parse a large body; where an array ends it, which nearly always is the longest, others run between its pieces.

    Raises:
        MalformedJson: The body is not valid JSON.
    """
    begin = body.rfind(b'"') + 1
    name_end = _ARRAY.match(body, begin)
    end = body.find(b"}", begin)
    end = len(body) if end < 0 else end
    if name_end is None or end - begin < LARGE or body.find(b"{", begin) >= 0:
        return load_whole(body)
    start = name_end.end()
    fields = load_whole(body[:start] + b"null" + body[end:])
    owner = _last_owner(fields)
    if owner is None:
        return load_whole(body)
    owner[next(reversed(owner))] = await _load_array(body[start:end].rstrip(_SPACE), start)
    return fields


def _last_owner(value: Any) -> dict[str, Any] | None:
    """Return the object whose last value is the null that ends a parsed body, None where it is not found."""
    while value:
        if type(value) is dict:
            last = value[next(reversed(value))]
            if last is None:
                return value
        elif type(value) is list:
            last = value[-1]
        else:
            return None
        value = last
    return None


async def _load_array(text: bytes, offset: int) -> list[Any]:
    """Parse an array without strings and objects, which begins at byte `offset` of the body.

    It is cut at commas. A piece is parsed with the brackets that are open before it and behind it, then joined.
    """
    result: list[Any] = []
    start = depth = 0
    while start < len(text):
        end = text.find(b",", start + _PIECE)
        end = len(text) if end < 0 else end
        piece = text[start:end]
        behind = depth + piece.count(b"[") - piece.count(b"]")
        last = end == len(text)
        matched = behind == 0 if last else 0 < behind <= _DEPTH
        before_comma = piece.rstrip(_SPACE).endswith(b"[") and not last
        if not matched or before_comma or (depth and piece.lstrip(_SPACE).startswith(b"]")):
            raise MalformedJson(f"a bracket or a value is missing, or one too many, behind byte {offset + start}")
        try:
            value = load_whole(b"[" * depth + piece + b"]" * behind)
        except MalformedJson as exc:
            raise MalformedJson(f"{exc} behind byte {offset + start}") from exc
        if depth:
            _join(result, value, depth)
        else:
            result = value
        start, depth = end + 1, behind
        await asyncio.sleep(0)
    if depth:
        raise MalformedJson(f"a value is missing behind byte {offset + start}")
    return result


def _join(left: list[Any], right: list[Any], depth: int) -> None:
    """Append what follows in the same `depth` nested arrays."""
    if depth > 1:
        _join(left[-1], right[0], depth - 1)
        del right[0]
    left.extend(right)
