"""The whole service, in process and over real sockets."""

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from itertools import cycle

import httpx
import numpy as np
import pytest

from models.network import Network
from service.app import Service
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import RunningServer, offline, random_inputs

CELL_MODELS = ["rnn-tanh", "rnn-relu", "lstm", "gru-reset-before", "gru-reset-after"]


async def open_session(client: httpx.AsyncClient, model: str = "lstm") -> str:
    answer = await client.post(f"/v1/models/{model}/sessions")
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/sessions/{answer.json()['session_id']}"
    return str(answer.json()["session_id"])


async def step(client: httpx.AsyncClient, session: str, inputs: np.ndarray) -> dict[str, object]:
    answer = await client.post(f"/v1/sessions/{session}/steps", json={"inputs": inputs.tolist()})
    assert answer.status_code == 200, answer.text
    body: dict[str, object] = answer.json()
    return body


def test_importing_the_service_loads_neither_torch_nor_onnx() -> None:
    """A fresh interpreter that imports service.app loads neither torch nor onnx."""
    code = (
        "import sys, service.app, service.__main__; print([m for m in ('torch', 'onnx', 'typer') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("model", CELL_MODELS)
async def test_whole_sequences_chunks_and_single_steps_agree(
    client: httpx.AsyncClient, networks: dict[str, Network], model: str
) -> None:
    """A sequence gives the outputs of the offline run, however it is cut into requests."""
    inputs = random_inputs(23)
    expected = offline(networks[model], inputs)
    for cuts in ([23], [1] * 23, [5, 1, 11, 2, 4]):
        session = await open_session(client, model)
        outputs: list[object] = []
        at = 0
        for length in cuts:
            body = await step(client, session, inputs[at : at + length])
            at += length
            assert body["step"] == at
            outputs.extend(body["outputs"])  # type: ignore[arg-type]
        np.testing.assert_allclose(np.array(outputs), expected, atol=1e-5)


async def test_token_ids_are_served(client: httpx.AsyncClient, networks: dict[str, Network]) -> None:
    """A model of token ids takes a flat list of integers."""
    ids = np.array([3, 0, 19, 7], np.int64)
    body = await step(client, await open_session(client, "tokens"), ids)
    np.testing.assert_allclose(np.array(body["outputs"]), offline(networks["tokens"], ids), atol=1e-5)


@pytest.mark.parametrize("model", CELL_MODELS)
async def test_sessions_in_one_batch_equal_the_offline_run(
    client: httpx.AsyncClient, service: Service, networks: dict[str, Network], model: str
) -> None:
    """Sessions that step at the same time share runs, and each gets the outputs of the offline run."""
    sequences = [random_inputs(12, seed) for seed in range(9)]
    sessions = [await open_session(client, model) for _ in sequences]
    outputs: list[list[object]] = [[] for _ in sequences]
    batcher = service.repository.find(model).batcher
    runs = batcher.statistics.run_count
    for t in range(12):
        bodies = await asyncio.gather(
            *(step(client, s, x[t : t + 1]) for s, x in zip(sessions, sequences, strict=True))
        )
        for row, body in zip(outputs, bodies, strict=True):
            row.extend(body["outputs"])  # type: ignore[arg-type]
    assert batcher.statistics.run_count - runs < 12 * len(sequences) / 2
    for row, inputs in zip(outputs, sequences, strict=True):
        np.testing.assert_allclose(np.array(row), offline(networks[model], inputs), atol=1e-5)


async def test_predict_takes_sequences_of_different_lengths(
    client: httpx.AsyncClient, service: Service, networks: dict[str, Network]
) -> None:
    """A prediction equals the offline run of each of its sequences, and holds no row afterwards."""
    sequences = [random_inputs(length, length) for length in (1, 40, 7, 7, 133, 2)]
    free = service.repository.find("lstm").arena.slots.free
    answer = await client.post("/v1/models/lstm/predict", json={"inputs": [s.tolist() for s in sequences]})
    assert answer.status_code == 200
    for outputs, inputs in zip(answer.json()["outputs"], sequences, strict=True):
        np.testing.assert_allclose(np.array(outputs), offline(networks["lstm"], inputs), atol=1e-5)
    assert service.repository.find("lstm").arena.slots.free == free


async def test_concurrent_steps_of_one_session_run_in_order(
    client: httpx.AsyncClient, networks: dict[str, Network]
) -> None:
    """Concurrent requests of one session are taken in the order in which they arrive."""
    inputs = random_inputs(8)
    session = await open_session(client)
    bodies = await asyncio.gather(*(step(client, session, inputs[t : t + 1]) for t in range(8)))
    assert [body["step"] for body in bodies] == list(range(1, 9))
    outputs = np.array([body["outputs"][0] for body in bodies])  # type: ignore[index]
    np.testing.assert_allclose(outputs, offline(networks["lstm"], inputs), atol=1e-5)


@pytest.mark.slow
async def test_two_hundred_sessions_over_real_sockets(server: RunningServer, networks: dict[str, Network]) -> None:
    """200 concurrent sessions of a real server all equal the offline run."""
    sequences = [random_inputs(15, seed) for seed in range(200)]

    async def stream(client: httpx.AsyncClient, inputs: np.ndarray) -> np.ndarray:
        session = await open_session(client)
        bodies = [await step(client, session, inputs[t : t + 1]) for t in range(len(inputs))]
        return np.array([body["outputs"][0] for body in bodies])  # type: ignore[index]

    async with AsyncExitStack() as stack:
        clients = [  # httpx iterates over all connections of a client for each request
            await stack.enter_async_context(httpx.AsyncClient(base_url=server.url, timeout=60)) for _ in range(20)
        ]
        results = await asyncio.gather(*(stream(client, inputs) for client, inputs in zip(cycle(clients), sequences)))
    for outputs, inputs in zip(results, sequences, strict=True):
        np.testing.assert_allclose(outputs, offline(networks["lstm"], inputs), atol=1e-5)


async def test_idle_sessions_expire(client: httpx.AsyncClient, service: Service, clock: FakeClock) -> None:
    """A session that was idle for its limit is answered `session_expired` with its last step, and its row is freed."""
    session = await open_session(client)
    await step(client, session, random_inputs(3))
    clock.advance(899)
    await step(client, session, random_inputs(1))
    clock.advance(899)
    assert service.sessions.sweep() == 0
    clock.advance(2)
    answer = await client.post(f"/v1/sessions/{session}/steps", json={"inputs": random_inputs(1).tolist()})
    assert (answer.status_code, answer.json()["code"], answer.json()["last_step"]) == (410, "session_expired", 4)
    assert len(service.sessions) == 0
    assert service.repository.find("lstm").arena.slots.leased == 0


async def test_a_deleted_session_is_answered_410(client: httpx.AsyncClient) -> None:
    """A deleted session is answered 410 with its last step."""
    session = await open_session(client)
    await step(client, session, random_inputs(2))
    assert (await client.delete(f"/v1/sessions/{session}")).status_code == 204
    answer = await client.get(f"/v1/sessions/{session}")
    assert (answer.status_code, answer.json()["code"], answer.json()["last_step"]) == (410, "session_closed", 2)


async def test_a_session_of_an_earlier_process_is_lost(client: httpx.AsyncClient, settings: Settings) -> None:
    """An id that this replica made before its restart is answered `session_lost`."""
    other = Service(settings)
    other.open()
    gone = other.sessions.create("public", other.repository.find("lstm"), 60).id
    other.close()
    answer = await client.post(f"/v1/sessions/{gone}/steps", json={"inputs": random_inputs(1).tolist()})
    assert (answer.status_code, answer.json()["code"], answer.json()["last_step"]) == (410, "session_lost", None)


async def test_a_full_table_refuses_new_sessions(client: httpx.AsyncClient, service: Service) -> None:
    """A session beyond the limit is refused at once with Retry-After, and the existing ones go on."""
    sessions = [await open_session(client) for _ in range(50)]
    answer = await client.post("/v1/models/lstm/sessions")
    assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (429, "table_full", 50)
    assert int(answer.headers["retry-after"]) >= 1
    await asyncio.gather(*(step(client, session, random_inputs(1)) for session in sessions))
    await client.delete(f"/v1/sessions/{sessions[0]}")
    await open_session(client)


async def test_a_reused_row_starts_from_the_initial_state(
    client: httpx.AsyncClient, service: Service, networks: dict[str, Network]
) -> None:
    """A session that gets the row of an ended one starts from the initial state."""
    inputs = random_inputs(4)
    for _ in range(3):
        session = await open_session(client)
        body = await step(client, session, inputs)
        np.testing.assert_allclose(np.array(body["outputs"]), offline(networks["lstm"], inputs), atol=1e-5)
        await client.delete(f"/v1/sessions/{session}")
    assert service.repository.find("lstm").arena.slots.leased == 0


async def test_models_are_listed_and_described(client: httpx.AsyncClient, service: Service) -> None:
    """The list contains every model, and a description has the card and how the model is run."""
    names = [model["name"] for model in (await client.get("/v1/models")).json()["models"]]
    assert names == sorted(service.repository.models)
    described = (await client.get("/v1/models/lstm")).json()
    assert described["card"]["cell"] == "lstm"
    assert described["engine"]["runs_on"] in ("loop", "thread")
    assert described["state_bytes"] == 4 * 8 * 4


async def test_health_and_metrics(client: httpx.AsyncClient, service: Service) -> None:
    """The probes answer, and the metrics count steps without naming a session."""
    assert (await client.get("/livez")).json() == {"status": "live"}
    assert (await client.get("/readyz")).status_code == 200
    session = await open_session(client)
    await step(client, session, random_inputs(5))
    text = (await client.get("/metrics")).text
    assert 'cellstream_steps_total{model="lstm",version="1"} 5.0' in text
    assert session not in text
    service.status = "starting"
    assert (await client.get("/readyz")).status_code == 503


async def test_every_response_has_the_request_id(client: httpx.AsyncClient) -> None:
    """A client's request id is returned, and a request without one gets a new one."""
    answer = await client.get("/v1/models/none", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    made = [(await client.get("/v1/models")).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]


async def test_the_api_is_documented(client: httpx.AsyncClient) -> None:
    """The OpenAPI document describes the step with examples, and /docs is served."""
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/sessions/{session_id}/steps"]["post"]
    assert "examples" in str(operation["requestBody"])
    assert (await client.get("/docs")).status_code == 200
