"""Large JSON bodies: their values are counted before they are parsed, and their long array is parsed in pieces.

A parser of compiled code holds the interpreter's lock, so that a thread for it would not help: nothing else runs until
it returns. 16 MiB of `[],` are five million lists, which take a second to make.
"""

import asyncio
import gc
import re
from typing import Any

import numpy as np
import orjson

from service.errors import InvalidInput, MalformedJson

LARGE = 64 << 10
"""Bytes of a body from which on it is treated as large."""
_PER_ELEMENT = 4
"""Commas and opening brackets for each number that a request may have: its own, and those of the arrays around it."""
_COUNTED = 1 << 20
_PIECE = 16 << 10
_DEPTH = 64
_ARRAY = re.compile(rb"\s*:\s*(?=\[)")
_SPACE = b" \t\r\n"


def check_size(body: bytes, max_elements: int) -> None:
    """Count the values of a JSON body, without parsing it: about a millisecond for each MiB.

    Raises:
        InvalidInput: There are more than a request of `max_elements` numbers can have.
    """
    left, text = _PER_ELEMENT * max_elements + LARGE, np.frombuffer(body, np.uint8)
    for start in range(0, len(text), _COUNTED):
        part = text[start : start + _COUNTED]
        left -= sum(int(np.count_nonzero(part == sign)) for sign in b",[{")
        if left < 0:
            raise InvalidInput("body", f"at most {max_elements} numbers", "more values than that")


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
        if end == len(text):
            fits = behind == 0
        else:
            fits = 0 < behind <= _DEPTH and not piece.rstrip(_SPACE).endswith(b"[")
        if not fits or (depth and piece.lstrip(_SPACE).startswith(b"]")):
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
