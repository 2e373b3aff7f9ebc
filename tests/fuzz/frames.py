"""WebSocket frames at random: right ones, damaged ones, fragments, control frames, and bytes that are no frame."""

import json
import socket
import struct
from contextlib import closing
from itertools import chain
from random import Random

from tests.fuzz.results import ANSWER_SECONDS, Results
from tests.fuzz.values import changed, damaged, encoded, rows, value
from tests.soak.target import Target, frame

_FORMATS = ("?format=json", "?format=binary", "?format=framed", "")
_CLOSE = frame(0x88, struct.pack(">H", 1000))
_FRAMES_OF_A_SOCKET = 8
_INTERNAL = 1011


def _payload(rng: Random, features: int) -> bytes:
    kind, steps = rng.random(), rows(rng, features)
    if kind < 0.3:
        return json.dumps({"inputs": steps}).encode()
    if kind < 0.55:
        return encoded(rng, changed(rng, {"inputs": steps, "step": rng.randrange(1, 9), "epoch": 0}))
    if kind < 0.65:
        return encoded(rng, value(rng))
    raw = struct.pack(f"<{features * len(steps)}f", *chain.from_iterable(steps))
    if kind < 0.75:
        return raw
    if kind < 0.9:
        return struct.pack("<QII", rng.choice((0, 1, 2, 2**63)), rng.choice((0, 0, 1)), len(raw)) + raw
    return rng.randbytes(rng.randrange(300))


def _frame(rng: Random, features: int) -> bytes:
    kind = rng.random()
    if kind < 0.75:
        made = frame(rng.choice((0x81, 0x82)), _payload(rng, features))
    elif kind < 0.85:
        payload = _payload(rng, features)
        made = frame(rng.choice((0x01, 0x02)), payload[:9]) + frame(0x00) + frame(0x80, payload[9:])
    else:
        made = frame(rng.choice((0x89, 0x8A, 0x88, 0x83, 0x80, 0xC1, 0x09)), rng.randbytes(rng.randrange(130)))
    return damaged(rng, made) if rng.random() < 0.1 else made


def send_frames(target: Target, rng: Random, count: int, results: Results) -> None:
    """Send frames and a close frame, a few on each WebSocket; the service has to close its side in time."""
    source, sent = "frames", 0
    while sent < count:
        frames = [_frame(rng, target.features) for _ in range(min(_FRAMES_OF_A_SOCKET, count - sent))]
        wire = b"".join(frames) + _CLOSE
        sent += len(frames)
        received = b""
        with closing(target.connect(ANSWER_SECONDS)) as connection:
            try:
                connection.sendall(target.handshake(rng.choice(_FORMATS)) + wire)
                connection.settimeout(0.1)
                try:
                    received = _read(connection, received)
                except TimeoutError:
                    connection.settimeout(ANSWER_SECONDS)
                    connection.shutdown(socket.SHUT_WR)  # it waits for the rest of a damaged frame
                    received = _read(connection, received)
            except TimeoutError:
                results.hung(source, wire)
                continue
            except OSError:
                pass
        failed = b'"internal_error"' in received or b'"engine_failed"' in received
        failed = failed or struct.pack(">H", _INTERNAL) + b"internal_error" in received
        for _ in frames:
            results.answered(source, wire, 200, b"")
        if failed or received.startswith(b"HTTP/1.1 5"):
            results.server_errors += 1
            results.show(f"{source}: {received[-200:]!r} to {wire[:300]!r}")


def _read(connection: socket.socket, received: bytes) -> bytes:
    """Read until the service ends the WebSocket; return all that was received."""
    while not _ends(received) and (part := connection.recv(1 << 16)):
        received += part
    return received


def _ends(received: bytes) -> bool:
    """Return whether the last frame received closes the WebSocket, or its handshake was refused."""
    head, _, rest = received.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101"):
        return bool(rest)
    while len(rest) >= 2:
        size, start = rest[1], 2
        if size == 126:
            size, start = int.from_bytes(rest[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(rest[2:10], "big"), 10
        if rest[0] == 0x88:
            return True
        rest = rest[start + size :]
    return False
