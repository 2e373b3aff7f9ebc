"""Raw tensors go where JSON goes: single steps, predictions, streams."""

import json

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from models.network import Network
from tests.service.conftest import RunningServer, offline, random_inputs

OCTETS = {"content-type": "application/octet-stream"}


async def test_raw_steps_equal_json_steps(client: httpx.AsyncClient, networks: dict[str, Network]) -> None:
    """A chunk as raw float32 gives raw float32, and the step in a header."""
    inputs = random_inputs(7)
    session = (await client.post("/v1/models/lstm/sessions")).json()["session_id"]
    got = []
    for start, stop in ((0, 1), (1, 7)):
        content = inputs[start:stop].tobytes()
        answer = await client.post(f"/v1/sessions/{session}/steps", content=content, headers=OCTETS)
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-step"] == str(stop)
        got.append(np.frombuffer(answer.content, "<f4").reshape(-1, 2))
    np.testing.assert_allclose(np.concatenate(got), offline(networks["lstm"], inputs), atol=1e-5)


async def test_a_raw_prediction_equals_the_offline_run(client: httpx.AsyncClient, networks: dict[str, Network]) -> None:
    """One long sequence in, its outputs out."""
    inputs = random_inputs(500)
    answer = await client.post("/v1/models/lstm/predict", content=inputs.tobytes(), headers=OCTETS)
    got = np.frombuffer(answer.content, "<f4").reshape(-1, 2)
    np.testing.assert_allclose(got, offline(networks["lstm"], inputs), atol=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"123",
        b"\0" * 13,
        np.array([1, np.nan, 0], "<f4").tobytes(),
        np.array([1, np.inf, 0], "<f4").tobytes(),
        b"\0" * 12 * 1025,
    ],
)
async def test_bad_raw_steps_are_refused(client: httpx.AsyncClient, content: bytes) -> None:
    """Half a step, NaN or too many steps change nothing."""
    session = (await client.post("/v1/models/lstm/sessions")).json()["session_id"]
    answer = await client.post(f"/v1/sessions/{session}/steps", content=content, headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert (await client.get(f"/v1/sessions/{session}")).json()["step"] == 0


async def test_raw_token_ids_are_held_to_the_vocabulary(client: httpx.AsyncClient) -> None:
    """int64 ids come as eight bytes each."""
    session = (await client.post("/v1/models/tokens/sessions")).json()["session_id"]
    path = f"/v1/sessions/{session}/steps"
    good = await client.post(path, content=np.array([3, 19], "<i8").tobytes(), headers=OCTETS)
    assert len(good.content) == 2 * 5 * 4
    bad = await client.post(path, content=np.array([3, 20], "<i8").tobytes(), headers=OCTETS)
    assert bad.status_code == 422


def test_binary_streams(server: RunningServer, networks: dict[str, Network]) -> None:
    """Frames are raw tensors both ways; an error is a JSON text frame and the stream goes on."""
    inputs = random_inputs(6)
    expected = offline(networks["lstm"], inputs)
    url = server.url.replace("http", "ws") + "/v1/models/lstm/stream?format=binary"
    with connect(url) as stream:
        stream.send(inputs[:1].tobytes())
        np.testing.assert_allclose(np.frombuffer(stream.recv(decode=False), "<f4"), expected[0], atol=1e-5)
        stream.send(b"123")
        assert json.loads(stream.recv())["code"] == "invalid_input"
        stream.send("text")
        assert json.loads(stream.recv())["code"] == "invalid_input"
        stream.send(inputs[1:].tobytes())
        got = np.frombuffer(stream.recv(decode=False), "<f4").reshape(-1, 2)
        np.testing.assert_allclose(got, expected[1:], atol=1e-5)


@pytest.mark.parametrize("query", ["format=xml", "form=json"])
def test_a_wrong_format_is_refused_in_the_handshake(server: RunningServer, query: str) -> None:
    """What a stream does not understand, it does not ignore."""
    url = f"{server.url.replace('http', 'ws')}/v1/models/lstm/stream?{query}"
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert refused.value.response.status_code == 422
