"""Requests of the Open Inference Protocol, as its clients write them."""

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export import export_network
from models.network import Network, NetworkConfig
from service.app import Service
from service.settings import Settings
from tests.fakes import FakeClock

INFER = "/v2/models/lstm/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="session")
def artifacts(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the service's models, and add one that reads whole sequences only."""
    folder = tmp_path_factory.mktemp("oip") / "artifacts"
    shutil.copytree(artifacts, folder)
    config = NetworkConfig(cell="lstm", input_size=3, hidden_size=4, output_size=2, bidirectional=True)
    export_network(Network(config), folder, "both-ways", 1)
    return folder


@pytest.fixture(params=["fast path", "routes"])
def settings(request: pytest.FixtureRequest, artifacts: Path) -> Settings:
    return Settings(artifacts=artifacts, max_sessions=50, model_control=True, fast_path=request.param == "fast path")


@pytest.fixture
async def client(service: Service, clock: FakeClock) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"accept-encoding": "identity"}
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers) as made:
        yield made


def body(inputs: Any, sequence: int | str | None = None, **more: Any) -> dict[str, Any]:
    """Return a JSON request with (steps, features) of a sequence; `more` are parameters, or the id."""
    array = np.asarray(inputs, np.float32)
    array = array[None] if array.ndim == 2 else array
    made: dict[str, Any] = {
        "inputs": [{"name": "x", "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}]
    }
    if "id" in more:
        made["id"] = more.pop("id")
    parameters = dict(more)
    if sequence is not None:
        parameters["sequence_id"] = sequence
        for flag in ("sequence_start", "sequence_end"):
            parameters[flag] = bool(more.get(flag.removeprefix("sequence_")))
    for flag in ("start", "end"):
        parameters.pop(flag, None)
    if parameters:
        made["parameters"] = parameters
    return made


def binary(inputs: Any, sequence: int | str | None = None, **more: Any) -> dict[str, Any]:
    """Return the content and headers of the same request in binary, which asks for binary outputs."""
    array = np.asarray(inputs, np.float32)
    made = body(array, sequence, binary_data_output=True, **more)
    raw = array.astype("<f4").tobytes()
    del made["inputs"][0]["data"]
    made["inputs"][0]["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps(made).encode()
    return {"content": head + raw, "headers": {LENGTH: str(len(head))}}


def outputs(answer: httpx.Response) -> np.ndarray:
    """Return the first output of an answer in JSON or binary, (rows, steps, outputs)."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(LENGTH)
    described = json.loads(answer.content[: int(length)] if length else answer.content)["outputs"][0]
    if length:
        return np.frombuffer(answer.content[int(length) :], "<f4").reshape(described["shape"])
    return np.array(described["data"], np.float32).reshape(described["shape"])


def last_step(answer: httpx.Response) -> int:
    """Return the parameter `step` of an answer."""
    length = answer.headers.get(LENGTH)
    step: int = json.loads(answer.content[: int(length)] if length else answer.content)["parameters"]["step"]
    return step
