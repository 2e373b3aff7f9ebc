"""Large JSON bodies: parsed in pieces to the same values, counted before they are parsed."""

import asyncio
import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.codec import large_json
from service.codec.json_values import load_json, load_large_json
from service.codec.large_json import LARGE, check_size
from service.errors import InvalidInput, MalformedJson

NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none()
ARRAYS = st.recursive(
    st.lists(NUMBERS, max_size=20), lambda inner: st.lists(inner | NUMBERS, max_size=8), max_leaves=40
)
FIELDS = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | NUMBERS | st.lists(st.text(max_size=3)), max_size=4)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every body as large, and cut it at nearly every comma."""
    monkeypatch.setattr(large_json, "LARGE", 1)
    monkeypatch.setattr(large_json, "_PIECE", 3)
    monkeypatch.setattr(large_json, "_LONG", 1)


def in_pieces(body: bytes) -> Any:
    return asyncio.run(large_json.load_pieces(body))


def outcome(parse: Any, body: bytes) -> Any:
    try:
        return repr(parse(body))
    except (MalformedJson, orjson.JSONDecodeError):
        return "malformed"


@pytest.mark.usefixtures("small_pieces")
def test_pieces_give_the_same_values() -> None:
    """A body with arrays of any depth, in an object of any depth, is parsed as orjson parses it."""

    @settings(max_examples=400, deadline=None)
    @given(FIELDS, ARRAYS, FIELDS, ARRAYS, st.sampled_from([None, 1]), st.integers(0, 3))
    def check(
        before: dict[str, Any],
        array: list[Any],
        after: dict[str, Any],
        another: list[Any],
        indent: int | None,
        depth: int,
    ) -> None:
        value: Any = before | {"inputs": array} | after | {"more": another, "last": [{"inputs": another}, '"\\": [1]']}
        for _ in range(depth):
            value = {"outer": [1, value]}
        body = json.dumps(value, indent=indent).encode()
        assert in_pieces(body) == orjson.loads(body)

    check()


@pytest.mark.usefixtures("small_pieces")
def test_pieces_accept_what_is_valid_only() -> None:
    """A body with a byte removed, added or replaced is malformed in pieces where it is malformed as a whole."""

    @settings(max_examples=1500, deadline=None)
    @given(ARRAYS, st.data())
    def check(array: list[Any], data: st.DataObject) -> None:
        after: dict[str, Any] = data.draw(
            st.sampled_from([{}, {"a": 1}, {"a": [array, "[1]"]}, {"inputs\\\\": array, "inputs": 2}])
        )
        body = bytearray(json.dumps({"inputs": array} | after).encode())
        at = data.draw(st.integers(0, len(body) - 1))
        new = data.draw(
            st.sampled_from([b"", b",", b"[", b"]", b"}", b"{", b"1", b" ", b'"', b":", b"],[", b"-", b"\\"])
        )
        body[at : at + data.draw(st.integers(0, 2))] = new
        assert outcome(in_pieces, bytes(body)) == outcome(orjson.loads, bytes(body))

    check()


async def test_others_run_between_the_pieces() -> None:
    """While a large body is parsed, the event loop goes round many times."""
    rounds = 0

    async def run_round() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    body = b'{"inputs":[[%b[1]]]}' % (b"[1,2,3]," * 100_000)
    task = asyncio.create_task(run_round())
    value = await load_large_json(body, 1 << 20)
    task.cancel()
    assert len(value["inputs"][0]) == 100_001
    assert rounds > 40


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'"",', b"[[]],", b"[0],"])
def test_a_body_with_too_many_values_is_refused_unparsed(part: bytes) -> None:
    """A body with far more values than a request may have numbers is refused; the count needs no valid JSON."""
    body = b'{"inputs":[' + part * (6 * LARGE) + b"0]}"
    for text in (body, body[:-1]):
        with pytest.raises(InvalidInput, match="at most 1000 numbers"):
            load_json(text, 1000)


def test_a_body_with_too_many_arrays_is_refused_unparsed() -> None:
    """A body with far more arrays than a request may have is refused, though it might have as many numbers."""
    with pytest.raises(InvalidInput, match="at most 100 arrays"):
        check_size(b'{"inputs":[' + b"[]," * 1000 + b"0]}", 1 << 20, 100)


@pytest.mark.parametrize("shape", [(1 << 17,), (1 << 15, 4), (1 << 17, 1), (1 << 17, 1, 1), (1, 1 << 17, 1)])
def test_a_body_with_as_many_numbers_as_allowed_is_not(shape: tuple[int, ...]) -> None:
    """Arrays of any of the usual shapes that have the most numbers a request may have are not refused."""
    body: Any = 1
    for length in reversed(shape):
        body = [body] * length
    check_size(orjson.dumps({"inputs": body}), 1 << 17)
