"""Models: lists, descriptions, predictions of whole sequences."""

import struct
from typing import Any

from tests.recorded.client import OCTETS, Client
from tests.recorded.script import Family

MODELS = ("sum", "pair", "tokens", "mixed", "kinds", "half", "stateless", "whole")
_MIXED = {"audio": [[1, 2], [3, 4]], "gain": [[2], [1]], "token": [0, 3]}
_KINDS = {"x": [[1, 2.5], [-1, 0]], "count": [3, -4], "seen": [[True, False], [False, False]]}
_GOOD: tuple[tuple[str, Any], ...] = (
    ("sum", [[[1], [2], [3]]]),
    ("sum", [[[1]], [[1], [2]], [[1], [2], [3], [4]]]),
    ("sum", [[[0.5]] * 40, [[1]]]),
    ("pair", [[[1, 2], [3, 4]]]),
    ("tokens", [[0, 1, 2, 3, 4, 5], [5]]),
    ("mixed", [_MIXED, {"audio": [[0, 0]], "gain": [[0]], "token": [1]}]),
    ("kinds", [_KINDS]),
    ("half", [[[1, 2], [0.5, -8]]]),
    ("stateless", [[[1, 2]], [[4, -2], [0, 0]]]),
    ("whole", [[[1], [2], [4]], [[8]]]),
)
BAD_JSON = (b"", b"{", b"[1", b"nul", b'{"inputs":[[NaN]]}', b'{"inputs":[[Infinity]]}', b"\xff\xfe", b'{"a":1}x')
BAD_SEQUENCES: tuple[Any, ...] = (
    *(None, [], {}, 1, "x", [1], [[]], [[[]]], [[1]], [[[1, 2]]], [[[None]]], [[["1"]]], [[[True]]], [[[1], [1, 2]]]),
    *([[[1e39]]], [[[[1]]]], [{"x": [[1]]}], [[{"x": 1}]], [[[1]], None], [[[1]], [[2], 3]]),
)


def play(client: Client) -> None:
    client.get("/v1/models")
    for name in (*MODELS, "none", "n" * 200, "%00", "sum%2f1", "%C3%A9"):
        client.get(f"/v1/models/{name}")
    client.request("HEAD", "/v1/models")
    client.request("OPTIONS", "/v1/models/sum/predict")
    for name, inputs in _GOOD:
        client.post(f"/v1/models/{name}/predict", {"inputs": inputs})
    for sequences in BAD_SEQUENCES:
        client.post("/v1/models/sum/predict", {"inputs": sequences})
    for body in BAD_JSON:
        client.post("/v1/models/sum/predict", body)
    client.post("/v1/models/sum/predict", b'{"inputs":[[[1e999]]]}')
    fields: Any
    for fields in ({}, [], {"inputs": [[[1]]], "step": 1}, {"input": [[[1]]]}, {"inputs": [[[1]]], "x" * 80: 1}):
        client.post("/v1/models/sum/predict", fields)
    client.post("/v1/models/sum/predict", {"inputs": [[[3e38], [3e38]]]})
    client.post("/v1/models/none/predict", {"inputs": [[[1]]]})
    _bad_for_others(client)
    _octets(client)
    client.get("/v1/models")


def _bad_for_others(client: Client) -> None:
    """Send what a model of other inputs does not take."""
    for ids in ([6], [-1], [1.5], ["a"], [True], [[1]], [2**63], []):
        client.post("/v1/models/tokens/predict", {"inputs": [ids]})
    change: Any
    for change in (
        *(
            {"audio": [[1, 2]]},
            {"gain": [1, 2]},
            {"token": [0, 4]},
            {"more": [1]},
            {"audio": None},
            {"token": [0.5, 1]},
        ),
        *({"audio": []}, {"audio": [[1, 2], [3]]}),
    ):
        client.post("/v1/models/mixed/predict", {"inputs": [_MIXED | change]})
    client.post("/v1/models/mixed/predict", {"inputs": [{"audio": [[1, 2]]}]})
    client.post("/v1/models/mixed/predict", {"inputs": [[[1, 2]]]})
    for kinds in ({"seen": [[1, 0], [0, 0]]}, {"count": [2**31, 0]}, {"count": [True, 0]}, {"x": [[1e308, 1], [1, 1]]}):
        client.post("/v1/models/kinds/predict", {"inputs": [_KINDS | kinds]})
    for value in (65504, 65520, 1e5, 2.0**-24):
        client.post("/v1/models/half/predict", {"inputs": [[[value, 0]]]})


def _octets(client: Client) -> None:
    """Send raw tensors."""
    nan, infinity = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
    for name, body in (
        *(("sum", struct.pack("<3f", 1, 2, 3)), ("sum", struct.pack("<f", 3e38) * 2), ("sum", b""), ("sum", b"abc")),
        *(("sum", nan), ("sum", infinity), ("pair", struct.pack("<4f", 1, 2, 3, 4)), ("pair", struct.pack("<f", 1))),
        *(("tokens", struct.pack("<3q", 0, 5, 2)), ("tokens", struct.pack("<q", 6)), ("tokens", struct.pack("<q", -1))),
        *(
            ("mixed", struct.pack("<f", 1)),
            ("kinds", b"\0"),
            ("half", struct.pack("<2e", 1, 2)),
            ("half", b"\0\x7c\0\0"),
        ),
        *(("stateless", struct.pack("<2f", 1, 2)), ("whole", struct.pack("<2f", 1, 2)), ("none", b"\0" * 4)),
    ):
        client.post(f"/v1/models/{name}/predict", body, OCTETS)
    one = struct.pack("<f", 1)
    for kind in ("application/octet-stream; x=1", "Application/Octet-Stream", "text/plain", "application/json"):
        client.post("/v1/models/sum/predict", one, {"content-type": kind})
        client.post("/v1/models/sum/predict", {"inputs": [[[1]]]}, {"content-type": kind})
    for encoding in ("gzip", "identity", "br", ""):
        client.post("/v1/models/sum/predict", {"inputs": [[[1]]]}, {"content-encoding": encoding})


FAMILY = Family(play, MODELS, both_ways=True)
