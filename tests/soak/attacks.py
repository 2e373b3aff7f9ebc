"""What one client does to keep others waiting; python -m tests.soak.attacks NAME PORT FEATURES SECONDS [KEY]."""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

from tests.soak.target import Reader, Target, call, frame

Attack = Callable[[Target, float], None]
"""Attacks the target until a time on the monotonic clock."""

PREDICT, FLEET, SESSIONS = ("/v1/models/lstm/" + verb for verb in ("predict", "fleet", "sessions"))
MOST_ELEMENTS = 1 << 20


def _flood(pieces: Callable[[Target], tuple[bytes, bytes]], connections: int = 1) -> Attack:
    """Send the first of two pieces, then the second one over and over, on one connection after the other."""

    def send(target: Target, end: float) -> None:
        first, piece = pieces(target)
        while time.monotonic() < end:
            with suppress(OSError), closing(target.connect(0.5)) as connection:
                connection.sendall(first)
                while time.monotonic() < end:
                    connection.sendall(piece)

    return _at_once(send, connections)


def _posts(path: str, body: Callable[[Target], bytes], connections: int = 1) -> Attack:
    """Post the same body again as soon as it was answered."""

    def send(target: Target, end: float) -> None:
        request = target.post(path, body(target))
        while time.monotonic() < end:
            with suppress(OSError), closing(target.connect()) as connection:
                reader = Reader(connection)
                while time.monotonic() < end:
                    connection.sendall(request)
                    reader.response()

    return _at_once(send, connections)


def _at_once(attack: Attack, connections: int) -> Attack:
    """Return an attack on several connections at once."""

    def run(target: Target, end: float) -> None:
        threads = [threading.Thread(target=attack, args=(target, end)) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return attack if connections == 1 else run


def _steps(rows: int) -> Callable[[Target], bytes]:
    """Return a prediction of one sequence of some steps."""
    return lambda target: b'{"inputs":[[' + b",".join([target.row()] * rows) + b"]]}"


def _most_steps(target: Target) -> bytes:
    return _steps(MOST_ELEMENTS // target.features)(target)


def _open(target: Target) -> str:
    """Open a session, and return its id."""
    with closing(target.connect()) as connection:
        return str(call(connection, Reader(connection), target.post(SESSIONS))[1]["session_id"])


def _step_of_arrays(target: Target, end: float) -> None:
    _posts(f"/v1/sessions/{_open(target)}/steps", lambda _: b'{"inputs":[' + b"[]," * 340_000 + b"0]}")(target, end)


def _long_steps(target: Target, end: float) -> None:
    """Advance a session by the longest chunk over and over."""
    body = b'{"inputs":[' + b",".join([target.row()] * 1024) + b"]}"
    _posts(f"/v1/sessions/{_open(target)}/steps", lambda _: body)(target, end)


def _silent_sockets(target: Target, end: float, count: int = 9_000) -> None:
    """Hold thousands of connections, and send no more than the beginning of a request on each."""
    with ExitStack() as stack:
        with suppress(OSError):
            for _ in range(count):
                connection = stack.enter_context(closing(target.connect()))
                connection.sendall(b"POST ")
                if time.monotonic() > end:
                    break
        time.sleep(max(0.0, end - time.monotonic()))


def _slow_bodies(target: Target, end: float) -> None:
    """Send the bodies of 200 requests a byte at a time."""
    head = target.head("POST", PREDICT, "content-length: 100000") + b"\r\n"
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(target.connect())) for _ in range(200)]
        for connection in connections:
            connection.sendall(head)
        while time.monotonic() < end:
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(b" ")


def _new_connections(target: Target, end: float) -> None:
    """Connect, send what is no HTTP, and connect again."""
    while time.monotonic() < end:
        with suppress(OSError), closing(target.connect()) as connection:
            connection.sendall(b"junk\r\n\r\n")
            connection.recv(1 << 12)


def _hoard(target: Target, end: float) -> None:
    """Open sessions, fifty requests at a time, and end none."""
    request = target.post(SESSIONS, b'{"idle_limit":86400}') * 50
    with closing(target.connect()) as connection:
        reader = Reader(connection)
        while time.monotonic() < end:
            connection.sendall(request)
            for _ in range(50):
                reader.response()


def _unread(target: Target, end: float) -> None:
    """Ask for long answers, and read none of them."""
    request = target.post(PREDICT, _steps(500)(target))
    with ExitStack() as stack:
        connections: list[socket.socket] = []
        while time.monotonic() < end:
            if len(connections) < 64:
                connections.append(stack.enter_context(closing(target.connect(0.05))))
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(request)


def _fill_queue(target: Target, end: float) -> None:
    """Keep 300 predictions waiting."""
    request = target.post(PREDICT, _steps(200)(target))
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(target.connect())) for _ in range(300)]
        for connection in connections:
            connection.sendall(request)
        readers = [Reader(connection) for connection in connections]
        while time.monotonic() < end:
            for connection, reader in zip(connections, readers, strict=True):
                reader.response()
                connection.sendall(request)


def _wide_fleets(target: Target) -> bytes:
    rows = 4096
    inputs = b",".join([b"[" + target.row() + b"]"] * rows)
    names = json.dumps([f"n{row}" for row in range(rows)]).encode()
    return b'{"sessions":%b,"inputs":[%b],"create":true}' % (names, inputs)


def _tensor_of_arrays(target: Target) -> bytes:
    start = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1,%d],"data":[' % target.features
    return start + b"[]," * 5_000_000 + b"0]}]}"


def _long_tensor(target: Target) -> bytes:
    steps = MOST_ELEMENTS // target.features
    start = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,%d,%d],"data":[' % (steps, target.features)
    return start + b"0.25," * (steps * target.features - 1) + b"0.25]}]}"


_ARRAYS = b"[]," * 5_000_000 + b"0]}"
_SHORT_FRAME = 20_000

ATTACKS: dict[str, Attack] = {
    "pings": _flood(lambda to: (to.handshake(), frame(0x89) * _SHORT_FRAME)),
    "pongs": _flood(lambda to: (to.handshake(), frame(0x8A) * _SHORT_FRAME)),
    "pings on 20 connections": _flood(lambda to: (to.handshake(), frame(0x89) * _SHORT_FRAME), 20),
    "empty fragments": _flood(lambda to: (to.handshake() + frame(0x01), frame(0x00) * _SHORT_FRAME)),
    "fragments of a byte": _flood(lambda to: (to.handshake() + frame(0x01), frame(0x00, b"1") * _SHORT_FRAME)),
    "empty messages": _flood(lambda to: (to.handshake(), frame(0x81) * _SHORT_FRAME)),
    "a frame of empty arrays": _flood(
        lambda to: (to.handshake(), frame(0x81, b'{"inputs":[' + b"[]," * 80_000 + b"0]}"))
    ),
    "chunks of a byte": _flood(lambda to: (to.chunked(), b"1\r\n \r\n" * 20_000)),
    "chunks of a byte on 20 connections": _flood(lambda to: (to.chunked(), b"1\r\n \r\n" * 20_000), 20),
    "trailers": _flood(lambda to: (to.chunked() + b"1\r\n{\r\n0\r\n", b"a:b\r\n" * 20_000)),
    "headers": _flood(lambda to: (to.head("GET", "/livez"), b"a:b\r\n" * 20_000)),
    "pipelined requests": _flood(lambda to: (b"", b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n" * 5000)),
    "other upgrades": _flood(
        lambda to: (b"", b"GET / HTTP/1.1\r\nhost:a\r\nupgrade:h2c\r\nconnection:upgrade\r\n\r\n" * 3000)
    ),
    "new connections": _new_connections,
    "silent sockets": _silent_sockets,
    "slow bodies": _slow_bodies,
    "unread answers": _unread,
    "predictions of empty arrays": _posts(PREDICT, lambda _: b'{"inputs":[' + _ARRAYS),
    "predictions of empty arrays on 2 connections": _posts(PREDICT, lambda _: b'{"inputs":[' + _ARRAYS, 2),
    "sessions of empty arrays": _posts(SESSIONS, lambda _: b'{"history":[' + _ARRAYS),
    "fleet steps of empty arrays": _posts(FLEET, lambda _: b'{"inputs":[' + _ARRAYS),
    "tensors of empty arrays": _posts("/v2/models/lstm/infer", _tensor_of_arrays),
    "steps of empty arrays": _step_of_arrays,
    "predictions with a field behind": _posts(PREDICT, lambda to: _steps(60_000)(to)[:-1] + b',"x":1}'),
    "predictions with a text at the end": _posts(PREDICT, lambda to: _steps(60_000)(to)[:-2] + b',"x"]}'),
    "predictions that end too early": _posts(PREDICT, lambda to: _steps(50_000)(to)[:-3]),
    "longest predictions": _posts(PREDICT, _most_steps),
    "longest predictions on 4 connections": _posts(PREDICT, _most_steps, 4),
    "longest histories": _posts(SESSIONS, lambda to: b'{"history":%b}' % _most_steps(to)[11:-2]),
    "longest tensors": _posts("/v2/models/lstm/infer", _long_tensor),
    "longest steps": _long_steps,
    "widest fleet steps": _posts(FLEET, _wide_fleets),
    "a full queue": _fill_queue,
    "hoarded sessions": _hoard,
}


def main(name: str, port: str, features: str, seconds: str, key: str = "") -> None:
    """Attack for some seconds."""
    ATTACKS[name](Target(int(port), int(features), key), time.monotonic() + float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
