"""Fleet steps: many sessions in one request, as JSON and framed."""

import struct
from typing import Any

from tests.recorded.client import Client, json_bytes
from tests.recorded.script import Family

_FLEET = "/v1/models/sum/fleet"


def framed(head: Any, raw: bytes, length: int | str | None = None) -> tuple[bytes, dict[str, str]]:
    """Return the body of a framed request, and the header that tells the head's length."""
    data = json_bytes(head)
    return data + raw, {"inference-header-content-length": str(len(data) if length is None else length)}


def tensor(shape: list[Any], size: int, name: str = "x", datatype: str = "FP32") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": size}}


def play(client: Client) -> None:
    _json(client)
    _numbered(client)
    _bad(client)
    _framed(client)
    _framed_bad(client)
    for name in ("mixed", "kinds", "whole", "none", "stateless"):
        client.post(f"/v1/models/{name}/fleet", {"sessions": ["a"], "inputs": [[[1, 2]]], "create": True})
    client.post("/v1/models/tokens/fleet", {"sessions": ["a", "b"], "inputs": [[1, 2], [5]], "create": True})
    client.post("/v1/models/tokens/fleet", {"sessions": ["a", "b"], "inputs": [[1], [6]]})
    client.get("/v1/sessions")


def _json(client: Client) -> None:
    names = ["a", "b", "c"]
    client.post(_FLEET, {"sessions": names, "inputs": [[[1]], [[2]], [[3]]]})
    client.post(_FLEET, {"sessions": names, "inputs": [[[1]], [[2]], [[3]]], "create": True})
    client.post(_FLEET, {"sessions": names, "inputs": [[[1]], [[2]], [[3]]], "create": True})
    client.post(_FLEET, {"sessions": names, "inputs": [[[1]], [[2], [3]], [[3]] * 20]})
    client.post(_FLEET, {"sessions": ["a", "a", "b"], "inputs": [[[1]], [[2]], [[3]]]})
    client.post(_FLEET, {"sessions": ["a", "new", "b"], "inputs": [[[1]], [[2]], [[3]]]})
    client.post(_FLEET, {"sessions": ["new", "new"], "inputs": [[[1]], [[2]]], "create": True})
    session = client.open().rpartition("/")[2]
    other = client.open("pair").rpartition("/")[2]
    gone = client.open()
    client.request("DELETE", gone)
    mixed = [session, "a", other, "none", gone.rpartition("/")[2], "r0-abcd-AAAAAAAAAAAAAAAAAAAAAA"]
    for create in (False, True):
        client.post(_FLEET, {"sessions": mixed, "inputs": [[[1]]] * 6, "create": create})
    client.post(_FLEET, {"sessions": ["a", "b"], "inputs": [[[3e38]], [[1]]]})
    client.post(_FLEET, {"sessions": ["a", "b"], "inputs": [[[3e38]], [[1]]]})
    client.post(_FLEET, {"sessions": ["a"], "inputs": [[[1]] * 30]})


def _numbered(client: Client) -> None:
    names = ["n1", "n2", "n3"]
    body = {"sessions": names, "inputs": [[[1]], [[2]], [[3]]], "steps": [1, 1, 1], "create": True}
    client.post(_FLEET, body)
    client.post(_FLEET, body)
    client.post(_FLEET, body | {"steps": [2, 1, None]})
    client.post(_FLEET, body | {"steps": [2, 9, 1]})
    client.post(_FLEET, body | {"steps": [3, 2, 3], "epochs": [0, None, 1]})
    client.post(_FLEET, body | {"steps": None, "epochs": [0, 1, 0]})
    client.post(_FLEET, body | {"inputs": [[[9]], [[2]], [[3]]], "steps": [3, 2, 4]})
    client.post(_FLEET, {"sessions": ["n1", "n1"], "inputs": [[[1]], [[1]]], "steps": [5, 6]})


def _bad(client: Client) -> None:
    good = {"sessions": ["a", "b"], "inputs": [[[1]], [[2]]]}
    change: Any
    for change in (
        *({"sessions": []}, {"sessions": "a"}, {"sessions": [1, 2]}, {"sessions": ["a", ""]}, {"sessions": ["a"]}),
        *(
            {"sessions": ["a", "x" * 129]},
            {"sessions": ["a", "\x1f1"]},
            {"sessions": None},
            {"sessions": ["a", "\u00e9"]},
        ),
        *({"inputs": []}, {"inputs": [[[1]]]}, {"inputs": 1}, {"inputs": None}, {"inputs": [[[1]], []]}),
        *({"inputs": [[[1]], [[1, 2]]]}, {"inputs": [[[1]], [["x"]]]}, {"inputs": [[[True]], [[1]]]}),
        *({"create": 1}, {"create": None}, {"create": "true"}, {"steps": [1]}, {"steps": 1}, {"steps": [0, 1]}),
        *({"steps": [1.5, 1]}, {"steps": ["1", 1]}, {"epochs": [0]}, {"epochs": [-1, 0]}, {"epochs": {}}, {"more": 1}),
    ):
        client.post(_FLEET, good | change)
    for body in (b"", b"{", b"[]", b"null", b'{"sessions":["a"]}', b'{"inputs":[[[1]]]}'):
        client.post(_FLEET, body)
    client.post(_FLEET, good, {"content-encoding": "gzip"})


def _framed(client: Client) -> None:
    raw = struct.pack("<4f", 1, 2, 3, 4)
    for head in (
        {"sessions": ["f1", "f2"], "create": True, "inputs": [tensor([2, 2, 1], 16)]},
        {"sessions": ["f1", "f2"], "inputs": [tensor([2, 2, 1], 16)], "steps": [3, 1]},
        {"sessions": ["f1", "f2"], "inputs": [tensor([2, 2, 1], 16)], "steps": [3, 9]},
        {"sessions": ["f1", "none"], "inputs": [tensor([2, 2, 1], 16)]},
        {"sessions": ["none"], "inputs": [tensor([1, 4, 1], 16)]},
        {"sessions": ["f1", "f2", "f1", "f2"], "inputs": [tensor([4, 1, 1], 16)]},
        {"sessions": ["f2"], "inputs": [tensor([1, 4, 1], 16)], "epochs": [1]},
    ):
        client.post(_FLEET, *framed(head, raw))
    wide = {"sessions": ["p"], "create": True, "inputs": [tensor([1, 2, 2], 16)]}
    client.post("/v1/models/pair/fleet", *framed(wide, raw))
    ids = {"sessions": ["t"], "create": True, "inputs": [tensor([1, 2], 16, datatype="INT64")]}
    client.post("/v1/models/tokens/fleet", *framed(ids, struct.pack("<2q", 1, 5)))
    client.post("/v1/models/tokens/fleet", *framed(ids, struct.pack("<2q", 1, 6)))
    half = {"sessions": ["h"], "create": True, "inputs": [tensor([1, 4, 2], 16, datatype="FP16")]}
    client.post("/v1/models/half/fleet", *framed(half, struct.pack("<8e", *range(8))))


def _framed_bad(client: Client) -> None:
    raw = struct.pack("<2f", 1, 2)
    good = {"sessions": ["f1", "f2"], "inputs": [tensor([2, 1, 1], 8)]}
    for one in (
        *(tensor([2, 1], 8), tensor([1, 2, 1], 8), tensor([2, 1, 2], 8), tensor([2, 0, 1], 8), tensor([2, -1, 1], 8)),
        *(tensor([2, 1, 1], 4), tensor([2, 1, 1], 8, "y"), tensor([2, 1, 1], 8, datatype="FP64"), tensor([2, 2, 1], 8)),
        *({"name": "x", "shape": [2, 1, 1], "datatype": "FP32"}, {"name": "x"}, 1, tensor(["2", 1, 1], 8)),
    ):
        client.post(_FLEET, *framed(good | {"inputs": [one]}, raw))
    change: Any
    for change in ({"inputs": []}, {"inputs": {}}, {"inputs": [tensor([2, 1, 1], 8)] * 2}, {"create": 2}, {"x": 1}):
        client.post(_FLEET, *framed(good | change, raw))
    for length in (0, 1, 10_000, "x", "-1", "1" * 13, ""):
        client.post(_FLEET, *framed(good, raw, length))
    client.post(_FLEET, *framed(good, raw[:-1]))
    client.post(_FLEET, *framed(good, struct.pack("<2f", 1, float("nan"))))
    client.post(_FLEET, *framed([], raw))
    client.post(_FLEET, *framed(b"{", raw))


FAMILY = Family(play, ("sum", "pair", "tokens", "mixed", "kinds", "half", "stateless", "whole"), both_ways=True)
