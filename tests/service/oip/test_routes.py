"""Every route of the protocol is served, answers with the fields of its specification, and is documented."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.card import ModelCard
from models.network import Network
from service.app import Service
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import random_inputs
from tests.service.oip.conftest import INFER, body, last_step

OF_MODEL = "/v2/models/{model}"
ROUTES: dict[tuple[str, str], tuple[str, ...]] = {
    ("get", "/v2/health/live"): (),
    ("get", "/v2/health/ready"): (),
    ("get", "/v2"): ("name", "version", "extensions"),
    ("get", "/v2/models/stats"): ("model_stats",),
    ("post", "/v2/repository/index"): (),
    ("post", "/v2/repository/models/{model}/load"): (),
    ("post", "/v2/repository/models/{model}/unload"): (),
    **{
        (method, prefix + path): fields
        for prefix in (OF_MODEL, OF_MODEL + "/versions/{version}")
        for method, path, fields in (
            ("get", "", ("name", "versions", "platform", "inputs", "outputs")),
            ("get", "/ready", ("name", "ready")),
            ("get", "/config", ("name", "platform", "max_batch_size", "input", "output")),
            ("get", "/stats", ("model_stats",)),
            ("post", "/infer", ("model_name", "model_version", "outputs")),
        )
    },
}
"""The routes of the specification and of Triton's extensions, and the fields that their answers must have."""
INFER_FIELDS = {"id", "parameters", "inputs", "outputs"}
TENSOR_FIELDS = {"name", "shape", "datatype", "parameters", "data"}


async def test_the_protocol_is_documented(client: httpx.AsyncClient) -> None:
    """The OpenAPI document contains every route and every required field, and its references can be resolved."""
    text = (await client.get("/openapi.json")).text
    document = json.loads(text)

    def resolved(schema: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
        return schema

    for (method, path), fields in ROUTES.items():
        operation = document["paths"][path][method]
        answer = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema", {})
        assert set(fields) <= set(resolved(answer).get("required", [])), path
        assert "422" not in operation["responses"]
        if "health" not in path:
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert "error" in resolved(error)["required"]
    request = document["paths"][OF_MODEL + "/infer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(request["properties"]) == INFER_FIELDS
    assert request["required"] == ["inputs"]
    tensor = request["properties"]["inputs"]["items"]
    assert set(tensor["properties"]) == TENSOR_FIELDS
    assert set(tensor["required"]) == {"name", "shape", "datatype"}
    assert "#/$defs/" not in text


async def test_every_route_answers(client: httpx.AsyncClient) -> None:
    """Every route answers 200 with the fields that it must have."""
    await client.post(INFER, json=body(random_inputs(1), 1, start=True))
    for (method, path), fields in ROUTES.items():
        if "load" in path:
            continue
        content = body(random_inputs(1), 1) if path.endswith("/infer") else None
        answer = await client.request(method, path.format(model="lstm", version="1"), json=content)
        assert answer.status_code == 200, path
        if fields:
            assert set(fields) <= set(answer.json())


async def test_unknown_paths_and_methods_are_refused(client: httpx.AsyncClient) -> None:
    """Unknown paths, wrong methods and unsupported extensions are refused with the protocol's error fields."""
    for method, path, status, text in (
        ("GET", "/v2/nothing", 404, "Not Found"),
        ("GET", INFER, 405, "Method Not Allowed"),
        ("POST", "/v2/models//infer", 404, "Not Found"),
        ("POST", "/v2/models/lstm/versions/1.5/infer", 404, "Not Found"),
        ("POST", "/v2/health/live", 405, "Method Not Allowed"),
        ("GET", "/v2/models/nobody", 404, "Request for unknown model: 'nobody' is not found"),
        ("GET", "/v2/models/lstm/versions/7", 404, "Request for unknown model: 'lstm' version 7 is not found"),
        ("GET", "/v2/models/nobody/ready", 400, "Model version not ready"),
        ("GET", "/v2/models/lstm/versions/7/ready", 400, "Model version not ready"),
        ("GET", "/v2/systemsharedmemory/status", 501, "shared memory is not supported"),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501, "shared memory is not supported"),
        ("GET", "/v2/logging", 501, "the logging extension is not supported"),
        ("POST", "/v2/trace/setting", 501, "the trace extension is not supported"),
        ("POST", "/v2/models/lstm/generate", 501, "the generate extension is not supported"),
        ("POST", "/v2/models/lstm/generate_stream", 501, "the generate extension is not supported"),
    ):
        answer = await client.request(method, path)
        assert (answer.status_code, answer.json()["error"]) == (status, text), path
        assert answer.json()["code"]
        assert "x-request-id" in answer.headers
    assert (await client.get("/v1/nothing")).json()["code"] == "not_found"


async def test_health_follows_the_service(client: httpx.AsyncClient, service: Service) -> None:
    """While the service drains, /v2/health/ready is 400, a START is refused, and other steps are taken."""
    await client.post(INFER, json=body(random_inputs(1), 1, start=True))
    await service.drain()
    for path in ("/v2/health/ready", "/v2/models/lstm/ready"):
        assert (await client.get(path)).status_code == 400
    assert (await client.get("/v2/health/live")).status_code == 200
    refused = await client.post(INFER, json=body(random_inputs(1), 2, start=True))
    assert (refused.status_code, refused.json()["code"]) == (503, "shutting_down")
    assert last_step(await client.post(INFER, json=body(random_inputs(1), 1))) == 2


async def test_metadata_and_configuration_are_the_cards(client: httpx.AsyncClient, service: Service) -> None:
    """Metadata and configuration state the tensors, states and limits of the card."""
    card: ModelCard = service.repository.find("lstm").card
    described = (await client.get("/v2/models/lstm")).json()
    assert described["versions"] == ["1"]
    assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1, 3]}]
    assert described["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, -1, 2]}]
    config = (await client.get("/v2/models/lstm/config")).json()
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}]
    assert config["max_batch_size"] == service.repository.find("lstm").batcher.max_rows
    states = config["sequence_batching"]["state"]
    assert [state["input_name"] for state in states] == [state.name for state in card.states]
    assert [state["dims"] for state in states] == [list(state.shape) for state in card.states]
    assert config["sequence_batching"]["max_sequence_idle_microseconds"] == 900_000_000
    assert "sequence_batching" not in (await client.get("/v2/models/both-ways/config")).json()


async def test_statistics_are_true(client: httpx.AsyncClient, service: Service, clock: FakeClock) -> None:
    """Statistics count requests, rows and runs of both APIs, and their times are those of the clock."""
    batcher = service.repository.find("lstm").batcher
    batcher._scheduled = True
    asked = [asyncio.create_task(client.post(INFER, json=body(random_inputs(1), n, start=True))) for n in (1, 2, 3)]
    await asyncio.sleep(0.05)
    clock.advance(0.5)
    batcher._round()
    await asyncio.gather(*asked)
    session = (await client.post("/v1/models/lstm/sessions")).json()["session_id"]
    await client.post(f"/v1/sessions/{session}/steps", json={"inputs": [[0, 0, 0]]})
    await client.post(f"/v1/sessions/{session}/steps", json={"inputs": [[0, 0, 0]], "step": 9})
    for path in ("/v2/models/lstm/stats", "/v2/models/lstm/versions/1/stats", "/v2/models/stats"):
        listed = (await client.get(path)).json()["model_stats"]
        stats = next(one for one in listed if one["name"] == "lstm")
        assert (stats["version"], stats["inference_count"], stats["execution_count"]) == ("1", 4, 2)
        counted = stats["inference_stats"]
        assert counted["success"] == {"count": 4, "ns": 1_500_000_000}
        assert counted["fail"]["count"] == 1
        assert counted["queue"] == {"count": 4, "ns": 1_500_000_000}
        assert counted["compute_infer"]["count"] == 4
        assert [(one["batch_size"], one["compute_infer"]["count"]) for one in stats["batch_stats"]] == [(1, 1), (3, 1)]
        assert stats["last_inference"] > 1.7e12
        assert stats["memory_usage"][0]["byte_size"] == service.repository.find("lstm").memory
    idle = next(one for one in listed if one["name"] == "rnn-tanh")
    assert (idle["last_inference"], idle["inference_count"]) == (0, 0)


@pytest.fixture
async def controlled(artifacts: Path, tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient, Path]]:
    """Run a service over a folder of its own, whose models clients may load and unload."""
    for name in ("lstm", "rnn-tanh"):
        shutil.copytree(artifacts / name, tmp_path / name)
    service = Service(Settings(artifacts=tmp_path, max_sessions=9, model_control=True, watch=0))
    service.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:
        yield service, client, tmp_path
    service.close()


async def test_models_are_unloaded_and_loaded(controlled: tuple[Service, httpx.AsyncClient, Path]) -> None:
    """Unloading ends a model's sequences, and loading serves its newest version again."""
    service, client, folder = controlled
    step = random_inputs(1)
    await client.post(INFER, json=body(step, 1, start=True))
    done = await client.post("/v2/repository/models/lstm/unload", json={"parameters": {"unload_dependents": False}})
    assert (done.status_code, done.content) == (200, b"")
    assert (await client.post(INFER, json=body(step, 1))).status_code == 404
    assert (await client.get("/v2/models/lstm/ready")).status_code == 400
    index = (await client.post("/v2/repository/index")).json()
    assert index == [
        {"name": "lstm", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "rnn-tanh", "version": "1", "state": "READY", "reason": ""},
    ]
    ready = (await client.post("/v2/repository/index", json={"ready": True})).json()
    assert [one["name"] for one in ready] == ["rnn-tanh"]
    await service.repository.refresh()
    assert "lstm" not in service.repository.models
    assert (await client.post("/v2/repository/models/lstm/load", json={})).status_code == 200
    gone = await client.post(INFER, json=body(step, 1))
    assert (gone.status_code, gone.json()["code"]) == (400, "model_replaced")
    await client.post(INFER, json=body(step, 1, start=True))
    shutil.copytree(folder / "lstm/1", folder / "lstm/2")
    assert (await client.post("/v2/repository/models/lstm/load")).status_code == 200
    on_old = await client.post(INFER, json=body(step, 1))
    assert (last_step(on_old), on_old.json()["model_version"]) == (2, "1")
    url = "/v2/models/lstm/versions/{}/infer"
    assert last_step(await client.post(url.format(1), json=body(step, 1))) == 3
    assert (await client.post(url.format(2), json=body(step, 1))).status_code == 400
    assert (await client.post(url.format(1), json=body(step, 2, start=True))).status_code == 404
    anew = await client.post(INFER, json=body(step, 1, start=True))
    assert (last_step(anew), anew.json()["model_version"]) == (1, "2")


@pytest.mark.parametrize(
    ("path", "content", "status", "text"),
    [
        ("lstm/load", {"parameters": {"config": "{}"}}, 400, "parameter 'config' is not taken"),
        ("lstm/load", {"parameters": {"file:1/model.onnx": "AA=="}}, 400, "parameter 'file:1/model.onnx' is not taken"),
        ("lstm/load", {"parameters": []}, 400, "parameters: expected an object"),
        ("lstm/load", [], 400, "body: expected an object"),
        ("nobody/load", {}, 400, "failed to load 'nobody'"),
        ("..%2f..%2fetc/load", {}, 404, "Not Found"),
        ("nobody/unload", {}, 404, "Request for unknown model: 'nobody' is not found"),
        ("lstm/unload", {"parameters": {"unload_dependents": 1}}, 400, "unload_dependents"),
        ("bad/load", {}, 400, "failed to load 'bad': its artefact was refused"),
    ],
)
async def test_loads_of_files_and_configurations_are_refused(
    controlled: tuple[Service, httpx.AsyncClient, Path], path: str, content: Any, status: int, text: str
) -> None:
    """A load that names a file, a path or a configuration is refused, and changes nothing."""
    service, client, folder = controlled
    (folder / "bad/1").mkdir(parents=True)
    (folder / "bad/1/model.onnx").write_bytes(b"no model")
    answer = await client.post(f"/v2/repository/models/{path}", json=content)
    assert answer.status_code == status
    assert text in answer.json()["error"]
    assert str(folder) not in answer.text
    assert sorted(service.repository.models) == ["lstm", "rnn-tanh"]


async def test_control_is_off_by_default(artifacts: Path) -> None:
    """Without --model-control, load and unload are refused."""
    service = Service(Settings(artifacts=artifacts, max_sessions=9))
    service.open()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:
        for verb in ("load", "unload"):
            answer = await client.post(f"/v2/repository/models/lstm/{verb}")
            assert (answer.status_code, answer.json()["code"]) == (503, "model_control_off")
            assert "explicit model load / unload is not allowed" in answer.json()["error"]
            assert not answer.json()["retryable"]
    assert "lstm" in service.repository.models
    service.close()


async def test_fast_path_and_routes_send_the_same_bytes(artifacts: Path, networks: dict[str, Network]) -> None:
    """With and without the fast path, an infer request gets the same bytes."""
    answers = []
    for fast_path in (True, False):
        service = Service(Settings(artifacts=artifacts, max_sessions=9, fast_path=fast_path))
        service.open()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as client:
            sent = [body(np.zeros((1, 3)), 1, start=True), body(np.zeros((1, 3)), 1), {}, [], body(np.zeros((1, 4)), 1)]
            replies = [await client.post(INFER, json=one) for one in sent]
            answers.append([(one.status_code, one.content, one.headers["content-type"]) for one in replies])
        service.close()
    assert answers[0] == answers[1]
