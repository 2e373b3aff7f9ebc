"""Damaged HTTP requests, cut into several segments, each on a connection of its own."""

import socket
from contextlib import closing
from random import Random

from tests.fuzz.requests import Requests
from tests.fuzz.results import ANSWER_SECONDS, Results
from tests.fuzz.values import damaged
from tests.soak.target import Target

_HEADERS: tuple[bytes, ...] = (
    b"transfer-encoding: chunked",
    b"transfer-encoding: identity",
    b"content-length: 5",
    b"content-length: -1",
)
_HEADERS += (b"expect: 100-continue", b"upgrade: h2c\r\nconnection: upgrade", b"host: b", b"connection: close", b"x:")
_HEADERS += (
    b"content-length: 99999999999999999999",
    b"upgrade: websocket\r\nconnection: upgrade",
    b"a: " + b"b" * 9000,
)


def _message(rng: Random, requests: Requests) -> bytes:
    wire = requests.next()
    head, _, body = wire.partition(b"\r\n\r\n")
    if rng.random() < 0.4:
        head += b"\r\n" + rng.choice(_HEADERS)
    if rng.random() < 0.2:
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
        head += b"\r\ntransfer-encoding: chunked"
    wire = head + b"\r\n\r\n" + body
    return damaged(rng, wire) if rng.random() < 0.7 else wire


def send_damaged(target: Target, rng: Random, count: int, results: Results) -> None:
    """Send damaged requests, and end the connection on this side: the service has to answer or to close its side."""
    requests, source = Requests(target, rng), "wire"
    for _ in range(count):
        wire = b"".join(_message(rng, requests) for _ in range(rng.choice((1, 1, 2))))
        with closing(target.connect(ANSWER_SECONDS)) as connection:
            received = b""
            try:
                cut = rng.randrange(len(wire) + 1)
                connection.sendall(wire[:cut])
                connection.sendall(wire[cut:])
                connection.settimeout(0.02)
                try:
                    received = connection.recv(1 << 16)
                except TimeoutError:
                    connection.shutdown(socket.SHUT_WR)  # it waits for more
                connection.settimeout(ANSWER_SECONDS)
                while not _is_whole(wire, received) and (part := connection.recv(1 << 16)):
                    received += part
            except TimeoutError:
                results.hung(source, wire)
                continue
            except OSError:
                pass
            if received.startswith(b"HTTP/1.1 ") and received[9:12].isdigit():
                body = received.partition(b"\r\n\r\n")[2]
                results.answered(source, wire, int(received[9:12]), body)
            else:
                results.closed(source)


def _is_whole(sent: bytes, received: bytes) -> bool:
    """Return whether the head and the body of a first response are there."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found or sent.startswith(b"HEAD"):
        return bool(found)
    _, _, length = head.lower().partition(b"content-length: ")
    size = length.partition(b"\r\n")[0]
    return len(body) >= (int(size) if size.isdigit() else 0)
