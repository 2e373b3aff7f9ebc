"""Sequences: started, continued, ended, sent again, numbered, timed out."""

import struct
from typing import Any

from tests.recorded.client import Client
from tests.recorded.script import Family
from tests.recorded.script.v2_infer import binary, tensor, with_tail

_PATH = "/v2/models/sum/infer"
_ONE = tensor([1], [1, 1, 1])
START: dict[str, Any] = {"sequence_start": True}
END: dict[str, Any] = {"sequence_end": True}


def step(sequence: Any, value: float | Any = 1, request_id: str = "", **parameters: Any) -> dict[str, Any]:
    """Return a request that advances a sequence by one step."""
    named = {"id": request_id} if request_id else {}
    return named | {"parameters": {"sequence_id": sequence, **parameters}, "inputs": [tensor([value], [1, 1, 1])]}


def play(client: Client) -> None:
    for model in ("sum", "pair", "mixed"):
        client.post(f"/v2/models/{model}/infer", {"inputs": [_ONE]})
    _plain(client)
    _sent_again(client)
    _numbered(client)
    _binary(client)
    _names(client)
    _refused(client)
    _other_models(client)
    _known_requests(client)
    client.get("/v1/sessions")
    client.get("/v2/models/sum/stats")
    client.get("/metrics")


def _plain(client: Client) -> None:
    client.post(_PATH, step(1, 1))
    client.post(_PATH, step(1, 1, **START))
    for value in (2, 3, 4):
        client.post(_PATH, step(1, value))
    client.post(_PATH, step(1, 5, **END))
    client.post(_PATH, step(1, 6))
    client.post(_PATH, step(1, 6, **END))
    client.post(_PATH, step(2, 7, **START, **END))
    client.post(_PATH, step(3, 1, **START))
    client.post(_PATH, step(3, 9, **START))
    client.post(_PATH, step(3, 1))
    several = {"parameters": {"sequence_id": 3}, "inputs": [tensor([1, 2, 3], [1, 3, 1])]}
    client.post(_PATH, several)
    client.post(_PATH, several | {"inputs": [tensor([1, 2], [2, 1, 1])]})
    client.post("/v2/models/sum/versions/1/infer", step(3, 1))
    client.post("/v2/models/sum/versions/2/infer", step(3, 1))


def _sent_again(client: Client) -> None:
    """Send requests with ids again: the start, a middle one, the end."""
    for _ in range(2):
        client.post(_PATH, step(10, 1, "a", **START))
    client.post(_PATH, step(10, 2, "a", **START))
    for _ in range(2):
        client.post(_PATH, step(10, 3, "b"))
    client.post(_PATH, step(10, 4, "b"))
    for _ in range(3):
        client.post(_PATH, step(10, 5, "c", **END))
    client.post(_PATH, step(10, 6, "c", **END))
    client.post(_PATH, step(10, 6, "d"))
    client.post(_PATH, step(11, 1, "a", **START, **END))
    client.post(_PATH, step(11, 1, "a", **START, **END))
    client.post(_PATH, step(12, 1, **START))
    client.post(_PATH, step(12, 1, **END))
    client.post(_PATH, step(12, 1, **END))


def _numbered(client: Client) -> None:
    client.post(_PATH, step(20, 1, step=1, **START))
    for number, value in ((1, 1), (2, 2), (2, 2), (2, 3), (9, 1), (1, 1), (3, 3), (4, 4)):
        client.post(_PATH, step(20, value, step=number))
    client.post(_PATH, step(20, 1, step=2, **START))
    client.post(_PATH, step(20, 1, epoch=1, **START))
    client.post(_PATH, step(20, 5, epoch=0))
    client.post(_PATH, step(20, 5, epoch=1))
    for _ in range(2):
        client.post(_PATH, step(20, 6, step=6, **END))
    client.post(_PATH, step(20, 7, step=7, **END))


def _binary(client: Client) -> None:
    one = struct.pack("<f", 1)
    for parameters, tail in (
        (START, one),
        ({}, one),
        ({"binary_data_output": True}, one),
        ({"binary_data_output": True}, one),
        ({}, one),
        ({}, struct.pack("<f", float("nan"))),
        ({}, b"\0" * 3),
        ({"binary_data_output": True} | END, one),
    ):
        fields = {"parameters": {"sequence_id": 30, **parameters}, "inputs": [binary(4, [1, 1, 1])]}
        client.post(_PATH, *with_tail(fields, tail))
    chunk = {"parameters": {"sequence_id": 31} | START, "inputs": [binary(12, [1, 3, 1])]}
    chunk |= {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    client.post(_PATH, *with_tail(chunk, one * 3))


def _names(client: Client) -> None:
    """Name sequences by text, by numbers, by a session's id."""
    name: Any
    for name in ("text", "1", "\u00e9", "x" * 128, 2**64 - 1, "a b", "0"):
        client.post(_PATH, step(name, 1, **START))
        client.post(_PATH, step(name, 2))
    for name in ("", 0, "\x1fx", "x" * 129, [], None, {}):
        client.post(_PATH, step(name, 1, **START))
    session = client.open()
    client.post(_PATH, step(session.rpartition("/")[2], 1))
    client.post(_PATH, step(session.rpartition("/")[2], 1, **START))
    client.post(f"{session}/steps", {"inputs": [[1]]})
    client.request("DELETE", session)
    client.post(_PATH, step(session.rpartition("/")[2], 1))
    client.post(_PATH, step("r0-abcd-AAAAAAAAAAAAAAAAAAAAAA", 1))


def _refused(client: Client) -> None:
    """Send what is not taken; the sequence stands where it stood."""
    client.post(_PATH, step(40, 3e38, **START))
    client.post(_PATH, step(40, 3e38))
    client.post(_PATH, step(40, 3e38, **END))
    client.post(_PATH, step(41, 1, **START))
    for value in (None, "x", True, 1e39, [1]):
        client.post(_PATH, step(41, value))
    for parameters in ({"timeout": 1}, {"timeout": 10_000_000}, {"timeout": 0}, {"create": True}, {"mine": "x"}):
        client.post(_PATH, step(41, 1, **parameters))
    client.post(_PATH, step(42, 1, timeout=1, **START))
    client.post(_PATH, step(42, 1))
    for inputs in (
        [],
        [tensor([1], [1, 1, 1], "z")],
        [tensor([1, 2], [1, 1, 2])],
        [tensor([1], [1, 1, 1], "x", "INT64")],
    ):
        client.post(_PATH, step(41) | {"inputs": inputs})
    client.post(_PATH, step(43, None, **START))
    client.post(_PATH, step(43, 1))
    session = [_ONE, tensor(["a"], [1], "session_id", "BYTES")]
    client.post(_PATH, step(41) | {"inputs": session})
    for body in (b"{", b"", step(41) | {"outputs": [{"name": "z"}]}):
        client.post(_PATH, body)


def _other_models(client: Client) -> None:
    mixed = [tensor([1, 2], [1, 1, 2], "audio"), tensor([2], [1, 1, 1], "gain"), tensor([1], [1, 1], "token", "INT64")]
    kinds = [tensor([1, 2], [1, 1, 2], "x", "FP64"), tensor([3], [1, 1], "count", "INT32")]
    kinds.append(tensor([True, False], [1, 1, 2], "seen", "BOOL"))
    for name, inputs in (
        ("mixed", mixed),
        ("kinds", kinds),
        ("tokens", [tensor([1, 5], [1, 2], "x", "INT64")]),
        ("pair", [tensor([1, 2], [1, 1, 2])]),
        ("half", [tensor([1, 2], [1, 1, 2], "x", "FP16")]),
    ):
        fields: dict[str, Any] = {"parameters": {"sequence_id": 50, **START}, "inputs": inputs}
        client.post(f"/v2/models/{name}/infer", fields)
        client.post(
            f"/v2/models/{name}/infer", fields | {"parameters": {"sequence_id": 50, "binary_data_output": True}}
        )
    two = [{"name": "level"}, {"name": "y", "parameters": {"binary_data": True}}]
    client.post("/v2/models/mixed/infer", {"parameters": {"sequence_id": 50}, "inputs": mixed, "outputs": two})
    half = {"parameters": {"sequence_id": 51, **START}, "inputs": [binary(4, [1, 1, 2], "x", "FP16")]}
    client.post("/v2/models/half/infer", *with_tail(half, struct.pack("<2e", 1, 2)))
    half["parameters"]["binary_data_output"] = True  # type: ignore[index]
    client.post("/v2/models/half/infer", *with_tail(half, struct.pack("<2e", 1, 2)))


def _known_requests(client: Client) -> None:
    """Send requests that differ only in their numbers and ids, as clients do step after step."""
    client.post(_PATH, step(60, 1, "r0", **START))
    for number in range(1, 7):
        client.post(_PATH, step(60, number, f"r{number}"))
    client.post(_PATH, step(60, 6, "r6"))
    client.post(_PATH, step(60, "6", "r7"))
    client.post(_PATH, step(60, True, "r8"))
    client.post(_PATH, step(60, 1e39, "r9"))
    spaced = b'{"parameters": {"sequence_id": 60}, "inputs": [%b]}'
    spaced %= b'{"name": "x", "shape": [1, 1, 1], "datatype": "FP32", "data": [%b]}'
    for text in (b"1", b"2", b" 3 ", b"4, 5", b"", b"true", b"[6]", b"null", b"NaN"):
        client.post(_PATH, spaced % text)
    client.post(_PATH, step(60, 1, **END))
    client.post(_PATH, spaced % b"1")


FAMILY = Family(play, ("sum", "pair", "tokens", "mixed", "kinds", "half"), both_ways=True)
