"""Raw tensors can be sent instead of JSON: in steps, predictions and streams."""

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
    """A chunk of raw float32 is answered by raw float32, with the last step in the header x-step."""
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
    """A prediction of one raw sequence equals the offline run."""
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
    """A raw tensor of no whole steps, of too many steps, or with NaN or infinity is refused, and takes no step."""
    session = (await client.post("/v1/models/lstm/sessions")).json()["session_id"]
    answer = await client.post(f"/v1/sessions/{session}/steps", content=content, headers=OCTETS)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert (await client.get(f"/v1/sessions/{session}")).json()["step"] == 0


async def test_raw_token_ids_must_be_in_the_vocabulary(client: httpx.AsyncClient) -> None:
    """Token ids may be raw int64, and one outside the vocabulary is refused."""
    session = (await client.post("/v1/models/tokens/sessions")).json()["session_id"]
    path = f"/v1/sessions/{session}/steps"
    good = await client.post(path, content=np.array([3, 19], "<i8").tobytes(), headers=OCTETS)
    assert len(good.content) == 2 * 5 * 4
    bad = await client.post(path, content=np.array([3, 20], "<i8").tobytes(), headers=OCTETS)
    assert bad.status_code == 422


def test_binary_streams(server: RunningServer, networks: dict[str, Network]) -> None:
    """Binary frames are raw tensors in both directions; an error is a JSON text frame, and the stream goes on."""
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
    """An unknown format, or an unknown query parameter, is refused in the handshake with 422."""
    url = f"{server.url.replace('http', 'ws')}/v1/models/lstm/stream?{query}"
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert refused.value.response.status_code == 422
