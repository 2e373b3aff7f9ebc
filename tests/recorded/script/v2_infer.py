"""The infer operation on models without state: tensors as JSON and in binary, encodings, errors."""

import gzip
import struct
import zlib
from typing import Any

from tests.recorded.client import Client, json_bytes
from tests.recorded.script import Family

_PATH = "/v2/models/stateless/infer"
Tensor = dict[str, Any]


def tensor(data: Any, shape: list[Any], name: str = "x", datatype: str = "FP32", **more: Any) -> Tensor:
    """Return a tensor with its numbers in JSON, or where `data` is None without any."""
    return {"name": name, "shape": shape, "datatype": datatype} | ({} if data is None else {"data": data}) | more


def binary(size: Any, shape: list[Any], name: str = "x", datatype: str = "FP32") -> Tensor:
    """Return a tensor whose numbers stand in binary behind the JSON."""
    return tensor(None, shape, name, datatype, parameters={"binary_data_size": size})


def with_tail(fields: Any, raw: bytes, length: Any = None) -> tuple[bytes, dict[str, str]]:
    """Return a body of JSON and raw bytes, and the header that tells the length of the JSON."""
    data = json_bytes(fields)
    return data + raw, {"inference-header-content-length": str(len(data) if length is None else length)}


def play(client: Client) -> None:
    _good(client)
    _bad_tensors(client)
    _bad_fields(client)
    _binary(client)
    _encodings(client)
    for path in (
        "/v2/models/none/infer",
        "/v2/models/stateless/versions/1/infer",
        "/v2/models/stateless/versions/2/infer",
    ):
        client.post(path, {"inputs": [tensor([1, 2], [1, 1, 2])]})
    client.post("/v2/models/stateless/versions/99999999999999999999/infer", {"inputs": [tensor([1, 2], [1, 1, 2])]})
    client.get("/v2/models/stats")
    client.get("/metrics")


def _good(client: Client) -> None:
    for fields in (
        {"inputs": [tensor([1, 2], [1, 1, 2])]},
        {"id": "mine", "inputs": [tensor([1, 2, 3, 4], [2, 1, 2])]},
        {"inputs": [tensor([[[1, 2], [3, 4]]], [1, 2, 2])]},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "outputs": [{"name": "y"}]},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "parameters": {"binary_data_output": True}},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "parameters": {"mine": 1, "yours": "x", "true": True}},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "parameters": {"timeout": 0, "priority": 0}, "outputs": []},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "parameters": {"timeout": 60_000_000}},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "parameters": {"timeout": 1}},
        {"inputs": [tensor([1, 2], [1, 1, 2])], "parameters": {"sequence_id": 0}},
    ):
        client.post(_PATH, fields)
    client.post("/v2/models/whole/infer", {"inputs": [tensor([1, 2, 4], [1, 3, 1])]})
    client.post("/v2/models/whole/infer", {"inputs": [tensor([1, 2], [2, 1, 1])], "parameters": {"sequence_id": 1}})
    client.post(
        _PATH, {"inputs": [tensor([1, 2], [1, 1, 2])], "parameters": {"sequence_id": 5, "sequence_start": True}}
    )
    client.post(_PATH, {"inputs": [tensor([3, 4], [1, 1, 2])], "parameters": {"sequence_id": 5, "sequence_end": True}})


def _bad_tensors(client: Client) -> None:
    for one in (
        *(tensor([1], [1, 1, 2]), tensor([1, 2, 3], [1, 1, 2]), tensor([1, 2], [1, 2]), tensor([1, 2], [1, 1, 3])),
        *(tensor([], [0, 1, 2]), tensor([], [1, 0, 2]), tensor([1, 2], [-1, 1, 2]), tensor([1, 2], ["1", 1, 2])),
        *(tensor([1, 2], [1, 1, 2], "z"), tensor([1, 2], [1, 1, 2], "x", "FP64"), tensor([1, "2"], [1, 1, 2])),
        *(tensor([1, None], [1, 1, 2]), tensor([1, True], [1, 1, 2]), tensor([1, 1e39], [1, 1, 2])),
        *(tensor([[1, 2], [3]], [1, 2, 2]), tensor([[1], [2]], [1, 1, 2]), tensor([[[1, 2]], 3], [2, 1, 2])),
        *(tensor(None, [1, 1, 2]), tensor("x", [1, 1, 2]), tensor({}, [1, 1, 2]), tensor([1, 2], [1, 1, 1 << 41])),
        *({"name": "x"}, {}, 1, None, "x", {"name": 1, "shape": [1], "datatype": "FP32"}, {"name": "x", "shape": [1]}),
        *(tensor([1, 2], [1, 1, 2], parameters=1), tensor([1, 2], [1, 1, 2], parameters={"binary_data_size": 8})),
        *(
            tensor([1, 2], [1, 1, 2], parameters={"shared_memory_region": "r"}),
            binary(8, [1, 1, 2]),
            binary("8", [1, 1, 2]),
        ),
        *(tensor([1, 2], [1, 1, 2], "x", "BYTES"), tensor([1, 2], [1, 1, 2], "x", "fp32"), tensor([1, 2], [])),
        tensor([0] * 2, [70_000, 1, 2]),
    ):
        client.post(_PATH, {"inputs": [one]})
    inputs: Any
    for inputs in ([], None, {}, 1, [tensor([1, 2], [1, 1, 2])] * 2):
        client.post(_PATH, {"inputs": inputs})
    mixed = [tensor([1, 2], [1, 1, 2], "audio"), tensor([2], [1, 1, 1], "gain"), tensor([1], [1, 1], "token", "INT64")]
    for inputs in (mixed[:2], mixed[:1], [*mixed[:2], tensor([9], [1, 1], "token", "INT64")]):
        client.post("/v2/models/mixed/infer", {"inputs": inputs, "parameters": {"sequence_id": 1}})


def _bad_fields(client: Client) -> None:
    good = {"inputs": [tensor([1, 2], [1, 1, 2])]}
    change: Any
    for change in (
        *({"id": 1}, {"id": None}, {"id": ""}, {"parameters": []}, {"parameters": None}, {"parameters": {"x": []}}),
        *({"parameters": {"x": None}}, {"parameters": {"triton_x": 1}}, {"parameters": {"priority": 1}}),
        *({"parameters": {"priority": "1"}}, {"parameters": {"timeout": -1}}, {"parameters": {"timeout": "1"}}),
        *(
            {"parameters": {"sequence_start": 1}},
            {"parameters": {"sequence_end": "true"}},
            {"parameters": {"create": 1}},
        ),
        *(
            {"parameters": {"sequence_id": -1}},
            {"parameters": {"sequence_id": 1.5}},
            {"parameters": {"sequence_id": True}},
        ),
        *(
            {"parameters": {"sequence_id": "x" * 129}},
            {"parameters": {"sequence_id": 2**64}},
            {"parameters": {"step": 0}},
        ),
        *(
            {"parameters": {"sequence_start": True}},
            {"parameters": {"sequence_end": True}},
            {"parameters": {"step": 1}},
        ),
        *({"parameters": {"epoch": 0}}, {"parameters": {"create": True}}, {"parameters": {"epoch": -1}}, {"more": 1}),
        *(
            {"outputs": {}},
            {"outputs": [1]},
            {"outputs": [{}]},
            {"outputs": [{"name": "z"}]},
            {"outputs": [{"name": "y"}] * 2},
        ),
        {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        {"outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        {"outputs": [{"name": "y", "parameters": {"classification": 0}}]},
        {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
        {"outputs": [{"name": "y", "parameters": []}]},
    ):
        client.post(_PATH, good | change)
    for body in (b"", b"{", b"[]", b"null", b"3", b'{"inputs":[[NaN]]}', b"\xff"):
        client.post(_PATH, body)
    client.post("/v2/models/whole/infer", {"inputs": [tensor([3e38, 3e38], [1, 2, 1])]})


def _binary(client: Client) -> None:
    raw = struct.pack("<2f", 1, 2)
    for fields, tail in (
        ({"inputs": [binary(8, [1, 1, 2])]}, raw),
        ({"id": "x", "inputs": [binary(16, [2, 1, 2])], "parameters": {"binary_data_output": True}}, raw * 2),
        ({"inputs": [binary(8, [1, 1, 2])]}, raw[:-1]),
        ({"inputs": [binary(8, [1, 1, 2])]}, raw + b"\0"),
        ({"inputs": [binary(4, [1, 1, 2])]}, raw[:4]),
        ({"inputs": [binary(True, [1, 1, 2])]}, raw),
        ({"inputs": [binary(-8, [1, 1, 2])]}, raw),
        ({"inputs": [binary(8, [1, 1, 2])]}, struct.pack("<2f", 1, float("nan"))),
        ({"inputs": [tensor([1, 2], [1, 1, 2])]}, b"more"),
        ({"inputs": [tensor([1, 2], [1, 1, 2])]}, b""),
        ([], b""),
    ):
        client.post(_PATH, *with_tail(fields, tail))
    for length in (0, "x", "-1", 10_000, "1" * 13, ""):
        client.post(_PATH, *with_tail({"inputs": [binary(8, [1, 1, 2])]}, raw, length))
    for body in (raw, raw * 3, b"", raw[:3], struct.pack("<2f", 1, float("inf"))):
        client.post(_PATH, body, {"inference-header-content-length": "0"})
    for name, body in (("mixed", raw), ("sum", raw), ("half", raw)):
        client.post(f"/v2/models/{name}/infer", body, {"inference-header-content-length": "0"})


def _encodings(client: Client) -> None:
    """Send and ask for compressed bodies."""
    good = json_bytes({"inputs": [tensor([1, 2], [1, 1, 2])]})
    zipped = gzip.compress(good, mtime=0)
    for encoding, body in (
        *(("gzip", zipped), ("GZIP ", zipped), ("deflate", zlib.compress(good)), ("identity", good), ("", good)),
        *(("br", good), ("gzip, gzip", zipped), ("gzip", good), ("gzip", zipped[:-4]), ("gzip", zipped + b"x")),
        *(("deflate", zipped), ("gzip", b""), ("gzip", zipped * 2)),
    ):
        client.post(_PATH, body, {"content-encoding": encoding})
    bomb = gzip.compress(b" " * (17 << 20), mtime=0)
    client.post(_PATH, bomb, {"content-encoding": "gzip"})
    long = {"inputs": [tensor([float(n % 7) for n in range(800)], [1, 400, 2])]}
    for asked in ("gzip", "deflate", "gzip;q=0.5, deflate", "gzip;q=0", "*", "br", "gzip;q=x", "identity", "GZIP;Q=1"):
        client.post(_PATH, good, {"accept-encoding": asked})
        if asked in ("gzip", "deflate"):
            client.post(_PATH, long, {"accept-encoding": asked})


FAMILY = Family(play, ("sum", "mixed", "half", "stateless", "whole"), both_ways=True)
