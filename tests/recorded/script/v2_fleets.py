"""Fleets by the infer operation: the input session_id names the sequence of each row."""

import struct
from typing import Any

from tests.recorded.client import Client
from tests.recorded.script import Family
from tests.recorded.script.v2_infer import Tensor, binary, tensor, with_tail

_PATH = "/v2/models/sum/infer"
_X = tensor([1, 2], [2, 1, 1])
_NAMES = tensor(["a", "b"], [2], "session_id", "BYTES")


def _steps(*numbers: Any, shape: list[int] | None = None) -> Tensor:
    return tensor(list(numbers), shape or [len(numbers)], "step", "INT64")


def _packed(*names: str) -> bytes:
    return b"".join(struct.pack("<I", len(name.encode())) + name.encode() for name in names)


def play(client: Client) -> None:
    create = {"create": True}
    for inputs, parameters in (
        *(([_X, _NAMES], {}), ([_X, _NAMES], create), ([_X, _NAMES], {}), ([_NAMES, _X], {"binary_data_output": True})),
        *(([_X, _NAMES, _steps(3, 4)], {}), ([_X, _NAMES, _steps(4, 0)], {}), ([_X, _NAMES, _steps(4, 9)], {})),
        *(
            ([_X, _NAMES, _steps(5, 6, shape=[2, 1])], {}),
            ([_X, _NAMES, _steps(-1, 1)], {}),
            ([_X, _NAMES, _steps(1)], {}),
        ),
        *(
            ([_X, tensor(["a", "a"], [2], "session_id", "BYTES")], {}),
            ([_X, tensor([7, 8], [2], "session_id", "UINT64")], create),
        ),
        *(
            ([_X, tensor([7, 0], [2], "session_id", "UINT64")], {}),
            ([_X, tensor([7, -1], [2], "session_id", "UINT64")], {}),
        ),
        *(
            ([_X, tensor(["a"], [1], "session_id", "BYTES")], {}),
            ([_X, tensor(["a", ""], [2], "session_id", "BYTES")], {}),
        ),
        *(
            ([_X, tensor(["a", 1], [2], "session_id", "BYTES")], {}),
            ([_X, tensor(["a", "x" * 129], [2], "session_id", "BYTES")], {}),
        ),
        *(
            ([_X, tensor(["a", "\x1f1"], [2], "session_id", "BYTES")], {}),
            ([_X, tensor([1, 2], [2], "session_id", "INT64")], {}),
        ),
        *(
            ([_X, tensor(["a", "none"], [2, 1], "session_id", "BYTES")], {}),
            ([_X, tensor(["a", "b"], [1, 2], "session_id", "BYTES")], {}),
        ),
        *(
            ([_X, _NAMES, tensor([1, 2], [2], "step", "INT32")], {}),
            ([_X, _NAMES, tensor([1.5, 2], [2], "step", "INT64")], {}),
        ),
        *(
            ([_X, _NAMES], {"step": 1}),
            ([_X, _NAMES], {"sequence_start": True}),
            ([_X, _NAMES], {"sequence_end": True}),
        ),
        *(([_X, _NAMES], {"epoch": 0}), ([_X, _NAMES], {"timeout": 1}), ([_X, _NAMES], {"timeout": 9_000_000})),
        *(
            ([_X, _steps(1, 1)], {}),
            ([_NAMES], {}),
            ([_X, _NAMES, _NAMES], {}),
            ([tensor([3e38, 3e38], [2, 1, 1]), _NAMES], {}),
        ),
        *(([tensor([3e38, 1], [2, 1, 1]), _NAMES], {}), ([tensor([1] * 40, [2, 20, 1]), _NAMES], {})),
        ([tensor([1, 2, 3, 4], [2, 2, 1]), _NAMES], {"sequence_id": 0}),
    ):
        client.post(_PATH, {"id": "f", "inputs": inputs, "parameters": parameters})
    _binary(client)
    for name, inputs in (
        ("tokens", [tensor([1, 5], [2, 1], "x", "INT64"), _NAMES]),
        ("mixed", [_X, _NAMES]),
        ("stateless", [tensor([1, 2, 3, 4], [2, 1, 2]), _NAMES]),
        ("whole", [_X, _NAMES]),
    ):
        client.post(f"/v2/models/{name}/infer", {"inputs": inputs, "parameters": {"create": True}})
    mixed = [tensor([1, 2], [1, 1, 2], "audio"), tensor([2], [1, 1, 1], "gain"), tensor([1], [1, 1], "token", "INT64")]
    mixed.append(tensor(["a"], [1], "session_id", "BYTES"))
    client.post("/v2/models/mixed/infer", {"inputs": mixed, "parameters": {"create": True}})
    client.get("/v1/sessions")
    client.get("/v2/models/stats")


def _binary(client: Client) -> None:
    raw = struct.pack("<2f", 1, 2)
    names, numbers = _packed("a", "b"), struct.pack("<2q", 0, 0)
    ids = struct.pack("<2Q", 7, 8)
    for inputs, tail in (
        ([binary(8, [2, 1, 1]), binary(len(names), [2], "session_id", "BYTES")], raw + names),
        ([binary(8, [2, 1, 1]), binary(16, [2], "session_id", "UINT64")], raw + ids),
        (
            [binary(16, [2], "session_id", "UINT64"), binary(16, [2], "step", "INT64"), binary(8, [2, 1, 1])],
            ids + numbers + raw,
        ),
        ([binary(8, [2, 1, 1]), binary(8, [2], "session_id", "UINT64")], raw + ids[:8]),
        ([binary(8, [2, 1, 1]), binary(5, [2], "session_id", "BYTES")], raw + names[:5]),
        ([binary(8, [2, 1, 1]), binary(6, [2], "session_id", "BYTES")], raw + names[:6]),
        ([binary(8, [2, 1, 1]), binary(10, [2], "session_id", "BYTES")], raw + struct.pack("<IbIb", 1, -1, 1, 1)),
        ([binary(8, [2, 1, 1]), binary(15, [2], "session_id", "BYTES")], raw + _packed("a", "b", "c")),
        ([binary(8, [2, 1, 1]), tensor(["a", "b"], [2], "session_id", "BYTES")], raw),
    ):
        fields = {"inputs": inputs, "parameters": {"binary_data_output": True}}
        client.post(_PATH, *with_tail(fields, tail))


FAMILY = Family(play, ("sum", "tokens", "mixed", "stateless", "whole"), both_ways=True)
