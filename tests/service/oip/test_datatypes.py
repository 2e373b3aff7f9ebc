"""Models with several inputs and outputs, and of every datatype, answer under /v2 what they answer under /v1."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from export.adopt import AdoptOptions, adopt_model
from export.artefact import read_card
from models.card import ModelCard
from service.app import Service
from service.codec.binary import DATATYPE_OF
from service.settings import Settings
from tests.export.zoo import ZOO, write
from tests.fakes import FakeClock
from tests.service.conftest import random_inputs
from tests.service.oip.conftest import INFER, LENGTH, binary, body


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name, foreign in ZOO.items():
        file = write(foreign.model(), folder / f"{name}.onnx")
        adopt_model(file, folder / "artifacts", name, 1, adopt_options=AdoptOptions.parse(**foreign.options))
    return folder / "artifacts"


@pytest.fixture(scope="module")
def zoo_service(zoo: Path) -> Iterator[Service]:
    made = Service(Settings(artifacts=zoo, max_sessions=40), FakeClock())
    made.load()
    yield made
    made.close()


def drawn(spec: Any, steps: int, random: np.random.Generator) -> np.ndarray:
    shape = (steps, *spec.shape)
    if spec.dtype == "bool":
        return random.integers(0, 2, shape) > 0
    if spec.dtype.startswith("int"):
        return random.integers(0, spec.vocabulary or 2, shape).astype(spec.dtype)
    return random.normal(size=shape).astype(spec.dtype)


def tensors(card: ModelCard, inputs: dict[str, np.ndarray], in_json: bool) -> tuple[list[dict[str, Any]], bytes]:
    described, raws = [], []
    for spec in card.inputs:
        array = inputs[spec.name][None]
        tensor: dict[str, Any] = {"name": spec.name, "shape": array.shape, "datatype": DATATYPE_OF[spec.dtype]}
        if in_json:
            tensor["data"] = array.ravel().tolist()
        else:
            raws.append(array.tobytes())
            tensor["parameters"] = {"binary_data_size": len(raws[-1])}
        described.append(tensor)
    return described, b"".join(raws)


@pytest.mark.parametrize("name", ZOO)
async def test_every_adopted_model_answers_as_under_v1(zoo_service: Service, zoo: Path, name: str) -> None:
    """All outputs of every adopted model, in JSON and in binary, equal those of a session's steps under /v1."""
    card = read_card(zoo / name / "1/model.onnx")
    random = np.random.default_rng(0)
    inputs = {spec.name: drawn(spec, 4, random) for spec in card.inputs}
    url = f"/v2/models/{name}/infer"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(zoo_service.app), base_url="http://service") as client:
        session = (await client.post(f"/v1/models/{name}/sessions")).json()["session_id"]
        named: Any = {key: value.tolist() for key, value in inputs.items()}
        sent = {"inputs": named if len(named) > 1 else next(iter(named.values()))}
        expected = (await client.post(f"/v1/sessions/{session}/steps", json=sent)).json()["outputs"]
        expected = expected if isinstance(expected, dict) else {card.outputs[0].name: expected}
        flags = {"sequence_id": 1, "sequence_start": True, "sequence_end": True}
        described, _ = tensors(card, inputs, in_json=True)
        answer = (await client.post(url, json={"parameters": flags, "inputs": described})).json()
        half = "float16" in {spec.dtype for spec in (*card.inputs, *card.outputs)}
        if half:
            assert answer["error"].startswith("sending FP16 data via JSON is not supported.")
        for output in [] if half else answer["outputs"]:
            found = np.array(output["data"]).reshape(output["shape"])[0]
            np.testing.assert_allclose(found, np.array(expected[output["name"]]), rtol=1e-6, atol=1e-6)
        described, raw = tensors(card, inputs, in_json=False)
        head = json.dumps({"parameters": {**flags, "binary_data_output": True}, "inputs": described}).encode()
        reply = await client.post(url, content=head + raw, headers={LENGTH: str(len(head))})
    length, at = int(reply.headers[LENGTH]), int(reply.headers[LENGTH])
    for output, spec in zip(json.loads(reply.content[:length])["outputs"], card.outputs, strict=True):
        size = output["parameters"]["binary_data_size"]
        found = np.frombuffer(reply.content[at : at + size], spec.dtype).reshape(output["shape"])[0]
        np.testing.assert_allclose(found, np.array(expected[spec.name]), rtol=1e-6, atol=1e-6)
        at += size
    assert at == len(reply.content)


async def test_requests_leave_no_reference_cycles(client: httpx.AsyncClient, service: Service) -> None:
    """Steps with and without an id, in JSON and in binary, leave no reference cycles."""
    step = random_inputs(1)

    sending = [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": sending[0], "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200

    await client.post(INFER, json=body(step, 1, start=True))
    sent = binary(step, 1)
    requests = [
        (json.dumps(body(step, 1)).encode(), {}),
        (json.dumps(body(step, 1, id="same")).encode(), {}),
        (sent["content"], sent["headers"]),
    ]
    if not service.settings.fast_path:
        return
    for content, headers in requests:
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": INFER, "query_string": b""}
        scope["headers"] = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
        sending[0] = content
        for _ in range(3):
            await service.app(scope, receive, send)
        gc.collect()
        gc.disable()
        for _ in range(50):
            await service.app(scope, receive, send)
        found = gc.collect()
        gc.enable()
        assert found < 50
