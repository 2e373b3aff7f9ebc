"""WebSocket streams: handshakes, frames in each format, takeover, errors, close codes."""

import struct
from typing import Any

from tests.recorded.client import Client, Stream
from tests.recorded.script import Family
from tests.recorded.wire import frame

_SUM = "/v1/models/sum/stream"


def head(number: int, payload: bytes, flags: int = 0, size: int | None = None) -> bytes:
    """Return a framed message."""
    return struct.pack("<QII", number, flags, len(payload) if size is None else size) + payload


def play(client: Client) -> None:
    _handshakes(client)
    _json(client)
    _binary(client)
    _framed(client)
    _takeover(client)
    _ends(client)
    _protocol(client)
    client.get("/metrics")


def _handshakes(client: Client) -> None:
    for path in (
        *("/v1/models/none/stream", "/v1/models/whole/stream", "/v1/sessions/none/stream", "/v1/nowhere", "/", "/v2"),
        *("/v1/sessions/r0-abcd-AAAAAAAAAAAAAAAAAAAAAA/stream", f"{_SUM}?format=xml", f"{_SUM}?takeover=1"),
        *(
            f"{_SUM}?x=1",
            f"{_SUM}?format=",
            "/v1/models/mixed/stream?format=binary",
            "/v1/models/mixed/stream?format=framed",
        ),
        *("/v1/models/sum/stream/", "/v1/models//stream", "/v2/models/sum/stream", "/v1/models/sum/predict"),
    ):
        client.stream(path)
    for headers in (
        *({"sec-websocket-version": "12"}, {"sec-websocket-version": ""}, {"sec-websocket-key": ""}),
        *({"sec-websocket-key": "short"}, {"connection": ""}, {"sec-websocket-protocol": "a, b"}),
        *({"x-request-id": "mine"}, {"sec-websocket-extensions": "permessage-deflate"}, {"origin": "http://x"}),
    ):
        stream = client.stream(_SUM, headers)
        if stream.answer.status == 101:
            stream.leave()
    client.stream(_SUM, {"upgrade": "h2c"})
    client.get(_SUM)
    client.post(_SUM)


def _json(client: Client) -> None:
    stream = client.stream(_SUM)
    bodies: tuple[Any, ...] = (
        *(
            {"inputs": [[1], [2]]},
            {"inputs": [[3]], "step": 3},
            {"inputs": [[3]], "step": 3},
            {"inputs": [[4]], "step": 3},
        ),
        *(
            {"inputs": [[4]], "step": 9},
            {"inputs": [[4]], "step": 1},
            {"inputs": [[4]], "epoch": 1},
            {"inputs": [["x"]]},
        ),
        *(b"{", b"", b"null", {"inputs": [[1]], "x": 1}, {"inputs": [[3e38], [3e38]]}, {"inputs": [[4]], "step": 4}),
    )
    for body in bodies:
        stream.text(body)
    stream.binary(b'{"inputs":[[1]]}')
    stream.binary(b"\xff\x00")
    client.post(f"{stream.session}/steps", {"inputs": [[5]]})
    stream.text({"inputs": [[6]]})
    client.get(stream.session)
    stream.leave()
    again = client.stream(f"{stream.session}/stream")
    again.text({"inputs": [[1]]})
    again.leave()
    for name, inputs in (("mixed", {"audio": [[1, 2]], "gain": [[2]], "token": [1]}), ("tokens", [1, 2])):
        other = client.stream(f"/v1/models/{name}/stream?format=json")
        other.text({"inputs": inputs})
        other.leave()


def _binary(client: Client) -> None:
    stream = client.stream(f"{_SUM}?format=binary")
    for payload in (struct.pack("<f", 1), struct.pack("<3f", 1, 2, 3), b"", b"\0", struct.pack("<f", float("nan"))):
        stream.binary(payload)
    stream.text({"inputs": [[1]]})
    stream.binary(struct.pack("<2f", 3e38, 3e38))
    stream.binary(struct.pack("<f", 2))
    stream.leave()
    tokens = client.stream("/v1/models/tokens/stream?format=binary")
    tokens.binary(struct.pack("<2q", 1, 5))
    tokens.binary(struct.pack("<q", 6))
    tokens.leave()


def _framed(client: Client) -> None:
    stream = client.stream(f"{_SUM}?format=framed")
    one, two = struct.pack("<f", 1), struct.pack("<2f", 1, 2)
    for message in (
        *(head(0, one), head(2, two), head(2, two), head(2, one), head(1, one), head(9, one), head(4, one)),
        *(head(4, one, 1), head(4, one, size=8), head(1 << 63, one), head(5, b""), head(5, b"\0"), b"", b"\0" * 15),
        head(5, struct.pack("<2f", 3e38, 3e38)),
    ):
        stream.binary(message)
    stream.text("x")
    stream.leave()


def _takeover(client: Client) -> None:
    first = client.stream(_SUM)
    first.text({"inputs": [[1]]})
    path = f"{first.session}/stream"
    client.stream(path)
    client.stream(f"{path}?takeover=0")
    client.stream(f"{path}?takeover=2")
    second = client.stream(f"{path}?takeover=1&format=binary")
    first.receive()
    second.binary(struct.pack("<f", 2))
    client.get(second.session)
    second.leave()
    alone = client.stream(f"{path}?takeover=1")
    alone.leave()


def _ends(client: Client) -> None:
    """End streams by what they are told, or by what becomes of their session."""
    stream = client.stream(_SUM)
    stream.text({"inputs": [[1], [2]]})
    client.request("DELETE", stream.session)
    stream.text({"inputs": [[1]]}, 2)
    client.stream(f"{stream.session}/stream")
    client.stream(f"{stream.session}/stream?takeover=1")
    rewound = client.stream(_SUM)
    session = client.open(keep=1)
    kept = client.stream(f"{session}/stream")
    kept.text({"inputs": [[1]]})
    client.post(f"{session}/rewind", {"requests": 1})
    kept.text({"inputs": [[2]], "epoch": 0})
    kept.text({"inputs": [[2]], "epoch": 1})
    kept.leave()
    client.stream(f"{session}/stream").leave()
    rewound.abort()


def _protocol(client: Client) -> None:
    """Break the protocol of WebSockets, each time on a new stream."""
    body = b'{"inputs":[[1]]}'

    def opened() -> Stream:
        return client.stream(_SUM)

    for data, frames in (
        (frame(9, b"are you there") + frame(1, body), 2),
        (frame(10, b"unasked") + frame(1, body), 1),
        (frame(1, body[:5], last=False) + frame(0, body[5:]), 1),
        (frame(1, body[:5], last=False) + frame(9, b"p") + frame(0, body[5:]), 2),
        (frame(1, body) * 3, 3),
        (frame(1, b"\xff\xfe"), 1),
        (frame(1, body, masked=False), 1),
        (frame(3, b"x"), 1),
        (bytes([0xC1]) + frame(1, body)[1:], 1),
        (frame(0, body), 1),
        (frame(9, b"x" * 126), 1),
        (frame(8, b""), 1),
        (frame(8, b"\x0f\xa0reason"), 1),
        (frame(8, b"\x03"), 1),
        (frame(8, b"\x03\xed"), 1),
        (frame(1, b" " * (300 << 10)), 1),
        (frame(1, b" " * (200 << 10) + body), 1),
    ):
        stream = opened()
        stream.send(data, frames)
        stream.abort()


FAMILY = Family(play, ("sum", "tokens", "mixed", "whole"), both_ways=True)
