"""A WebSocket streams one session: each frame is a step body, and is answered by one frame."""

import json

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from models.network import Network
from tests.service.conftest import RunningServer, offline, random_inputs


def address(server: RunningServer, model: str = "lstm") -> str:
    return f"{server.url.replace('http', 'ws')}/v1/models/{model}/stream"


def test_frames_are_steps(server: RunningServer, networks: dict[str, Network]) -> None:
    """A stream's outputs equal the offline run for frames of any length, and the session remains afterwards."""
    inputs = random_inputs(10)
    expected = offline(networks["lstm"], inputs)
    with connect(address(server)) as stream:
        assert stream.response is not None
        session = stream.response.headers["x-session-id"]
        for start, stop in ((0, 1), (1, 5), (5, 6)):
            stream.send(json.dumps({"inputs": inputs[start:stop].tolist()}))
            answer = json.loads(stream.recv())
            assert answer["step"] == stop
            np.testing.assert_allclose(answer["outputs"], expected[start:stop], atol=1e-5)
    answer = httpx.post(f"{server.url}/v1/sessions/{session}/steps", json={"inputs": inputs[6:].tolist()}).json()
    np.testing.assert_allclose(answer["outputs"], expected[6:], atol=1e-5)


def test_pipelined_frames_are_answered_in_order(server: RunningServer, networks: dict[str, Network]) -> None:
    """Frames that are sent without waiting for the answers are answered in their order."""
    inputs = random_inputs(20)
    with connect(address(server)) as stream:
        for row in inputs:
            stream.send(json.dumps({"inputs": [row.tolist()]}))
        answers = [json.loads(stream.recv()) for _ in inputs]
    assert [answer["step"] for answer in answers] == list(range(1, 21))
    np.testing.assert_allclose(
        [answer["outputs"][0] for answer in answers], offline(networks["lstm"], inputs), atol=1e-5
    )


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", "malformed_json"),
        ("[]", "invalid_input"),
        ('{"inputs":[[1,2]]}', "invalid_input"),
        ('{"inputs":[]}', "invalid_input"),
        (b"\x00\x01", "malformed_json"),
        ('{"inputs":' + "[" * 9000, "malformed_json"),
    ],
)
def test_a_bad_frame_is_answered_and_the_stream_goes_on(server: RunningServer, frame: str | bytes, code: str) -> None:
    """An invalid frame is answered by a frame with its code, takes no step, and leaves the stream open."""
    with connect(address(server)) as stream:
        stream.send(frame)
        assert json.loads(stream.recv())["code"] == code
        stream.send('{"inputs":[[1,2,3]]}')
        assert json.loads(stream.recv())["step"] == 1


def test_a_frame_over_the_limit_closes_the_stream(server: RunningServer) -> None:
    """A message of more than 256 KiB closes the stream with 1009."""
    with connect(address(server)) as stream:
        stream.send('{"inputs":[' + " " * (300 << 10))
        with pytest.raises(ConnectionClosedError) as closed:
            stream.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_a_deleted_session_ends_its_stream(server: RunningServer) -> None:
    """The next frame after a deletion is answered `session_closed`, and the socket is closed with 4410."""
    with connect(address(server)) as stream:
        assert stream.response is not None
        httpx.delete(f"{server.url}/v1/sessions/{stream.response.headers['x-session-id']}")
        stream.send('{"inputs":[[1,2,3]]}')
        assert json.loads(stream.recv())["code"] == "session_closed"
        with pytest.raises(ConnectionClosedError) as closed:
            stream.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4410


def test_an_unknown_model_is_refused_in_the_handshake(server: RunningServer) -> None:
    """The stream of an unknown model is refused in the handshake with 404."""
    with pytest.raises(InvalidStatus) as refused, connect(address(server, "none")):
        pass
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body or b"")["code"] == "model_not_found"
