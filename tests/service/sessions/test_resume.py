"""A session outlives its sockets: it can be resumed, taken over, and continued where the service says on its stop."""

import json
import struct
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import create_connection

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from models.network import Network
from tests.service.conftest import RunningServer, offline, random_inputs

HEAD = struct.Struct("<QII")


def stream(server: RunningServer, path: str) -> ClientConnection:
    return connect(f"{server.url.replace('http', 'ws')}/v1/{path}")


def session_of(socket: ClientConnection) -> str:
    assert socket.response is not None
    return str(socket.response.headers["x-session-id"])


def closed_with(socket: ClientConnection) -> tuple[int, str]:
    """Read a socket until the server closes it, and return the code and the reason."""
    with suppress(ConnectionClosed):
        for _ in socket:
            pass
    assert socket.close_code is not None
    return socket.close_code, socket.close_reason or ""


def framed(inputs: np.ndarray, number: int = 0, flags: int = 0, size: int | None = None) -> bytes:
    raw = inputs.astype("<f4").tobytes()
    return HEAD.pack(number, flags, len(raw) if size is None else size) + raw


def test_an_interrupted_stream_is_continued(server: RunningServer, networks: dict[str, Network]) -> None:
    """A new socket continues at the step after the last one, which its handshake states."""
    inputs = random_inputs(6)
    expected = offline(networks["lstm"], inputs)
    with stream(server, "models/lstm/stream") as first:
        session = session_of(first)
        first.send(json.dumps({"inputs": inputs[:4].tolist(), "step": 1}))
        first.recv()
        first.socket.close()
    with stream(server, f"sessions/{session}/stream?takeover=1") as second:
        assert second.response is not None
        assert second.response.headers["x-step"] == "4"
        second.send(json.dumps({"inputs": inputs[:4].tolist(), "step": 1}))
        assert json.loads(second.recv())["replayed"] is True
        second.send(json.dumps({"inputs": inputs[4:].tolist(), "step": 5}))
        answer = json.loads(second.recv())
        assert (answer["step"], answer["replayed"]) == (6, False)
        np.testing.assert_allclose(answer["outputs"], expected[4:], atol=1e-5)


def test_framed_messages_carry_step_numbers(server: RunningServer, networks: dict[str, Network]) -> None:
    """A framed answer has the last step and the replay flag in its head, and errors are JSON text frames."""
    inputs = random_inputs(3)
    expected = offline(networks["lstm"], inputs)
    with stream(server, "models/lstm/stream?format=framed") as socket:
        for flags in (0, 1):  # the second time it is a replay
            socket.send(framed(inputs[:2], 1))
            answer = socket.recv()
            assert isinstance(answer, bytes)
            assert HEAD.unpack_from(answer) == (2, flags, 16)
            np.testing.assert_allclose(np.frombuffer(answer[16:], "<f4").reshape(2, 2), expected[:2], atol=1e-5)
        for frame, code in (
            (framed(inputs[1:], 1), "step_conflict"),
            (framed(inputs[:1], 9), "step_gap"),
            (framed(inputs[:1], 3, flags=1), "invalid_input"),
            (framed(inputs[:1], 3, size=11), "invalid_input"),
            (framed(inputs[:1], 2**64 - 1), "invalid_input"),
            (b"short", "invalid_input"),
            ("text", "invalid_input"),
        ):
            socket.send(frame)
            answer = socket.recv()
            assert isinstance(answer, str)
            assert json.loads(answer)["code"] == code
        socket.send(framed(inputs[2:]))
        answer = socket.recv()
        assert isinstance(answer, bytes)
        assert HEAD.unpack_from(answer) == (3, 0, 8)
        np.testing.assert_allclose(np.frombuffer(answer[16:], "<f4"), expected[2], atol=1e-5)


def test_one_socket_at_a_time(server: RunningServer) -> None:
    """A second socket of a session is refused while the first is open, and accepted afterwards."""
    with stream(server, "models/lstm/stream") as first:
        session = session_of(first)
        with pytest.raises(InvalidStatus) as refused, stream(server, f"sessions/{session}/stream"):
            pass
        assert refused.value.response.status_code == 409
        assert json.loads(refused.value.response.body or b"")["code"] == "stream_taken"
        first.send('{"inputs":[[1,2,3]]}')
        assert json.loads(first.recv())["step"] == 1
    for _ in range(100):  # until the server has seen that the first one is closed
        try:
            with stream(server, f"sessions/{session}/stream") as second:
                second.send('{"inputs":[[1,2,3]]}')
                assert json.loads(second.recv())["step"] == 2
                break
        except InvalidStatus:
            time.sleep(0.01)
    else:
        raise AssertionError("the first socket was never released")


def test_a_stream_is_taken_over(server: RunningServer) -> None:
    """A takeover closes the first socket with 4409, and the second one continues the session."""
    with stream(server, "models/lstm/stream") as first:
        session = session_of(first)
        first.send('{"inputs":[[1,2,3]]}')
        assert json.loads(first.recv())["step"] == 1
        with stream(server, f"sessions/{session}/stream?takeover=1") as second:
            assert closed_with(first) == (4409, "stream_taken")
            second.send('{"inputs":[[1,2,3]],"step":2}')
            assert json.loads(second.recv())["step"] == 2


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("sessions/r0-none-0/stream", 404, "session_not_found"),
        ("sessions/r0-none-0/stream?takeover=2", 422, "invalid_input"),
        ("sessions/r0-none-0/stream?format=xml", 422, "invalid_input"),
        ("models/lstm/stream?takeover=1", 422, "invalid_input"),
    ],
)
def test_an_invalid_handshake_is_refused(server: RunningServer, path: str, status: int, code: str) -> None:
    """A handshake that cannot be accepted is answered with the status and code of its error."""
    with pytest.raises(InvalidStatus) as refused, stream(server, path):
        pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["code"] == code


@pytest.mark.alone
def test_a_stopping_service_says_where_to_resume(artifacts: Path) -> None:
    """On SIGTERM running frames are answered, and each socket is closed with 1012 and the step to resume at."""
    server = RunningServer(artifacts, "--grace", "5")
    with ExitStack() as stack:
        sockets = [stack.enter_context(stream(server, "models/lstm/stream")) for _ in range(4)]
        for number, socket in enumerate(sockets):
            for _ in range(number):
                socket.send('{"inputs":[[1,2,3]]}')
                socket.recv()
        busy = sockets[0]
        busy.send(json.dumps({"inputs": random_inputs(1000).tolist()}))
        server.process.terminate()
        assert closed_with(busy) in ((1012, "1001"), (1012, "1"))  # the frame was taken whole, or not at all
        for number, socket in enumerate(sockets[1:], start=1):
            assert closed_with(socket) == (1012, str(number + 1))
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 5


@pytest.mark.slow
@pytest.mark.alone
def test_a_client_that_does_not_close_delays_no_stop(artifacts: Path) -> None:
    """The service stops although a client does not close its socket, and does not wait for idle connections."""
    server = RunningServer(artifacts, "--grace", "10")
    host, port = server.url.removeprefix("http://").split(":")
    with httpx.Client(base_url=server.url) as client, create_connection((host, int(port))) as not_reading:
        client.get("/readyz")
        not_reading.sendall(
            b"GET /v1/models/lstm/stream HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 101 " in not_reading.recv(4096)
        start = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - start < 6


@pytest.mark.slow
@pytest.mark.alone
def test_a_client_that_does_not_read_delays_no_other(artifacts: Path) -> None:
    """A client that does not read delays neither a takeover of its session nor the closing of other sockets."""
    server = RunningServer(artifacts, "--grace", "6", "--frame-size", "1MiB")
    host, port = server.url.removeprefix("http://").split(":")
    with create_connection((host, int(port))) as not_reading, ExitStack() as stack:
        not_reading.sendall(
            b"GET /v1/models/lstm/stream?format=binary HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n"
            b"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        head = not_reading.recv(4096)
        session = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"x-session-id"))
        not_reading.settimeout(0.5)
        payload = bytes(1000 * 12)
        frame = b"\x82\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload
        with suppress(TimeoutError):
            for _ in range(5000):  # until neither side's buffers take any more
                not_reading.sendall(frame)
        others = [stack.enter_context(stream(server, "models/lstm/stream")) for _ in range(3)]
        path = f"sessions/{session.decode()}/stream?takeover=1"
        second = stack.enter_context(stream(server, path))
        second.send('{"inputs":[[1,2,3]]}')
        assert json.loads(second.recv(timeout=10))["replayed"] is False
        start = time.monotonic()
        server.process.terminate()
        for other in others:
            assert closed_with(other) == (1012, "1")
        assert time.monotonic() - start < 2
        assert server.stop() == 0
