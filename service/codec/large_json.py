"""Large JSON bodies: their values are counted before they are parsed, and their long arrays are parsed in pieces.

A parser of compiled code holds the interpreter's lock, so that a thread for it would not help: nothing else runs until
it returns. 16 MiB of `[],` are five million lists, which take a second to make.
"""

import asyncio
import gc
import re
import secrets
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
_LONG = 4 << 10
"""Bytes of an array from which on it is parsed in pieces."""
_OTHERS = 256 << 10
"""Most bytes in all of long values that are neither texts nor arrays of numbers; they are parsed as a whole."""
_ESCAPES = 1 << 10
"""Most backslashes in front of a quote that are counted."""
_DEPTH = 64
_ARRAY = re.compile(rb"\s*:\s*(?=\[)")
_SPACE = b" \t\r\n"


def check_size(body: bytes, max_elements: int, max_arrays: int | None = None, max_texts: int | None = None) -> None:
    """Count the values of a JSON body, without parsing it: about a millisecond for each MiB.

    Raises:
        InvalidInput: There are far more than a request of `max_elements` numbers in `max_arrays` arrays, with
            `max_texts` names and other texts, can have.
    """
    for _ in _count(body, max_elements, max_arrays, max_texts):
        pass


async def check_size_meanwhile(
    body: bytes, max_elements: int, max_arrays: int | None = None, max_texts: int | None = None
) -> None:
    """Count as `check_size` does; other tasks of the event loop may run in between."""
    for _ in _count(body, max_elements, max_arrays, max_texts):
        await asyncio.sleep(0)


def _count(body: bytes, max_elements: int, max_arrays: int | None, max_texts: int | None) -> Iterator[None]:
    text = np.frombuffer(body, np.uint8)
    quotes_left = _SLACK * 2 * max_texts if max_texts is not None else len(text)
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
        quotes_left -= int(np.count_nonzero(part == ord('"')))
        if quotes_left < 0:
            raise InvalidInput("body", f"at most {max_texts} names and other texts", "more than that")
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
    """Parse a large body; other tasks run between the pieces of its long arrays of numbers.

    An array that is the value of a name is left out, and parsed on its own: the rest, with a text in the place of each
    such array, is parsed as a whole.

    Raises:
        MalformedJson: The body is not valid JSON.
        InvalidInput: Its long arrays are not of numbers alone.
    """
    spans = await _long_arrays(body)
    mark, parts, at = secrets.token_hex(8), list[bytes](), 0
    for number, (start, end) in enumerate(spans):
        parts += (body[at:start], b'"%b%d"' % (mark.encode(), number))
        at = end
    fields = load_whole(b"".join([*parts, body[at:]]))
    places = _places(fields, mark)  # fewer than arrays where a name is repeated: its last value counts
    for number, (start, end) in enumerate(spans):
        array = await _load_array(body, start, end)
        if (place := places.get(number)) is not None:
            owner, name = place
            owner[name] = array
    return fields


async def _long_arrays(body: bytes) -> list[tuple[int, int]]:
    """Return where the long arrays of numbers are that are values of names: from the first byte to behind the last.

    Such an array is found behind a quote that ends a name, and reaches to the brace or the comma before the next quote.

    Raises:
        InvalidInput: Other values are long as well: arrays in which a text or an object follows many numbers.
    """
    quotes = await _quotes(body)
    ends = np.append(quotes, len(body))
    spans, others_left = [], _OTHERS
    for index in np.flatnonzero(np.diff(ends, prepend=0) >= _LONG).tolist():
        begin, until = int(ends[index - 1]) + 1 if index else 0, int(ends[index])
        match = _ARRAY.match(body, begin) if index % 2 == 0 else None  # else it is a text
        brace = body.find(b"}", begin, until)
        end = _end_of_text(body, until if brace < 0 else brace)
        if brace < 0 and body[end - 1 : end] == b",":
            end = _end_of_text(body, end - 1)
        await asyncio.sleep(0)
        last = index == len(quotes)
        if match is not None and body.find(b"{", begin, end) < 0 and (last or await _is_closed(body, begin, end)):
            spans.append((match.end(), end))
        elif index % 2 == 0:
            others_left -= until - begin
            if others_left < 0:
                raise InvalidInput("body", "an object whose long arrays have numbers alone", "another one")
    return spans


async def _is_closed(body: bytes, start: int, end: int) -> bool:
    """Return whether as many brackets are closed as opened; other tasks may run in between."""
    text, left = np.frombuffer(body, np.uint8), 0
    for at in range(start, end, _COUNTED):
        part = text[at : min(end, at + _COUNTED)]
        left += int(np.count_nonzero(part == ord("["))) - int(np.count_nonzero(part == ord("]")))
        await asyncio.sleep(0)
    return left == 0


def _end_of_text(body: bytes, end: int) -> int:
    """Return the index behind the last byte before `end` that is no space."""
    while body[end - 1] in _SPACE:
        end -= 1
    return end


async def _quotes(body: bytes) -> np.ndarray:
    """Return the indices of the quotes that begin or end texts, ascending; other tasks may run in between."""
    text, found = np.frombuffer(body, np.uint8), list[np.ndarray]()
    for start in range(0, len(text), _COUNTED):
        part = text[start : start + _COUNTED]
        found.append(np.flatnonzero(part == ord('"')) + start)
        await asyncio.sleep(0)
    quotes = np.concatenate(found)
    escaped = quotes[text[np.maximum(quotes - 1, 0)] == ord("\\")]
    if len(escaped):
        windows = ((at, body[max(0, at - _ESCAPES) : at]) for at in escaped.tolist())
        inside = [at for at, window in windows if (len(window) - len(window.rstrip(b"\\"))) % 2]
        quotes = np.setdiff1d(quotes, inside)
    return quotes


def _places(value: Any, mark: str) -> dict[int, tuple[dict[str, Any], str]]:
    """Return by its number the object and the name whose value is the text that stands for an array."""
    found = {}
    left = [value]
    while left:
        value = left.pop()
        if type(value) is dict:
            for name, item in value.items():
                if type(item) is str:
                    if item.startswith(mark):
                        found[int(item[len(mark) :])] = value, name
                elif item:
                    left.append(item)
        elif type(value) is list:
            left += [item for item in value if type(item) is dict or type(item) is list]
    return found


async def _load_array(body: bytes, start: int, stop: int) -> list[Any]:
    """Parse an array without strings and objects, which is between two indices of a body.

    It is cut at commas. A piece is parsed with the brackets that are open before it and behind it, then joined.
    """
    result: list[Any] = []
    depth = 0
    while start < stop:
        end = body.find(b",", start + _PIECE, stop)
        end = stop if end < 0 else end
        piece = body[start:end]
        behind = depth + piece.count(b"[") - piece.count(b"]")
        last = end == stop
        matched = behind == 0 if last else 0 < behind <= _DEPTH
        before_comma = piece.rstrip(_SPACE).endswith(b"[") and not last
        if not matched or before_comma or (depth and piece.lstrip(_SPACE).startswith(b"]")):
            raise MalformedJson(f"a bracket or a value is missing, or one too many, behind byte {start}")
        try:
            value = load_whole(b"[" * depth + piece + b"]" * behind)
        except MalformedJson as exc:
            raise MalformedJson(f"{exc} behind byte {start}") from exc
        if depth:
            _join(result, value, depth)
        else:
            result = value
        start, depth = end + 1, behind
        await asyncio.sleep(0)
    if depth:
        raise MalformedJson(f"a value is missing behind byte {start}")
    return result


def _join(left: list[Any], right: list[Any], depth: int) -> None:
    """Append what follows in the same `depth` nested arrays."""
    if depth > 1:
        _join(left[-1], right[0], depth - 1)
        del right[0]
    left.extend(right)
