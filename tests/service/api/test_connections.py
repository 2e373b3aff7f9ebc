"""Connections without a key: handshakes, upgrades, trailers, Host headers, too many connections, clients that stall."""

import base64
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.service.conftest import RunningServer

PREDICT = b'{"inputs":[[[1,2,3]]]}'
KEY = base64.b64encode(bytes(16))
MASK = bytes(4)


def handshake(*lines: bytes, method: bytes = b"GET", body: bytes = b"") -> bytes:
    standard = (b"host: a", b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13")
    head = (b"%b /v1/models/lstm/stream HTTP/1.1" % method, *standard, b"sec-websocket-key: " + KEY, *lines)
    return b"\r\n".join((*head, b"", body))


def post(path: bytes, body: bytes, *lines: bytes) -> bytes:
    head = (b"POST %b HTTP/1.1" % path, b"host: a", b"content-length: %d" % len(body), *lines)
    return b"\r\n".join((*head, b"", body))


def frame(opcode: int, payload: bytes = b"") -> bytes:
    """Return a client's short frame with a mask of zeros."""
    return bytes([opcode, 0x80 | len(payload)]) + MASK + payload


def connection(server: RunningServer, buffer: int = 0) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    made = socket.socket()
    if buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    made.settimeout(10)
    made.connect((host, int(port)))
    return made


def received(server: RunningServer, *parts: bytes, pause: float = 0.1, wait: float = 10) -> bytes:
    """Send parts with a pause between them; return all that comes until the server closes or `wait` seconds pass."""
    with closing(connection(server)) as client:
        answer = b""
        with suppress(OSError):
            for number, part in enumerate(parts):
                time.sleep(pause if number else 0)
                client.sendall(part)
            client.settimeout(wait)
            while some := client.recv(65536):
                answer += some
        return answer


def read_live(client: socket.socket) -> None:
    """Read the whole response to GET /livez."""
    answer = b""
    while not answer.endswith(b'{"status":"live"}'):
        part = client.recv(1000)
        assert part
        answer += part


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answer)]


def memory(server: RunningServer) -> float:
    """Return the server's resident memory in MiB."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS"))) / 1024


def sessions(server: RunningServer) -> int:
    return int(httpx.get(f"{server.url}/v1/models/lstm").json()["sessions"])


BAD_HANDSHAKES = {
    "a long header": (handshake(b"x: " + b"y" * 9000), 431),
    "many headers": (handshake(*(b"a%d: b" % n for n in range(200))), 431),
    "a long path": (handshake().replace(b"/stream", b"/stream?" + b"y" * 9000), 431),
    "a POST": (handshake(method=b"POST"), 400),
    "a POST with a body": (handshake(b"content-length: 2", method=b"POST", body=b"{}"), 400),
    "a body": (handshake(b"content-length: 2", body=b"{}"), 400),
    "a chunked body": (handshake(b"transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), 400),
    "a name that websockets refuses": (handshake(b"a|b~: c", b"x: \x80\xff"), 101),
    "no key": (handshake().replace(b"sec-websocket-key", b"x"), 400),
    "no host": (handshake().replace(b"host: a\r\n", b""), 400),
    "HTTP/1.0": (handshake().replace(b"HTTP/1.1", b"HTTP/1.0"), 404),
}


@pytest.mark.parametrize("kind", BAD_HANDSHAKES)
def test_a_bad_handshake_is_answered_and_closed(server: RunningServer, kind: str) -> None:
    """A request for a WebSocket that is no valid handshake is answered at once, and the connection is closed."""
    data, status = BAD_HANDSHAKES[kind]
    answer = received(server, data, wait=2)
    assert statuses(answer) == [status]


@pytest.mark.alone
def test_bad_handshakes_do_not_break_the_stop(artifacts: Path) -> None:
    """After bad handshakes, sockets that stay open or half closed, and one that does not read, the exit status is 0."""
    running = RunningServer(artifacts, "--grace", "8")
    stay = [connection(running) for _ in range(len(BAD_HANDSHAKES) + 3)]
    for client, (data, _) in zip(stay, BAD_HANDSHAKES.values(), strict=False):
        client.sendall(data)
    for client, rest in zip(stay[-3:], (b"", frame(0x88), frame(0x89) * 3 + b"\xff\xff"), strict=True):
        client.sendall(handshake() + rest)
    body = b'{"inputs":[[' + b",".join([b"[1,2,3]"] * 60_000) + b"]]}"
    stay[0].close()
    with closing(connection(running)) as client:
        client.sendall(post(b"/v1/models/lstm/predict", body))
        time.sleep(0.2)
        running.process.send_signal(signal.SIGTERM)
        client.settimeout(20)
        assert statuses(client.recv(1000)) == [200]
        while client.recv(1 << 20):
            pass
    _, errors = running.process.communicate(timeout=20)
    for client in stay:
        client.close()
    assert running.process.returncode == 0
    assert "Traceback" not in errors


@pytest.mark.parametrize("upgrade", [b"h2c", b"TLS/1.0", b"websocket, h2c", b"x"])
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_another_upgrade_is_ignored(server: RunningServer, upgrade: bytes, pause: float) -> None:
    """A request that asks for a protocol other than WebSocket is answered as if it did not; its body is its body."""
    lines = b"upgrade: " + upgrade, b"connection: upgrade, http2-settings", b"http2-settings: AAEAAEAA"
    body = json.dumps({"idle_limit": 55}).encode()
    request = post(b"/v1/models/lstm/sessions", body, *lines)
    live = b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    answer = received(server, request[: -len(body)], body + live, pause=pause)
    assert statuses(answer) == [201, 200]
    assert b'"idle_limit":55.0' in answer


def test_the_body_of_another_upgrade_is_no_request(server: RunningServer) -> None:
    """A request inside the body of a request that asks for h2c is not run, whether its length is told or chunked."""
    inner = b"POST /v1/models/lstm/sessions HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
    lines = b"connection: upgrade", b"upgrade: h2c"
    told = post(b"/v1/models/lstm/predict", inner, *lines)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner)
    in_chunks = told.replace(b"content-length: %d" % len(inner), b"transfer-encoding: chunked")
    in_chunks = in_chunks[: -len(inner)]
    before = sessions(server)
    assert statuses(received(server, told[: -len(inner)], inner, wait=1)) == [400]
    assert statuses(received(server, in_chunks, chunked, wait=1)) == [400]
    assert sessions(server) == before


def test_many_other_upgrades_in_one_segment(server: RunningServer) -> None:
    """Many pipelined requests that ask for h2c are answered one by one."""
    one = b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    answer = received(server, one * 300 + b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert statuses(answer) == [200] * 301


def test_connect_is_refused(server: RunningServer) -> None:
    """CONNECT is refused, and what follows it is no request."""
    answer = received(server, b"CONNECT /livez HTTP/1.1\r\nhost: a\r\n\r\nGET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
    assert statuses(answer) == [400]


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_trailers_are_dropped(server: RunningServer, pause: float) -> None:
    """Trailers of a chunked body are no headers of the request, whether they come in one segment with it or later."""
    head = (
        b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    rest = b"%x\r\n%b\r\n0\r\nx-request-id: trailer\r\nhost: b\r\n\r\n" % (len(PREDICT), PREDICT)
    answer = received(server, *((head, rest) if pause else (head + rest,)))
    assert statuses(answer) == [200]
    assert b"trailer" not in answer


@pytest.mark.parametrize("endless", [b"a:b\r\n" * 20_000, b"a" * 100_000, b"a: " + b"b" * 100_000])
@pytest.mark.parametrize("before", [b"0\r\n", b"1;"])
def test_endless_trailers_and_chunk_extensions_are_refused(
    server: RunningServer, endless: bytes, before: bytes
) -> None:
    """A chunked body of which only trailers or an extension come is refused with 431 (or 400), and fills no memory."""
    head = b"POST /v1/models/lstm/predict HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    start = memory(server)
    for parts in ([endless], [endless] * 50):
        answer = received(server, head + b"1\r\n{\r\n" + before, *parts, pause=0)
        assert statuses(answer) in ([431], [400], [])  # a reset connection may lose the answer
    assert memory(server) - start < 24


@pytest.mark.parametrize("hosts", [(), (b"host: a", b"host: a"), (b"host: a", b"Host: b")])
def test_a_missing_or_doubled_host_is_refused(server: RunningServer, hosts: tuple[bytes, ...]) -> None:
    """An HTTP/1.1 request without a Host header, or with two, is answered 400, also as the second on a connection."""
    bad = b"\r\n".join((b"GET /livez HTTP/1.1", *hosts, b"", b""))
    good = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
    assert statuses(received(server, bad)) == [400]
    assert statuses(received(server, good, bad)) == [200, 400]


def test_http_1_0_needs_no_host(server: RunningServer) -> None:
    """An HTTP/1.0 request may do without a Host header, but not have two."""
    assert statuses(received(server, b"GET /livez HTTP/1.0\r\n\r\n")) == [200]
    assert statuses(received(server, b"GET /livez HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n")) == [400]


@pytest.mark.parametrize("steps", [1, 3000])
def test_a_pipelined_handshake_waits(server: RunningServer, steps: int) -> None:
    """A handshake behind requests is answered after them; frames that came with it are answered then."""
    body = b'{"inputs":[[' + b",".join([b"[1,2,3]"] * steps) + b"]]}"
    frames = frame(0x81, b'{"inputs":[[1,2,3]]}')
    requests = post(b"/v1/models/lstm/predict", body) + post(b"/v1/models/lstm/predict", PREDICT)
    answer = received(server, requests + handshake() + frames, wait=1.5)
    assert statuses(answer) == [200, 200, 101]
    assert answer.index(b'"step":1') > answer.index(b"HTTP/1.1 101")


def test_a_bad_handshake_behind_a_request_waits_too(server: RunningServer) -> None:
    """A bad handshake behind a request is refused after the request has been answered."""
    answer = received(server, post(b"/v1/models/lstm/predict", PREDICT) + handshake(method=b"POST"))
    assert statuses(answer) == [200, 400]


def test_many_pipelined_requests_are_answered(server: RunningServer) -> None:
    """Far more pipelined requests than may wait at once are all answered, in large segments and in small ones."""
    one, last = (b"GET /livez HTTP/1.1\r\nhost: a\r\n%b\r\n" % line for line in (b"", b"connection: close\r\n"))
    assert statuses(received(server, one * 2000 + last)) == [200] * 2001
    assert statuses(received(server, *([one] * 40), last, pause=0)) == [200] * 41


def test_pipelined_frames_with_the_handshake_are_answered(server: RunningServer) -> None:
    """Frames that come with the handshake, in one segment, are answered in order, pings among them."""
    steps = [frame(0x81, b'{"inputs":[[1,2,3]],"step":%d}' % number) for number in range(1, 31)]
    answer = received(server, handshake() + b"".join(steps) + frame(0x89, b"ping"), wait=1.5)
    assert [int(number) for number in re.findall(rb'"step":(\d+)', answer)] == list(range(1, 31))
    assert answer.startswith(b"HTTP/1.1 101")
    assert b"\x8a\x04ping" in answer


def test_large_frames_and_fragments_arrive_whole(server: RunningServer) -> None:
    """A message of 200 KiB is read whole, in one frame and in a thousand fragments."""
    text = '{"inputs":[' + ",".join(["[1.00000000000001,2,3]"] * 1000) + "]}" + " " * 180_000
    with connect(server.url.replace("http", "ws") + "/v1/models/lstm/stream") as stream:
        stream.send(text)
        assert json.loads(stream.recv())["step"] == 1000
        size = len(text) // 1000
        stream.send(text[start : start + size] for start in range(0, len(text), size + 1))
        assert json.loads(stream.recv())["code"] == "malformed_json"  # a character is left out between two of them
        stream.send([text[:100], text[100:]])
        assert json.loads(stream.recv())["step"] == 2000


def test_a_message_in_too_many_fragments_is_refused(server: RunningServer) -> None:
    """A message of more than 1,024 fragments, empty ones too, closes the WebSocket with 1008."""
    answer = received(server, handshake() + frame(0x01) + frame(0x00) * 5000)
    assert b"\x03\xf0expected a message in at most 1024 frames" in answer


def test_pings_of_a_client_that_does_not_read_wait(server: RunningServer) -> None:
    """A client that sends pings and reads no pongs is not read any more; once it reads, it gets the pongs."""
    start, sent, one = memory(server), 0, frame(0x89, b"x" * 100)
    with closing(connection(server, 4096)) as client:
        client.sendall(handshake())
        client.settimeout(1)
        with suppress(TimeoutError):
            while sent < 60_000_000:
                sent += client.send(one * 1000)
        assert memory(server) - start < 16
        assert sent < 30_000_000
        client.settimeout(10)
        got = 0
        while got < 1_000_000:
            got += len(client.recv(1 << 20))


@pytest.mark.parametrize(
    "frames",
    [
        frame(0x81, b"\xff\xfe"),
        frame(0x81, b"\xff\xfe") + frame(0x88),
        frame(0x88) + frame(0x81, b"\xff\xfe"),
        frame(0x88, b"\x03\xe8") * 2,
        frame(0x83),
        frame(0x80, b"x"),
        frame(0x01, b"x") + frame(0x88),
        frame(0x01, b"x") + frame(0x81, b"y"),
        frame(0x89, b"x" * 125) + b"\x89\xff" + bytes(12),
        b"\x81\x01x",
        b"\xc1\x81" + MASK + b"x",
        b"\x81\xff\x7f" + b"\xff" * 7 + MASK,
        frame(0x88, b"\x03"),
        frame(0x88, b"\x00\x01"),
        frame(0x88, b"\x03\xe8\xff"),
    ],
)
def test_frames_that_are_none_leave_no_traceback(artifacts: Path, frames: bytes) -> None:
    """Invalid frames behind a step, whole or byte by byte, end the WebSocket without a traceback; a stop does too."""
    running = RunningServer(artifacts)
    step = frame(0x81, b'{"inputs":[[1,2,3]]}')
    for parts in ([handshake(), step + frames], [handshake() + step + frames]):
        received(running, *parts, wait=3)
    received(running, handshake(), step, *(frames[at : at + 1] for at in range(min(len(frames), 40))), pause=0, wait=3)
    stays = connection(running)
    stays.sendall(handshake() + step + frames)
    time.sleep(0.1)
    running.process.terminate()
    _, errors = running.process.communicate(timeout=20)
    stays.close()
    assert running.process.returncode == 0
    assert "Traceback" not in errors


@pytest.fixture
def small_server(artifacts: Path) -> Iterator[RunningServer]:
    """Run a server that takes four connections."""
    running = RunningServer(artifacts, "--max-connections", "4")
    yield running
    assert running.stop() == 0


def test_further_connections_are_refused(small_server: RunningServer) -> None:
    """A connection over the limit gets 503 and is closed, requests or not; one that ends makes room for another.

    Only health checks are answered, one on each connection.
    """
    live = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
    other = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
    held = [connection(small_server) for _ in range(4)]
    held[0].sendall(handshake())
    for client in held[1:]:
        client.sendall(live)
    assert b"HTTP/1.1 101" in held[0].recv(1000)
    for client in held[1:]:
        read_live(client)
    answer = received(small_server, other)
    assert statuses(answer) == [503]
    assert b"retry-after: 1" in answer
    assert b"too_many_connections" in answer
    for probe in (live, live.replace(b"livez", b"readyz")):
        answer = received(small_server, probe)
        assert statuses(answer) == [200]
        assert b"connection: close" in answer
    assert statuses(received(small_server, live + other)) in ([], [200])
    assert statuses(received(small_server, b"GET /livezz HTTP/1.1\r\nhost: a\r\n\r\n")) == [503]
    start = time.monotonic()
    assert received(small_server) == b""
    assert time.monotonic() - start < 5
    many = [connection(small_server) for _ in range(200)]
    assert many[-1].recv(1) == b""
    for client in (*many, held[0]):
        client.close()
    time.sleep(0.3)
    assert statuses(received(small_server, live, wait=1)) == [200]
    held[1].sendall(live)
    read_live(held[1])
    for client in held:
        client.close()


@pytest.mark.alone
def test_clients_that_do_not_read_do_not_hold_up_the_stop(artifacts: Path) -> None:
    """Clients that leave responses, frames or pongs unread are cut off long before the grace period ends."""
    running = RunningServer(artifacts, "--grace", "30")
    body = b'{"inputs":[[' + b",".join([b"[1,2,3]"] * 20_000) + b"]]}"
    step = frame(0x81, b'{"inputs":[[1,2,3]]}')
    clients = [connection(running, 4096) for _ in range(4)]
    for client, data in zip(
        clients,
        (
            post(b"/v1/models/lstm/predict", body) * 40,
            post(b"/v1/models/lstm/predict", body, b"connection: close"),
            handshake() + step * 60_000,
            handshake() + frame(0x89, b"x" * 100) * 60_000,
        ),
        strict=True,
    ):
        client.settimeout(1.5)
        with suppress(TimeoutError):
            client.sendall(data)
    start = time.monotonic()
    running.process.terminate()
    _, errors = running.process.communicate(timeout=40)
    for client in clients:
        client.close()
    assert running.process.returncode == 0
    assert time.monotonic() - start < 12
    assert "Traceback" not in errors
