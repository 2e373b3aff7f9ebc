"""The repository: its index, loading and unloading models, and what becomes of their sessions."""

import shutil
from typing import Any

from tests.recorded.client import Client
from tests.recorded.script import Family
from tests.recorded.script.v2_sequences import START, step

_REPOSITORY = "/v2/repository"


def play(client: Client) -> None:
    body: Any
    for body in (None, {}, {"ready": True}, {"ready": False}, {"ready": 1}, [], b"{", {"more": 1}):
        client.post(f"{_REPOSITORY}/index", body)
    for body in (
        *(None, {}, {"parameters": {}}, {"parameters": {"config": "{}"}}, {"parameters": {"file:1/model.onnx": "x"}}),
        *({"parameters": []}, {"parameters": {"other": 1}}, [], b"{"),
    ):
        client.post(f"{_REPOSITORY}/models/sum/load", body)
    client.post(f"{_REPOSITORY}/models/none/load")
    for body in ({"parameters": {"unload_dependents": 1}}, {"parameters": []}, b"{"):
        client.post(f"{_REPOSITORY}/models/sum/unload", body)
    client.post(f"{_REPOSITORY}/models/none/unload")
    session = client.open()
    client.post(f"{session}/steps", {"inputs": [[1]]})
    client.post("/v2/models/sum/infer", step(1, 1, **START))
    stream = client.stream(f"{session}/stream")
    client.post(f"{_REPOSITORY}/models/sum/unload", {"parameters": {"unload_dependents": True}})
    stream.text({"inputs": [[1]]}, 2)
    for path in (session, "/v1/models", "/v1/models/sum", "/v2/models/sum", "/v2/models/sum/ready", "/v1/sessions"):
        client.get(path)
    client.post(f"{session}/steps", {"inputs": [[1]]})
    client.post("/v1/models/sum/predict", {"inputs": [[[1]]]})
    client.post("/v2/models/sum/infer", step(1, 1))
    client.post(f"{_REPOSITORY}/models/sum/unload")
    client.post(f"{_REPOSITORY}/index")
    client.post(f"{_REPOSITORY}/models/sum/load")
    client.post(f"{_REPOSITORY}/index", {"ready": True})
    client.post("/v2/models/sum/infer", step(1, 1))
    client.post("/v2/models/sum/infer", step(1, 1, **START))
    _new_versions(client)
    client.get("/metrics")


def _new_versions(client: Client) -> None:
    """Load a newer version beside the old one, and refuse a damaged one."""
    old = client.open(keep=1)
    client.post(f"{old}/steps", {"inputs": [[4], [2]]})
    snapshot = client.get(f"{old}/state").body
    shutil.copytree(client.next_versions / "sum/2", client.artifacts / "sum/2")
    client.post(f"{_REPOSITORY}/index")
    client.post(f"{_REPOSITORY}/models/sum/load")
    client.post(f"{_REPOSITORY}/index")
    for path in ("/v1/models", "/v2/models/sum", "/v2/models/sum/versions/1", "/v2/models/sum/versions/2/ready"):
        client.get(path)
    new = client.open()
    for session in (old, new):
        client.post(f"{session}/steps", {"inputs": [[4], [2]]})
        client.get(session)
    client.request("PUT", f"{new}/state", snapshot)
    client.post(f"{old}/fork")
    client.post("/v2/models/sum/infer", step(1, 1))
    client.post("/v2/models/sum/versions/1/infer", step(1, 1))
    client.post("/v2/models/sum/versions/2/infer", step(1, 1))
    client.post("/v2/models/sum/versions/1/infer", step(9, 1, **START))
    client.post("/v2/models/sum/versions/2/infer", step(9, 1, **START))
    ids = [session.rpartition("/")[2] for session in (old, new)]
    client.post("/v1/models/sum/fleet", {"sessions": ids, "inputs": [[[1]], [[1]]]})
    damaged = client.artifacts / "sum/3"
    damaged.mkdir()
    (damaged / "model.onnx").write_bytes(b"no model")
    client.post(f"{_REPOSITORY}/models/sum/load")
    client.post(f"{_REPOSITORY}/index")
    shutil.rmtree(damaged)
    client.post(f"{_REPOSITORY}/models/sum/unload")
    for session in (old, new):
        client.get(session)
        client.post(f"{session}/steps", {"inputs": [[1]]})
    client.post(f"{_REPOSITORY}/index")


FAMILY = Family(play, ("sum", "pair"), ("--model-control",))
