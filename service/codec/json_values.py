"""JSON bodies and their values: parsing, the names of their types, and whole numbers within limits."""

from typing import Any

import orjson

from service.codec.large_json import LARGE, check_size, check_size_meanwhile, load_pieces, load_whole
from service.errors import InvalidInput, MalformedJson

_MAX_INTEGER = 2**63 - 1
_TYPE_NAMES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


MAX_ELEMENTS = 1 << 20
"""Most numbers of a JSON body for which no other limit is given."""


def load_json(body: bytes, max_elements: int = MAX_ELEMENTS, max_arrays: int | None = None) -> Any:
    """Parse a JSON body.

    Raises:
        MalformedJson: The body is not valid JSON; NaN, Infinity and numbers too large for a double are not valid.
        InvalidInput: It has far more values than a body of `max_elements` numbers in `max_arrays` arrays.
    """
    if len(body) >= LARGE:
        check_size(body, max_elements, max_arrays)
        return load_whole(body)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise MalformedJson(str(exc)) from exc


async def load_large_json(
    body: bytes, max_elements: int, max_arrays: int | None = None, max_texts: int | None = None
) -> Any:
    """Parse a JSON body as `load_json` does; while a large one is parsed, other tasks of the event loop may run.

    Raises:
        MalformedJson, InvalidInput: As in `load_json`, or it has far more than `max_texts` names and other texts.
    """
    if len(body) < LARGE:
        return load_json(body)
    await check_size_meanwhile(body, max_elements, max_arrays, max_texts)
    return await load_pieces(body)


def whole_number(value: Any, where: str, least: int) -> int:
    """Return a value of a body that has to be an integer: a step number, an epoch or a count.

    Raises:
        InvalidInput: The value is not an integer from `least` to 2^63 − 1.
    """
    if type(value) is not int or not least <= value <= _MAX_INTEGER:
        got = str(value) if type(value) is int else kind(value)
        raise InvalidInput(where, f"a whole number from {least} to 2^63 - 1", got)
    return value


def kind(value: Any) -> str:
    """Return the name of a JSON value's type for an error message, which must not repeat the value itself."""
    if type(value) is list and not value:
        return "an empty array"
    return _TYPE_NAMES.get(type(value), "a number")
