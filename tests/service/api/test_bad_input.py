"""Invalid requests get a 4xx with a code and change nothing, through the fast path and through the routes."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.network import Network
from service.app import Service
from service.settings import Settings
from tests.service.conftest import offline, random_inputs

GOOD = b"[0.5,1,-2]"

BAD_STEPS: dict[str, tuple[bytes, int, str]] = {
    "no body": (b"", 400, "malformed_json"),
    "no JSON": (b'{"inputs":[[1,2,3]]', 400, "malformed_json"),
    "no UTF-8": (b'{"inputs":"\xff"}', 400, "malformed_json"),
    "NaN": (b'{"inputs":[[1,NaN,3]]}', 400, "malformed_json"),
    "infinity": (b'{"inputs":[[1,Infinity,3]]}', 400, "malformed_json"),
    "beyond a double": (b'{"inputs":[[1,1e999,3]]}', 400, "malformed_json"),
    "deep": (b'{"inputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400, "malformed_json"),
    "more arrays than a body may hold": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422, "invalid_input"),
    "beyond a float32": (b'{"inputs":[[1,1e39,3]]}', 422, "invalid_input"),
    "no object": (b"[[1,2,3]]", 422, "invalid_input"),
    "no inputs": (b'{"x":[[1,2,3]]}', 422, "invalid_input"),
    "another field": (b'{"inputs":[[1,2,3]],"reset":1}', 422, "invalid_input"),
    "null": (b'{"inputs":null}', 422, "invalid_input"),
    "no steps": (b'{"inputs":[]}', 422, "invalid_input"),
    "flat": (b'{"inputs":[1,2,3]}', 422, "invalid_input"),
    "too narrow": (b'{"inputs":[[1,2]]}', 422, "invalid_input"),
    "too wide": (b'{"inputs":[[1,2,3,4]]}', 422, "invalid_input"),
    "ragged": (b'{"inputs":[[1,2,3],[1,2]]}', 422, "invalid_input"),
    "too deep": (b'{"inputs":[[[1,2,3]]]}', 422, "invalid_input"),
    "a string": (b'{"inputs":[[1,"2",3]]}', 422, "invalid_input"),
    "three letters": (b'{"inputs":["abc"]}', 422, "invalid_input"),
    "an object": (b'{"inputs":[{"a":1,"b":2,"c":3}]}', 422, "invalid_input"),
    "a null": (b'{"inputs":[[1,null,3]]}', 422, "invalid_input"),
    "a boolean": (b'{"inputs":[[1,true,3]]}', 422, "invalid_input"),
    "too many steps": (b'{"inputs":[' + b",".join([GOOD] * 1025) + b"]}", 422, "invalid_input"),
    "too large": (b'{"inputs":[' + b" " * (1 << 20) + GOOD + b"]}", 413, "body_too_large"),
}

BAD_PREDICTIONS: dict[str, tuple[bytes, int, str]] = {
    "no sequences": (b'{"inputs":[]}', 422, "invalid_input"),
    "an empty sequence": (b'{"inputs":[[[1,2,3]],[]]}', 422, "invalid_input"),
    "one sequence alone": (b'{"inputs":[[1,2,3]]}', 422, "invalid_input"),
    "too many steps": (b'{"inputs":[[' + b",".join([GOOD] * 70_000) + b"]]}", 422, "invalid_input"),
    "too many steps together": (
        b'{"inputs":[' + b",".join([b"[" + b",".join([GOOD] * 33_000) + b"]"] * 2) + b"]}",
        422,
        "invalid_input",
    ),
}


@pytest.fixture(params=["fast path", "routes"])
def settings(request: pytest.FixtureRequest, artifacts: Path) -> Settings:
    return Settings(artifacts=artifacts, max_sessions=50, fast_path=request.param == "fast path")


@pytest.fixture
async def session(client: httpx.AsyncClient) -> str:
    """Return a session at step 2."""
    made = str((await client.post("/v1/models/lstm/sessions")).json()["session_id"])
    body = {"inputs": random_inputs(2).tolist()}
    assert (await client.post(f"/v1/sessions/{made}/steps", json=body)).status_code == 200
    return made


@pytest.mark.parametrize("case", BAD_STEPS)
async def test_a_bad_step_changes_nothing(
    client: httpx.AsyncClient, session: str, networks: dict[str, Network], service: Service, case: str
) -> None:
    """An invalid step is refused with its status and code, leaves the state as it is, and holds no slot."""
    body, status, code = BAD_STEPS[case]
    leased = service.repository.find("lstm").arena.slots.leased
    answer = await client.post(f"/v1/sessions/{session}/steps", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert service.repository.find("lstm").arena.slots.leased == leased
    inputs = random_inputs(3)
    good = await client.post(f"/v1/sessions/{session}/steps", json={"inputs": inputs[2:].tolist()})
    assert good.json()["step"] == 3
    np.testing.assert_allclose(np.array(good.json()["outputs"]), offline(networks["lstm"], inputs)[2:], atol=1e-5)


@pytest.mark.parametrize("case", BAD_PREDICTIONS)
async def test_a_bad_prediction_is_refused(client: httpx.AsyncClient, case: str) -> None:
    """A prediction that does not match the card, or exceeds a limit, is refused."""
    body, status, code = BAD_PREDICTIONS[case]
    answer = await client.post("/v1/models/lstm/predict", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


@pytest.mark.parametrize("ids", [[-1], [20], [1.5], ["3"], [[3]], [2**63]])
async def test_bad_token_ids_are_refused(client: httpx.AsyncClient, ids: list[object]) -> None:
    """A token id that is no integer of the vocabulary is refused before it is run with other sessions' steps."""
    made = (await client.post("/v1/models/tokens/sessions")).json()["session_id"]
    answer = await client.post(f"/v1/sessions/{made}/steps", json={"inputs": ids})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/v1/models/none/predict", b'{"inputs":[[[1,2,3]]]}', 404, "model_not_found"),
        ("POST", "/v1/models/none/sessions", b"", 404, "model_not_found"),
        ("GET", "/v1/models/none", b"", 404, "model_not_found"),
        ("GET", "/v1/sessions/none", b"", 404, "session_not_found"),
        ("DELETE", "/v1/sessions/none", b"", 404, "session_not_found"),
        ("POST", "/v1/sessions/none/steps", b'{"inputs":[[1,2,3]]}', 404, "session_not_found"),
        ("POST", "/v1/sessions/a/b/steps", b"", 404, "not_found"),
        ("POST", "/v1/models//predict", b"", 404, "not_found"),
        ("GET", "/v1/models/lstm/predict", b"", 405, "method_not_allowed"),
        ("POST", "/nowhere", b"", 404, "not_found"),
        ("POST", "/v1/models/lstm/sessions", b'{"idle_limit":-1}', 422, "invalid_input"),
        ("POST", "/v1/models/lstm/sessions", b'{"idle_limit":"9"}', 422, "invalid_input"),
        ("POST", "/v1/models/lstm/sessions", b'{"idle_limit":1e9}', 422, "invalid_input"),
        ("POST", "/v1/models/lstm/sessions", b'{"idle":9}', 422, "invalid_input"),
        ("POST", "/v1/models/lstm/sessions", b"[]", 422, "invalid_input"),
        ("POST", "/v1/models/lstm/sessions", b"{", 400, "malformed_json"),
        ("POST", "/v1/models/lstm/sessions", b" " * (17 << 20), 413, "body_too_large"),
    ],
)
async def test_other_bad_requests(
    client: httpx.AsyncClient, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    """Unknown names, wrong methods, invalid options and bodies that are too large have their own status and code."""
    answer = await client.request(method, path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


async def test_a_body_without_a_length_is_limited(client: httpx.AsyncClient, session: str) -> None:
    """The limit of a body also holds for a body without a content-length."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"inputs":['
        for _ in range(40):
            yield b" " * 32_768
        yield b"[1,2,3]]}"

    answer = await client.post(f"/v1/sessions/{session}/steps", content=pieces())
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_a_step_that_would_overflow_the_state_is_refused(client: httpx.AsyncClient, service: Service) -> None:
    """A step whose state or output would not be finite is refused with 422, and is not taken."""
    made = (await client.post("/v1/models/explosive/sessions")).json()["session_id"]
    huge = {"inputs": [[3.4e38, 3.4e38, 3.4e38]]}
    answer = await client.post(f"/v1/sessions/{made}/steps", json=huge)
    assert (answer.status_code, answer.json()["code"]) == (422, "state_not_finite")
    assert (await client.get(f"/v1/sessions/{made}")).json()["step"] == 0
    assert service.repository.find("explosive").arena.slots.leased == 0


@pytest.mark.parametrize("verb", ["predict", "sessions"])
@pytest.mark.parametrize(
    ("steps", "wrong", "message"),
    [
        (3000, [1, "2", 3], "[2999][1]: expected a finite float32, got a string"),
        (3000, [1, 2], "[2999]: expected an array of 3, got an array of 2"),
        (65_537, [1, 2, 3], ": expected at most 65536 steps, got 65537"),
        (400_000, [1, 2, 3], ": expected at most 1048576 numbers, got 1200000"),
    ],
)
async def test_a_long_sequence_is_refused_as_a_short_one(
    client: httpx.AsyncClient, verb: str, steps: int, wrong: list[object], message: str
) -> None:
    """What is wrong in a sequence that is decoded in parts is named by its place in the whole."""
    inputs = [[1, 2, 3]] * (steps - 1) + [wrong]
    body = {"inputs": [inputs]} if verb == "predict" else {"history": inputs}
    answer = await client.post(f"/v1/models/lstm/{verb}", json=body)
    where = "inputs[0]" if verb == "predict" else "history"
    assert (answer.status_code, answer.json()["message"]) == (422, where + message)
