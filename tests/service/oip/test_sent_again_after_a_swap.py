"""A request that is sent again after its model was replaced gets the answer of the version that took it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import onnx
import pytest
from onnx import parser

from export.adopt import adopt_model
from service.app import Service
from service.settings import Settings

SUM = """<ir_version: 10, opset_import: ["" : 17]>
net (float[batch,{width}] x, float[batch,{width}] state)
    => (float[batch,{width}] y{more}, float[batch,{width}] new_state)
{{ new_state = Add (x, state)
  {twice}y = Neg (new_state) }}"""
NEXT = {
    "as before": SUM.format(width=2, more="", twice=""),
    "with one more output": SUM.format(
        width=2, more=", float[batch,2] twice", twice="twice = Add (new_state, new_state)\n  "
    ),
    "with wider inputs": SUM.format(width=3, more="", twice=""),
}
PATH = "/v2/models/m/infer"


def write(folder: Path, text: str, version: int) -> None:
    onnx.save(parser.parse_model(text), folder / "model.onnx")
    adopt_model(folder / "model.onnx", folder / "artifacts", "m", version)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    write(tmp_path, NEXT["as before"], 1)
    made = Service(Settings(artifacts=tmp_path / "artifacts", max_sessions=20))
    made.open()
    yield made
    made.close()


def request(sequence: str, request_id: str, data: list[float], *, start: bool = False, end: bool = False) -> bytes:
    tensor = {"name": "x", "shape": [1, 1, len(data)], "datatype": "FP32", "data": data}
    parameters = {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}
    return json.dumps({"id": request_id, "inputs": [tensor], "parameters": parameters}).encode()


@pytest.mark.parametrize("change", NEXT)
async def test_copies_are_replayed_by_the_version_that_took_them(
    client: httpx.AsyncClient, service: Service, tmp_path: Path, change: str
) -> None:
    """START, END, both in one and steps: each copy gets the first answer again; nothing is taken a second time."""
    sent = {
        "start": request("a", "1", [1, 2], start=True),
        "both": request("b", "1", [3, 4], start=True, end=True),
        "step": request("c", "2", [5, 6]),
        "end": request("d", "2", [7, 8], end=True),
    }
    for sequence in "cd":
        await client.post(PATH, content=request(sequence, "1", [1, 1], start=True))
    first = {name: (await client.post(PATH, content=body)).json() for name, body in sent.items()}
    write(tmp_path, NEXT[change], 2)
    await service.repository.refresh()
    assert service.repository.find("m").card.version == 2
    for name, body in sent.items():
        again = await client.post(PATH, content=body)
        assert again.status_code == 200, again.text
        expected = first[name] | {"parameters": first[name]["parameters"] | {"replayed": True}}
        assert again.json() == expected, name


@pytest.mark.parametrize("change", NEXT)
async def test_a_new_start_after_a_swap_is_a_new_sequence(
    client: httpx.AsyncClient, service: Service, tmp_path: Path, change: str
) -> None:
    """Under a name whose sequence ended or goes on at the replaced version, it runs on the new one."""
    await client.post(PATH, content=request("ended", "1", [1, 2], start=True, end=True))
    await client.post(PATH, content=request("live", "1", [1, 2], start=True))
    write(tmp_path, NEXT[change], 2)
    await service.repository.refresh()
    data: list[float] = [9, 9, 9] if change == "with wider inputs" else [9, 9]
    for sequence in ("ended", "live"):
        answer = await client.post(PATH, content=request(sequence, "1", data, start=True))
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_version"] == "2"
        assert answer.json()["outputs"][0]["data"][:2] == [-9, -9]
        assert answer.json()["parameters"] == {"step": 1}
