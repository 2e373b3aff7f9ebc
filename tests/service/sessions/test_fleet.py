"""A fleet step advances many sessions in one request, and each row has its own outputs or its own error."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.network import Network
from service.app import Service
from service.engine.batcher import Batcher
from service.engine.chunk import Chunk
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import FEATURES, offline, random_inputs

Send = Callable[..., Any]


@pytest.fixture(params=["fast path", "routes"])
def settings(request: pytest.FixtureRequest, artifacts: Path) -> Settings:
    return Settings(artifacts=artifacts, max_sessions=50, fast_path=request.param == "fast path")


def framed(names: list[str], inputs: np.ndarray, head: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the content and headers of a framed request; `head` overrides parts of its head."""
    raw = inputs.astype("<f4").tobytes()
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": list(inputs.shape),
        "parameters": {"binary_data_size": len(raw)},
    }
    text = json.dumps({"sessions": names, "inputs": [tensor], **(head or {})}).encode()
    return {"content": text + raw, "headers": {"Inference-Header-Content-Length": str(len(text))}}


def unframed(answer: httpx.Response) -> tuple[dict[str, Any], np.ndarray]:
    """Return the head and the tensor of a framed answer."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    head: dict[str, Any] = json.loads(answer.content[:length])
    return head, np.frombuffer(answer.content[length:], "<f4").reshape(head["outputs"][0]["shape"])


async def advance(client: httpx.AsyncClient, form: str, names: list[str], inputs: np.ndarray, create: bool) -> Any:
    """Send a fleet step in JSON or framed; return its outputs, and what the answer says besides."""
    path = "/v1/models/lstm/fleet"
    if form == "json":
        body = {"sessions": names, "inputs": inputs.tolist(), "create": create}
        answer = (await client.post(path, json=body)).json()
        return [None if row is None else np.array(row) for row in answer["outputs"]], answer
    head, tensor = unframed(await client.post(path, **framed(names, inputs, {"create": create})))
    return [None if step is None else row for row, step in zip(tensor, head["steps"], strict=True)], head


@pytest.mark.parametrize("form", ["json", "framed"])
@pytest.mark.parametrize("rows", [1, 3, 40])
async def test_rows_equal_the_offline_run(
    client: httpx.AsyncClient, networks: dict[str, Network], form: str, rows: int
) -> None:
    """Fleets of any size, opened by name and advanced by chunks of several lengths, equal the offline run."""
    names = [f"unit {n}" for n in range(rows)]
    sequences = np.stack([random_inputs(9, seed) for seed in range(rows)])
    got, at = [], 0
    for length in (1, 3, 5):
        outputs, notes = await advance(client, form, names, sequences[:, at : at + length], create=at == 0)
        assert notes["created"] == (list(range(rows)) if at == 0 else [])
        assert notes["errors"] == []
        at += length
        assert notes["steps"] == [at] * rows
        got.append(np.stack(outputs))
    for row, inputs in zip(np.concatenate(got, axis=1), sequences, strict=True):
        np.testing.assert_allclose(row, offline(networks["lstm"], inputs), atol=1e-5)


@pytest.mark.parametrize("form", ["json", "framed"])
async def test_a_row_fails_alone(
    client: httpx.AsyncClient, service: Service, networks: dict[str, Network], form: str
) -> None:
    """Rows of unknown or ended sessions are listed with their error, and the others are advanced."""
    model = service.repository.find("lstm")
    names = [service.sessions.create("public", model, 900).id for _ in range(10)]
    ended = service.sessions.find(names[4], "public")
    service.sessions.close(ended)
    names[7] = "nobody"
    inputs = np.stack([random_inputs(2, seed) for seed in range(10)])
    outputs, notes = await advance(client, form, names, inputs, create=False)
    assert [(e["row"], e["code"]) for e in notes["errors"]] == [(4, "session_closed"), (7, "session_not_found")]
    for row in range(10):
        if row in (4, 7):
            assert outputs[row] is None
            assert notes["steps"][row] is None
        else:
            np.testing.assert_allclose(outputs[row], offline(networks["lstm"], inputs[row]), atol=1e-5)


async def test_failed_rows_are_nan(client: httpx.AsyncClient) -> None:
    """A row that was not taken is NaN in a framed answer, and not zero."""
    answer = await client.post("/v1/models/lstm/fleet", **framed(["a", "b"], np.ones((2, 1, FEATURES))))
    head, tensor = unframed(answer)
    assert np.isnan(tensor).all()
    assert len(head["errors"]) == 2


async def test_rows_that_overflow_are_refused_alone(client: httpx.AsyncClient) -> None:
    """A row whose state would not be finite is refused, and the others are advanced."""
    names = [f"n{row}" for row in range(12)]
    inputs = np.full((12, 1, FEATURES), 0.1)
    inputs[5] = 3e38
    body = {"sessions": names, "inputs": inputs.tolist(), "create": True}
    answer = (await client.post("/v1/models/explosive/fleet", json=body)).json()
    assert [(e["row"], e["code"]) for e in answer["errors"]] == [(5, "state_not_finite")]
    assert answer["steps"] == [None if row == 5 else 1 for row in range(12)]
    assert answer["created"] == [row for row in range(12) if row != 5]


async def test_rows_may_differ_in_length_and_repeat_a_session(
    client: httpx.AsyncClient, networks: dict[str, Network]
) -> None:
    """Rows may differ in length and may repeat a session, whose rows are then run in order."""
    inputs = random_inputs(9)
    body = {
        "sessions": ["a", "b", "a"],
        "inputs": [x.tolist() for x in (inputs[:4], inputs, inputs[4:])],
        "create": True,
    }
    answer = (await client.post("/v1/models/lstm/fleet", json=body)).json()
    expected = offline(networks["lstm"], inputs)
    assert answer["steps"] == [4, 9, 9]
    assert answer["created"] == [0, 1]
    for outputs, part in zip(answer["outputs"], (expected[:4], expected, expected[4:]), strict=True):
        np.testing.assert_allclose(np.array(outputs), part, atol=1e-5)


async def test_steps_behind_a_fleet_step_are_taken_after_it(
    client: httpx.AsyncClient, service: Service, networks: dict[str, Network]
) -> None:
    """Steps that arrive while a fleet step waits are taken after it."""
    model = service.repository.find("lstm")
    sessions = [service.sessions.create("public", model, 900) for _ in range(20)]
    inputs = random_inputs(3)
    fleet = {"sessions": [s.id for s in sessions], "inputs": [[inputs[0].tolist()]] * 20}
    first = asyncio.create_task(client.post("/v1/models/lstm/fleet", json=fleet))
    await asyncio.sleep(0)
    single = [
        client.post(f"/v1/sessions/{s.id}/steps", json={"inputs": [inputs[t].tolist()]})
        for s in sessions
        for t in (1, 2)
    ]
    answers = await asyncio.gather(first, *single)
    steps = [answer.json()["step"] for answer in answers[1:]]
    assert sorted(steps) == sorted([2, 3] * 20)
    assert all(session.step == 3 and session.waiting is None for session in sessions)
    final = np.array([answers[2 + 2 * n].json()["outputs"][0] for n in range(20)])
    np.testing.assert_allclose(final, np.tile(offline(networks["lstm"], inputs)[2], (20, 1)), atol=1e-5)


async def test_names_belong_to_a_model_and_end_with_their_session(
    client: httpx.AsyncClient, service: Service, clock: FakeClock
) -> None:
    """A name belongs to one model, and can be used for a new session when the old one has expired."""
    for model in ("lstm", "rnn-tanh"):
        body = {"sessions": ["x"], "inputs": [[[0, 0, 0]]], "create": True}
        assert (await client.post(f"/v1/models/{model}/fleet", json=body)).json()["created"] == [0]
    clock.advance(901)
    service.sessions.sweep()
    body = {"sessions": ["x"], "inputs": [[[0, 0, 0]]]}
    assert (await client.post("/v1/models/lstm/fleet", json=body)).json()["errors"][0]["code"] == "session_expired"
    again = (await client.post("/v1/models/lstm/fleet", json={**body, "create": True})).json()
    assert (again["created"], again["steps"]) == ([0], [1])


async def test_rows_beyond_the_tables_limit_are_refused(client: httpx.AsyncClient) -> None:
    """Rows beyond the table's limit are refused, and those within it are opened."""
    body = {"sessions": [f"n{n}" for n in range(60)], "inputs": [[[0, 0, 0]]] * 60, "create": True}
    answer = (await client.post("/v1/models/lstm/fleet", json=body)).json()
    assert len(answer["created"]) == 50
    assert {error["code"] for error in answer["errors"]} == {"table_full"}


async def test_ids_cannot_be_chosen_as_names(client: httpx.AsyncClient, service: Service) -> None:
    """A name that looks like a session id is never opened."""
    key = "r0-abcd-" + "0" * 22
    body = {"sessions": [key], "inputs": [[[0, 0, 0]]], "create": True}
    answer = (await client.post("/v1/models/lstm/fleet", json=body)).json()
    assert answer["created"] == []
    assert answer["errors"][0]["code"] == "session_lost"


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'{"sessions":[],"inputs":[]}',
        b'{"sessions":["a"],"inputs":[]}',
        b'{"sessions":"a","inputs":[[[1,2,3]]]}',
        b'{"sessions":[1],"inputs":[[[1,2,3]]]}',
        b'{"sessions":[""],"inputs":[[[1,2,3]]]}',
        b'{"sessions":["a"],"inputs":[[[1,2]]]}',
        b'{"sessions":["a"],"inputs":[[[1,2,1e39]]]}',
        b'{"sessions":["a"],"inputs":[[[1,2,3]]],"create":1}',
        b'{"sessions":["a"],"inputs":[[[1,2,3]]],"more":1}',
        b'{"sessions":["' + b"a" * 129 + b'"],"inputs":[[[1,2,3]]]}',
    ],
)
async def test_bad_fleets_are_refused_whole(client: httpx.AsyncClient, service: Service, body: bytes) -> None:
    """An invalid fleet request is refused as a whole, and opens no session."""
    answer = await client.post("/v1/models/lstm/fleet", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), answer.text
    assert len(service.sessions) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": []},
        {"inputs": [1]},
        {"inputs": [{"name": "z"}]},
        {"inputs": [{"name": "x", "shape": [2, 1, 3], "datatype": "FP32"}]},
        {"inputs": [{"name": "x", "shape": [2, 1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 24}}]},
        {"inputs": [{"name": "x", "shape": [2, -1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}}]},
        {"inputs": [{"name": "x", "shape": [2, 1, 3], "datatype": "FP16", "parameters": {"binary_data_size": 24}}]},
        {"inputs": [{"name": "x", "shape": [2, 1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 25}}]},
        {"sessions": ["a"]},
    ],
)
async def test_bad_frames_are_refused(client: httpx.AsyncClient, change: dict[str, Any]) -> None:
    """A framed request whose shape, datatype or size does not match its bytes is refused."""
    request = framed(["a", "b"], np.zeros((2, 1, FEATURES)), change)
    answer = await client.post("/v1/models/lstm/fleet", **request)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), answer.text


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "1e3", ""])
async def test_a_wrong_head_length_is_refused(client: httpx.AsyncClient, length: str) -> None:
    """A head length that is no number within the body is refused."""
    request = framed(["a"], np.zeros((1, 1, FEATURES)))
    request["headers"] = {"Inference-Header-Content-Length": length}
    assert (await client.post("/v1/models/lstm/fleet", **request)).status_code == 422


async def test_framed_nan_is_refused(client: httpx.AsyncClient) -> None:
    """A framed request with NaN is refused."""
    request = framed(["a"], np.full((1, 1, FEATURES), np.nan), {"create": True})
    assert (await client.post("/v1/models/lstm/fleet", **request)).status_code == 422


async def test_one_session_does_not_fill_the_queue(client: httpx.AsyncClient) -> None:
    """Rows of one session beyond the limit of its queue are refused."""
    body = {"sessions": ["a"] * 100, "inputs": [[[0, 0, 0]]] * 100, "create": True}
    answer = (await client.post("/v1/models/lstm/fleet", json=body)).json()
    assert answer["steps"][:64] == list(range(1, 65))
    assert {error["code"] for error in answer["errors"]} == {"session_busy"}
    assert len(answer["errors"]) == 36


async def test_a_fleet_of_busy_sessions_is_answered(client: httpx.AsyncClient, service: Service) -> None:
    """A fleet request whose rows are all refused is answered at once."""
    session = service.sessions.create("public", service.repository.find("lstm"), 900)
    session.waiting = deque([Chunk(session, (bytes(12),), 1)] * 64)
    body = {"sessions": [session.id, session.id], "inputs": [[[0, 0, 0]]] * 2}
    answer = await asyncio.wait_for(client.post("/v1/models/lstm/fleet", json=body), 5)
    assert [error["code"] for error in answer.json()["errors"]] == ["session_busy"] * 2
    assert service.repository.find("lstm").batcher.waiting == 0


async def test_a_fleet_that_is_refused_opens_no_session(client: httpx.AsyncClient, service: Service) -> None:
    """Where no row is taken, the sessions that the request would have created are not there, nor their names."""
    batcher = service.repository.find("lstm").batcher
    body = {"sessions": ["a", "b"], "inputs": [[[0, 0, 0]]] * 2, "create": True}
    limit, batcher._queue_limit = batcher._queue_limit, 0
    answer = await client.post("/v1/models/lstm/fleet", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
    assert len(service.sessions) == 0
    assert service.repository.find("lstm").promised == 0
    batcher._queue_limit = limit
    answer = await client.post("/v1/models/lstm/fleet", json=body)
    assert (answer.json()["created"], answer.json()["steps"]) == ([0, 1], [1, 1])


@pytest.mark.parametrize("lengths", [(1, 1), (1, 2)], ids=["together", "one by one"])
@pytest.mark.parametrize("code", ["deadline_exceeded", "engine_failed"])
async def test_rows_that_are_not_run_open_no_session(
    client: httpx.AsyncClient,
    service: Service,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    lengths: tuple[int, int],
    code: str,
) -> None:
    """Where the engine fails, or the deadline passes, the sessions that the request opened are closed again."""
    model = service.repository.find("lstm")
    inputs = [[[0.0] * FEATURES] * length for length in lengths]
    body = {"sessions": ["a", "b"], "inputs": inputs, "create": True}
    with monkeypatch.context() as patch:
        if code == "engine_failed":
            patch.setattr(model.runner.session, "run_with_iobinding", None)
            answer = await client.post("/v1/models/lstm/fleet", json=body)
        else:

            def late_round() -> None:
                clock.advance(6)
                Batcher._round(model.batcher)

            patch.setattr(model.batcher, "_was_alone", False)
            patch.setattr(model.batcher, "_round", late_round)
            answer = await client.post("/v1/models/lstm/fleet", json=body)
    refused = answer.json()
    assert [error["code"] for error in refused["errors"]] == [code] * 2
    assert (refused["created"], refused["steps"]) == ([], [None, None])
    assert (len(service.sessions), model.promised) == (0, 0)
    taken = (await client.post("/v1/models/lstm/fleet", json=body)).json()
    assert (taken["created"], taken["steps"]) == ([0, 1], list(lengths))


async def test_a_row_with_a_wrong_number_opens_no_session(client: httpx.AsyncClient, service: Service) -> None:
    """A name whose first step has not the number 1 gets its error, and no session."""
    body = {"sessions": ["a", "b"], "steps": [2, 1], "inputs": [[[0.0] * FEATURES]] * 2, "create": True}
    answer = (await client.post("/v1/models/lstm/fleet", json=body)).json()
    assert ([error["code"] for error in answer["errors"]], answer["created"]) == (["step_gap"], [1])
    assert len(service.sessions) == 1


async def test_a_session_that_another_request_uses_stays(
    client: httpx.AsyncClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session whose first row was refused stays where a request under the same name waits for it meanwhile."""
    refused = {"sessions": ["a", "b"], "steps": [2, 1], "inputs": [[[0.0] * FEATURES]] * 2, "create": True}
    taken = {"sessions": ["a"], "inputs": [[[0.0] * FEATURES]], "create": True}
    monkeypatch.setattr(service.repository.find("lstm").batcher, "_was_alone", False)
    first, second = await asyncio.gather(
        client.post("/v1/models/lstm/fleet", json=refused), client.post("/v1/models/lstm/fleet", json=taken)
    )
    assert first.json()["created"] + second.json()["created"] in ([0, 1], [1, 0])
    assert second.json()["steps"] == [1]
    assert len(service.sessions) == 2
