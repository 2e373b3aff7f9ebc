"""A new version takes the new sessions; existing ones stay on theirs until they end or the version is retired."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from export import export_network
from models.network import Network, NetworkConfig
from service.app import Service
from service.repository import artefact, repository
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import FEATURES, offline, random_inputs

SIZES = {"input_size": FEATURES, "hidden_size": 8, "output_size": 2}


@pytest.fixture(scope="module")
def versions() -> dict[int, Network]:
    """Return three versions of a model: the second has another cell, the third other inputs."""
    torch.manual_seed(5)
    return {
        1: Network(NetworkConfig(cell="lstm", **SIZES)),
        2: Network(NetworkConfig(cell="gru_reset_after", **SIZES)),
        3: Network(NetworkConfig(cell="lstm", **{**SIZES, "input_size": FEATURES + 1})),
    }


@pytest.fixture
def folder(tmp_path: Path, versions: dict[int, Network]) -> Path:
    export_network(versions[1], tmp_path, "m", 1)
    return tmp_path


@pytest.fixture
async def service(folder: Path, clock: FakeClock) -> AsyncIterator[Service]:
    made = Service(Settings(artifacts=folder, max_sessions=20, retire_after=100, watch=0), clock)
    made.open()
    yield made
    made.close()


async def opened(client: httpx.AsyncClient) -> tuple[str, int]:
    answer = (await client.post("/v1/models/m/sessions")).json()
    return answer["session_id"], answer["version"]


async def step(client: httpx.AsyncClient, session: str, inputs: np.ndarray) -> np.ndarray:
    answer = await client.post(f"/v1/sessions/{session}/steps", json={"inputs": inputs.tolist()})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"])


async def test_live_sessions_stay_on_their_version(
    client: httpx.AsyncClient, service: Service, folder: Path, versions: dict[int, Network]
) -> None:
    """An existing session gets the outputs of the old version, a new one those of the new version."""
    inputs = random_inputs(6)
    old, _ = await opened(client)
    await step(client, old, inputs[:3])
    export_network(versions[2], folder, "m", 2)
    await service.repository.refresh()
    new, version = await opened(client)
    assert version == 2
    np.testing.assert_allclose(await step(client, old, inputs[3:]), offline(versions[1], inputs)[3:], atol=1e-5)
    np.testing.assert_allclose(await step(client, new, inputs), offline(versions[2], inputs), atol=1e-5)
    service.repository.retire()
    assert len(service.repository.counts()) == 2
    await client.delete(f"/v1/sessions/{old}")
    service.repository.retire()
    active = {card.version: counts["sessions_active"] for card, counts in service.repository.counts()}
    assert active == {1: 0, 2: 1}
    assert service.repository.counts()[1][1]["slots_free"] == 0


async def test_sessions_of_a_replaced_version_end_in_time(
    client: httpx.AsyncClient, service: Service, folder: Path, versions: dict[int, Network], clock: FakeClock
) -> None:
    """After --retire-after, sessions of a replaced version are answered `model_replaced` with their last step."""
    old, _ = await opened(client)
    await step(client, old, random_inputs(2))
    export_network(versions[2], folder, "m", 2)
    await service.repository.refresh()
    clock.advance(99)
    service.repository.retire()
    await step(client, old, random_inputs(1))
    clock.advance(1)
    service.repository.retire()
    for _ in range(2):
        answer = await client.post(f"/v1/sessions/{old}/steps", json={"inputs": random_inputs(1).tolist()})
        assert (answer.status_code, answer.json()["code"]) == (410, "model_replaced")
        assert answer.json()["last_step"] == 3
    assert len(service.sessions) == 0


async def test_a_fleet_step_may_use_both_versions(
    client: httpx.AsyncClient, service: Service, folder: Path, versions: dict[int, Network]
) -> None:
    """In one fleet step, each row runs on the version of its session."""
    inputs = random_inputs(4)
    body = {"sessions": ["old"], "inputs": [inputs[:2].tolist()], "create": True}
    await client.post("/v1/models/m/fleet", json=body)
    export_network(versions[2], folder, "m", 2)
    await service.repository.refresh()
    both = {"sessions": ["old", "new"], "inputs": [inputs[2:].tolist(), inputs[2:].tolist()], "create": True}
    answer = (await client.post("/v1/models/m/fleet", json=both)).json()
    assert (answer["steps"], answer["created"], answer["errors"]) == ([4, 2], [1], [])
    np.testing.assert_allclose(answer["outputs"][0], offline(versions[1], inputs)[2:], atol=1e-5)
    np.testing.assert_allclose(answer["outputs"][1], offline(versions[2], inputs[2:]), atol=1e-5)


async def test_a_fleet_refuses_rows_with_other_inputs(
    client: httpx.AsyncClient, service: Service, folder: Path, versions: dict[int, Network]
) -> None:
    """A fleet row whose session's version has other inputs is refused, and its session is not advanced."""
    await client.post("/v1/models/m/fleet", json={"sessions": ["old"], "inputs": [[[1, 2, 3]]], "create": True})
    export_network(versions[3], folder, "m", 3)
    await service.repository.refresh()
    body = {"sessions": ["old", "new"], "inputs": [[[1, 2, 3, 4]]] * 2, "create": True}
    answer = (await client.post("/v1/models/m/fleet", json=body)).json()
    assert answer["steps"] == [None, 1]
    assert answer["errors"][0]["code"] == "invalid_input"
    assert [session.step for session in service.sessions] == [1, 1]


async def test_a_damaged_version_is_not_served(client: httpx.AsyncClient, service: Service, folder: Path) -> None:
    """A damaged version is not served, and is tried again when the file has changed."""
    (folder / "m/2").mkdir()
    (folder / "m/2/model.onnx").write_bytes(b"no model")
    await service.repository.refresh()
    assert (await opened(client))[1] == 1
    shutil.copy(folder / "m/1/model.onnx", folder / "m/2/model.onnx")
    await service.repository.refresh()
    assert (await opened(client))[1] == 2


async def test_two_versions_fit_the_state_memory_three_do_not(
    folder: Path, versions: dict[int, Network], clock: FakeClock
) -> None:
    """A version that does not fit beside those in use is loaded when one of them has been unloaded."""
    made = Service(Settings(artifacts=folder, state_memory=2_000_000, retire_after=100, watch=0), clock)
    made.open()
    model = made.repository.find("m")
    made.sessions.create("t", model, 1000.0)
    assert model.memory <= 1_000_000
    export_network(versions[2], folder, "m", 2)
    await made.repository.refresh()
    made.sessions.create("t", made.repository.find("m"), 1000.0)
    shutil.copytree(folder / "m/1", folder / "m/4")
    await made.repository.refresh()
    assert made.repository.find("m").card.version == 2
    clock.advance(100)
    made.repository.retire()
    await made.repository.refresh()
    assert made.repository.find("m").card.version == 4
    made.close()


async def served(service: Service, version: int) -> None:
    """Wait until a version of the model m is served, for 5 seconds at most."""
    for _ in range(500):
        await asyncio.sleep(0.01)
        if service.repository.find("m").card.version == version:
            break
    assert service.repository.find("m").card.version == version


async def test_a_new_version_is_served_without_a_signal(
    folder: Path, versions: dict[int, Network], clock: FakeClock
) -> None:
    """With --watch, a new version is served without a signal."""
    made = Service(Settings(artifacts=folder, max_sessions=20, watch=0.01), clock)
    made.open()
    export_network(versions[2], folder, "m", 2)
    await served(made, 2)
    made.close()


async def test_a_late_body_uses_the_version_in_service(
    service: Service, folder: Path, versions: dict[int, Network]
) -> None:
    """A request whose model is replaced before its body has arrived uses the new version."""
    for path, body, status in (
        ("/v1/models/m/sessions", b"{}", 201),
        ("/v1/models/m/predict", b'{"inputs":[[[1,2,3]]]}', 200),
        ("/v1/models/m/fleet", b'{"sessions":["a"],"inputs":[[[1,2,3]]],"create":true}', 200),
    ):
        newest = service.repository.find("m").card.version + 1
        sent: list[dict[str, object]] = []

        async def receive(body: bytes = body, newest: int = newest) -> dict[str, object]:
            export_network(versions[1 + newest % 2], folder, "m", newest)
            await service.repository.refresh()
            for session in list(service.sessions):
                service.sessions.close(session)
            service.repository.retire()
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: object, sent: list[dict[str, object]] = sent) -> None:
            assert isinstance(message, dict)
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
        await service.app(scope, receive, send)
        assert sent[0]["status"] == status, sent
    assert {session.model.card.version for session in service.sessions} == {4}


async def test_sessions_of_a_retired_version_are_not_listed(
    client: httpx.AsyncClient, service: Service, folder: Path, versions: dict[int, Network], clock: FakeClock
) -> None:
    """Sessions of a retired version are not listed, and metrics count them as lost."""
    ids = [(await opened(client))[0] for _ in range(5)]
    export_network(versions[2], folder, "m", 2)
    await service.repository.refresh()
    clock.advance(100)
    service.repository.retire()
    new, _ = await opened(client)
    page = (await client.get("/v1/sessions")).json()
    assert [session["session_id"] for session in page["sessions"]] == [new]
    lost = {card.version: counts["sessions_lost"] for card, counts in service.repository.counts()}
    assert lost == {1: len(ids), 2: 0}


async def test_errors_do_not_stop_the_watcher(
    folder: Path, versions: dict[int, Network], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors while the folder is checked do not stop the checks."""
    made = Service(Settings(artifacts=folder, max_sessions=20, watch=0.01), clock)
    made.open()
    failures = [FileNotFoundError("gone"), MemoryError(), RuntimeError("what")]
    look = artefact.find_artefacts

    def failing(path: Path) -> dict[str, list[tuple[int, Path]]]:
        if failures:
            raise failures.pop()
        return look(path)

    monkeypatch.setattr(repository, "find_artefacts", failing)
    export_network(versions[2], folder, "m", 2)
    await served(made, 2)
    made.close()
