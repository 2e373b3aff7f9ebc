"""The HTTP protocol: incomplete and pipelined requests, limits, identical responses, and an orderly stop."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.service.conftest import RunningServer


@pytest.fixture(scope="module")
def short_timeout_server(artifacts: Path) -> Iterator[RunningServer]:
    """Run a server that waits half a second for the rest of a request."""
    running = RunningServer(artifacts, "--request-timeout", "0.5")
    yield running
    assert running.stop() == 0


def send_and_read(server: RunningServer, data: bytes, seconds: float = 10) -> tuple[bytes, float]:
    """Send bytes, and read until the server closes; return what was received, and after how many seconds."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), seconds) as connection:
        start = time.monotonic()
        connection.sendall(data)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received, time.monotonic() - start


def code_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"]


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n",
        b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{",
        b"POST /v1/models/lstm/sessions HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n",
        b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost",
        b"G",
    ],
)
def test_an_incomplete_request_is_answered_408(short_timeout_server: RunningServer, data: bytes) -> None:
    """A request whose head or body stays incomplete is answered 408, and the connection is closed."""
    answer, seconds = send_and_read(short_timeout_server, data)
    assert code_of(answer) == (408, "request_timeout")
    assert seconds > 0.4


def pipelined(server: RunningServer, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send parts with a pause between them; return all that was received until the server closed."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def long_predict(steps: int = 60_000) -> bytes:
    body = b'{"inputs":[[' + b",".join([b"[1,2,3]"] * steps) + b"]]}"
    return b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    "second", [b"POST /v1/models/lstm/predict HTT", b"garbage\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 90_000]
)
def test_an_error_of_a_second_request_does_not_replace_the_first_response(
    short_timeout_server: RunningServer, second: bytes
) -> None:
    """An error in a pipelined second request is never sent in place of the first request's response."""
    answer = pipelined(short_timeout_server, long_predict() + second)
    if answer:
        assert answer.startswith(b"HTTP/1.1 200 OK")


def test_a_waiting_pipelined_request_does_not_time_out(short_timeout_server: RunningServer) -> None:
    """The request timeout does not run for a pipelined request while the one before it is being answered."""
    body = b'{"inputs":[[[1,2,3]]]}'
    head = b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    answer = pipelined(short_timeout_server, long_predict(), head, body, pause=0.05)
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_an_open_stream_does_not_time_out(short_timeout_server: RunningServer) -> None:
    """The request timeout does not close an open WebSocket."""
    with connect(short_timeout_server.url.replace("http", "ws") + "/v1/models/lstm/stream") as stream:
        for step in (1, 2):
            stream.send('{"inputs":[[1,2,3]]}')
            assert json.loads(stream.recv())["step"] == step
            time.sleep(0.8)


def test_requests_of_a_client_that_does_not_read_wait(server: RunningServer) -> None:
    """Pipelined requests of a client that does not read wait; once it reads, it gets every response."""
    host, port = server.url.removeprefix("http://").split(":")

    def served() -> float:
        text = httpx.get(f"{server.url}/metrics").text
        lines = [line for line in text.splitlines() if 'operation="predict",status="200"' in line]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0

    request, count = long_predict(3000), 300
    before = served()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.settimeout(1)
        sender = threading.Thread(target=connection.sendall, args=(request * count,))
        connection.settimeout(30)
        sender.start()
        time.sleep(2)
        taken = served() - before
        received, line, rest = 0, b"HTTP/1.1 200 OK", b""
        while received < count:
            rest += connection.recv(1 << 20)
            received += rest.count(line)
            rest = rest[-len(line) + 1 :]  # a status line may come in two parts
        sender.join()
    assert taken < count / 2


def test_a_head_over_the_limit_is_refused(server: RunningServer) -> None:
    """A request line and headers of more than 64 KiB are refused with 431."""
    answer, _ = send_and_read(server, b"GET /livez HTTP/1.1\r\n" + b"x: " + b"y" * 100_000)
    assert code_of(answer) == (431, "head_too_large")


def test_bytes_that_are_no_http_are_refused(server: RunningServer) -> None:
    """Bytes that are no HTTP request are answered 400 with the code `malformed_request`."""
    answer, _ = send_and_read(server, b"\x16\x03\x01 hello\r\n\r\n")
    assert code_of(answer) == (400, "malformed_request")


def test_a_compressed_body_is_refused(server: RunningServer) -> None:
    """A compressed body under /v1 is refused with 415."""
    answer = httpx.post(f"{server.url}/v1/models/lstm/predict", content=b"x", headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")


def test_pipelined_requests_are_answered_in_order(server: RunningServer) -> None:
    """Three requests in one segment, the last with `connection: close`, are answered in order, then it closes."""
    session = httpx.post(f"{server.url}/v1/models/lstm/sessions").json()["session_id"]
    body = b'{"inputs":[[1,2,3]]}'
    one = b"POST /v1/sessions/%b/steps HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n%b"
    parts = [one % (session.encode(), more, len(body), body) for more in (b"", b"", b"connection: close\r\n")]
    answer, _ = send_and_read(server, b"".join(parts))
    assert [int(part.split(b",")[0]) for part in answer.split(b'"step":')[1:]] == [1, 2, 3]
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.count(b"connection: close") == 1


def test_http_1_0_is_answered_and_closed(server: RunningServer) -> None:
    """An HTTP/1.0 request gets its whole response, and the connection is closed."""
    body = b'{"inputs":[[[1,2,3]]]}'
    answer, _ = send_and_read(
        server, b"POST /v1/models/lstm/predict HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'{"outputs":' in answer


def test_fast_path_and_routes_send_the_same_bytes(server: RunningServer, artifacts: Path) -> None:
    """With and without the fast path, status, headers and body are equal byte for byte, for errors too."""
    plain = RunningServer(artifacts, "--no-fast-path")
    try:
        answers = []
        for running in (server, plain):
            session = httpx.post(f"{running.url}/v1/models/lstm/sessions").json()["session_id"]
            got = []
            for path, body in (
                (f"/v1/sessions/{session}/steps", b'{"inputs":[[1,2,3],[4,5,6]]}'),
                (f"/v1/sessions/{session}/steps", b'{"inputs":[[1,2]]}'),
                (f"/v1/sessions/{session}/steps", b"{"),
                ("/v1/sessions/none/steps", b'{"inputs":[[1,2,3]]}'),
                ("/v1/models/lstm/predict", b'{"inputs":[[[1,2,3]],[[1,2,3],[0,0,0]]]}'),
                ("/v1/models/none/predict", b'{"inputs":[[[1,2,3]]]}'),
                ("/v1/models/lstm/predict", b" " * (17 << 20)),
                ("/v1/models/lstm/fleet", b'{"sessions":["%b"],"inputs":[[[1,2,3]]]}' % session.encode()),
                ("/v1/models/lstm/fleet", b'{"sessions":[],"inputs":[]}'),
            ):
                answer = httpx.post(running.url + path, content=body, headers={"x-request-id": "same"})
                head = sorted((key.lower(), value) for key, value in answer.headers.raw if key.lower() != b"date")
                got.append((answer.status_code, head, answer.content))
            answers.append(got)
        assert answers[0] == answers[1]
    finally:
        plain.stop()


def test_every_answer_has_a_request_id(server: RunningServer) -> None:
    """Every response has a request id, also one that no operation has given."""
    for method, path, status in (
        ("GET", "/nope", 404),
        ("PUT", "/v1/models", 405),
        ("GET", "/livez", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/v1/models/", 404),
    ):
        answer = httpx.request(method, server.url + path)
        assert answer.status_code == status, path
        assert answer.headers["x-request-id"]
        assert ("allow" in answer.headers) == (status == 405)


def test_a_socket_at_an_unknown_path_is_refused(server: RunningServer) -> None:
    """A WebSocket handshake at an unknown path is answered 404."""
    with pytest.raises(InvalidStatus) as refused, connect(server.url.replace("http", "ws") + "/v1/nowhere"):
        pass
    assert refused.value.response.status_code == 404


def test_streams_are_counted(artifacts: Path) -> None:
    """Metrics count handshakes and frames by status, and a refused handshake is not logged as an error."""
    running = RunningServer(artifacts)
    try:
        url = running.url.replace("http", "ws")
        with connect(f"{url}/v1/models/lstm/stream") as stream:
            for frame in ('{"inputs":[[1,2,3]]}', "{"):
                stream.send(frame)
                stream.recv()
        with pytest.raises(InvalidStatus), connect(f"{url}/v1/models/none/stream"):
            pass
        text = httpx.get(f"{running.url}/metrics").text
        for operation, status in (("frame", 200), ("frame", 400), ("stream", 101), ("stream", 404)):
            assert f'operation="{operation}",status="{status}"}} 1.0' in text
    finally:
        running.process.terminate()
        _, errors = running.process.communicate(timeout=20)
    assert '"level": "error"' not in errors


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_service_in_order(artifacts: Path, number: signal.Signals) -> None:
    """On SIGTERM and SIGINT running requests are answered, the exit status is 0, and no traceback is printed."""
    running = RunningServer(artifacts)
    body = '{"inputs":[' + ",".join(["[" + ",".join(["[1,2,3]"] * 60_000) + "]"]) + "]}"
    statuses = []
    client = threading.Thread(
        target=lambda: statuses.append(
            httpx.post(f"{running.url}/v1/models/lstm/predict", content=body, timeout=30).status_code
        )
    )
    client.start()
    time.sleep(0.15)
    running.process.send_signal(number)
    _, errors = running.process.communicate(timeout=30)
    client.join()
    assert statuses == [200]
    assert running.process.returncode == 0
    assert "Traceback" not in errors


def test_an_incomplete_request_does_not_delay_the_stop(artifacts: Path) -> None:
    """The service stops when the grace period is over, although a request is still incomplete."""
    running = RunningServer(artifacts, "--grace", "1")
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n")
        time.sleep(0.1)
        running.process.terminate()
        running.process.communicate(timeout=8)
    assert running.process.returncode == 0


def test_a_port_in_use_is_refused_in_one_line(server: RunningServer, artifacts: Path) -> None:
    """A port that is in use is refused in one line, with the exit status 2."""
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "-m", "service", "--artifacts", str(artifacts), "--port", port]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    assert "cannot listen on 127.0.0.1" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
