"""API keys: who may ask, and that one tenant's sessions are hidden from another."""

import hashlib
import struct
from pathlib import Path

from tests.recorded.client import OCTETS, Client
from tests.recorded.script import Family

_KEYS = {"one": "first-key", "two": "second-key"}
_ONE, _TWO = {"authorization": "Bearer first-key"}, {"x-api-key": "second-key"}
_WATCH = {"x-api-key": "watching-key"}
_SHARED = {"x-api-key": "other-key"}


def write_keys(folder: Path) -> None:
    """Write a key file of two tenants, one of them with two keys, and of one that may read all metrics."""
    lines = [f"{tenant}:{hashlib.sha256(key.encode()).hexdigest()}" for tenant, key in _KEYS.items()]
    lines += ["# a second key", "", f"  one:{hashlib.sha256(b'other-key').hexdigest().upper()}"]
    lines += [f"watch:{hashlib.sha256(b'watching-key').hexdigest()}:metrics"]
    (folder / "keys").write_text("\n".join(lines))


def play(client: Client) -> None:
    _who_may_ask(client)
    session = client.open("sum", _ONE, keep=1)
    client.post(f"{session}/steps", {"inputs": [[1]]}, _SHARED)
    snapshot = client.get(f"{session}/state", _ONE).body
    for headers in (_TWO, {}, {"x-api-key": "wrong"}):
        for method, rest, body in (
            *(("GET", "", None), ("PATCH", "", {"idle_limit": 1}), ("POST", "/steps", {"inputs": [[1]]})),
            *(("POST", "/peek", {"inputs": [[1]]}), ("POST", "/fork", None), ("POST", "/rewind", {"requests": 1})),
            *(("GET", "/state", None), ("PUT", "/state", snapshot), ("DELETE", "", None)),
        ):
            client.request(method, f"{session}{rest}", body, headers)
        client.post(f"{session}/steps", struct.pack("<f", 1), OCTETS | headers)
        client.stream(f"{session}/stream", headers)
        client.stream("/v1/models/sum/stream", headers)
        client.get("/v1/sessions", headers)
        client.get(f"/v1/sessions?after={session.rpartition('/')[2]}", headers)
        client.post("/v1/models/sum/fleet", {"sessions": [session.rpartition("/")[2]], "inputs": [[[1]]]}, headers)
    client.get("/v1/sessions", _ONE)
    for headers in (_ONE, _TWO, _ONE):
        client.post("/v1/models/sum/sessions", None, headers | {"idempotency-key": "same"})
        client.post("/v1/models/sum/fleet", {"sessions": ["name"], "inputs": [[[1]]], "create": True}, headers)
        client.post("/v2/models/sum/infer", _start(7), headers)
    client.request("DELETE", session, None, _ONE)
    for headers in (_ONE, _TWO):
        client.get(session, headers)
    for headers in (_ONE, _WATCH):
        client.get("/v1/models", headers)
        for path in ("/v2/models/stats", "/v2/models/sum/stats", "/v2/models/sum/versions/1/stats", "/metrics"):
            client.get(path, headers)


def _who_may_ask(client: Client) -> None:
    """Ask with keys of each kind."""
    for headers in (
        *({}, _ONE, _TWO, _SHARED, {"authorization": "bearer first-key"}, {"authorization": "Bearer  first-key "}),
        *({"authorization": "Basic first-key"}, {"authorization": "Bearer"}, {"authorization": ""}, {"x-api-key": ""}),
        *({"authorization": "Bearer wrong"}, {"x-api-key": "wrong"} | _ONE, {"authorization": "Bearer \xe9"}),
    ):
        for path in ("/v1/models", "/v2/models/sum", "/livez", "/readyz", "/v2/health/ready"):
            client.get(path, headers)
        client.post("/v1/models/sum/predict", {"inputs": [[[1]]]}, headers)
        client.post("/v2/models/sum/infer", {"inputs": []}, headers)
    client.get("/nowhere")
    client.stream("/v1/nowhere")


def _start(sequence: int) -> dict[str, object]:
    tensor = {"name": "x", "shape": [1, 1, 1], "datatype": "FP32", "data": [1]}
    return {"parameters": {"sequence_id": sequence, "sequence_start": True}, "inputs": [tensor]}


FAMILY = Family(play, ("sum",), ("--api-key-file", "{folder}/keys"), write_keys, both_ways=True)
