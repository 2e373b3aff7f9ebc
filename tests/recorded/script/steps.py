"""Steps and peeks of one session: numbers, epochs, replays, conflicts, bad inputs, as JSON and as raw tensors."""

import struct
from typing import Any

from tests.recorded.client import OCTETS, Client
from tests.recorded.script import Family
from tests.recorded.script.models import BAD_JSON

_INPUTS: dict[str, Any] = {
    "sum": [[1], [2]],
    "pair": [[1, 2], [0.5, -4]],
    "tokens": [0, 1, 5],
    "mixed": {"audio": [[1, 2]], "gain": [[2]], "token": [3]},
    "kinds": {"x": [[1, -2]], "count": [3], "seen": [[True, False]]},
    "half": [[1, 2], [3, 4], [5, 6]],
    "stateless": [[1, 2]],
}
_BAD: tuple[Any, ...] = (
    *(None, [], {}, 1, "x", [1], [[]], [[1, 2]], [[None]], [["1"]], [[True]], [[1], [1, 2]], [[1e39]], [[[1]]]),
    *({"x": [[1]]}, [[1], 2], [[False]], [[{}]], [[-1e39]], [[1e-60]]),
)
_NUMBERS: tuple[Any, ...] = (0, -1, 1.5, "1", True, [], {}, 2**63, 2**63 - 1, 1e3, 2)


def play(client: Client) -> None:
    for name, inputs in _INPUTS.items():
        session = client.open(name)
        for verb in ("steps", "peek", "steps"):
            client.post(f"{session}/{verb}", {"inputs": inputs})
        client.get(session)
    for name in ("whole", "none"):
        client.post(f"/v1/models/{name}/sessions")
    _bad_bodies(client)
    _numbered(client)
    _octets(client)
    _not_finite(client)
    _unknown(client)
    _encodings(client)
    client.get("/metrics")


def _bad_bodies(client: Client) -> None:
    """Send what is no step."""
    session = client.open()
    for inputs in _BAD:
        for verb in ("steps", "peek"):
            client.post(f"{session}/{verb}", {"inputs": inputs})
    for body in (*BAD_JSON, b'{"inputs":[[1]],"inputs":[[2]]}', b" \n", b"null", b"[]", b'"x"', b"3"):
        client.post(f"{session}/steps", body)
    for fields in ({"inputs": [[1]], "x": 1}, {"step": 1}, {"steps": [[1]]}, {"inputs": [[1]], "step": None, "y": 2}):
        client.post(f"{session}/steps", fields)
    tokens = client.open("tokens")
    for ids in ([6], [-1], [0.5], [[0]], [True], []):
        client.post(f"{tokens}/steps", {"inputs": ids})
    mixed = client.open("mixed")
    for inputs in ([[1, 2]], {"audio": [[1, 2]]}, {"audio": [[1, 2]], "gain": [[1], [2]], "token": [0]}):
        client.post(f"{mixed}/steps", {"inputs": inputs})
    client.get(session)


def _numbered(client: Client) -> None:
    """Number steps: in order, again, with other content, too early, too late; name epochs."""
    session = client.open(keep=4)
    steps = f"{session}/steps"
    first = {"inputs": [[1], [2]], "step": 1}
    for body in (first, first, first | {"inputs": [[1], [3]]}, first | {"inputs": [[1]]}, {"inputs": [[4]], "step": 3}):
        client.post(steps, body)
    for number in _NUMBERS:
        client.post(steps, {"inputs": [[1]], "step": number})
        client.post(steps, {"inputs": [[1]], "epoch": number})
    client.post(steps, first)
    for body in (
        {"inputs": [[2]], "step": 3},
        {"inputs": [[2]], "step": 100},
        {"inputs": [[2]], "step": 9, "epoch": 0},
        {"inputs": [[2]], "step": 9, "epoch": 1},
        {"inputs": [[2]], "epoch": 0},
    ):
        client.post(f"{session}/peek", body)
        client.post(steps, body)
    client.post(f"{session}/rewind", {"requests": 1})
    for body in ({"inputs": [[2]], "epoch": 0}, {"inputs": [[2]], "epoch": 1}, {"inputs": [[2]], "epoch": 2}):
        client.post(steps, body)
    client.get(session)
    long = client.open()
    client.post(f"{long}/steps", {"inputs": [[1]] * 40, "step": 1})
    client.post(f"{long}/steps", {"inputs": [[1]] * 40, "step": 1})
    client.post(f"{long}/steps", {"inputs": [[1]] * 3, "step": 41})


def _octets(client: Client) -> None:
    """Send raw tensors, with numbers and epochs in headers."""
    session = client.open()
    steps, one = f"{session}/steps", struct.pack("<f", 1)
    for headers in ({}, {"x-step": "2"}, {"x-step": "2"}, {"x-step": "9"}, {"x-step": "1"}, {"x-epoch": "0"}):
        client.post(steps, one, OCTETS | headers)
        client.post(f"{session}/peek", one, OCTETS | headers)
    for text in ("0", "-1", "x", "", "1.5", "9223372036854775807", "9223372036854775808", "1" * 20, " 4 ", "\xb2"):
        client.post(steps, one, OCTETS | {"x-step": text})
        client.post(steps, one, OCTETS | {"x-epoch": text})
    client.post(steps, struct.pack("<f", 2), OCTETS | {"x-step": "2"})
    client.post(steps, struct.pack("<3f", 1, 2, 3), OCTETS)
    for body in (b"", b"\0", b"\0" * 5, struct.pack("<f", float("nan")), struct.pack("<2f", 1, float("-inf"))):
        client.post(steps, body, OCTETS)
    client.post(steps, {"inputs": [[1]]}, OCTETS)
    for name, body in (
        ("tokens", struct.pack("<2q", 5, 0)),
        ("tokens", struct.pack("<q", 6)),
        ("mixed", one),
        ("kinds", one),
        ("half", struct.pack("<4e", 1, 2, 3, 4)),
        ("pair", struct.pack("<2f", 1, 2)),
        ("pair", one),
    ):
        client.post(f"{client.open(name)}/steps", body, OCTETS)


def _not_finite(client: Client) -> None:
    """Take a state beyond float32; nothing is taken."""
    session = client.open()
    steps = f"{session}/steps"
    client.post(steps, {"inputs": [[3e38]], "step": 1})
    for body in ({"inputs": [[3e38]], "step": 2}, {"inputs": [[1], [3e38], [1]]}, {"inputs": [[-3e38]], "step": 2}):
        client.post(f"{session}/peek", body)
        client.post(steps, body)
    client.post(steps, struct.pack("<2f", 3e38, 3e38), OCTETS)
    client.get(session)


def _unknown(client: Client) -> None:
    """Name sessions that are not there."""
    closed = client.open()
    client.post(f"{closed}/steps", {"inputs": [[1], [2]]})
    client.request("DELETE", closed)
    foreign = "/v1/sessions/r1-abcd-AAAAAAAAAAAAAAAAAAAAAA"
    lost = "/v1/sessions/r0-abcd-AAAAAAAAAAAAAAAAAAAAAA"
    for session in (closed, lost, foreign, "/v1/sessions/none", "/v1/sessions/" + "x" * 300, "/v1/sessions/%20"):
        client.post(f"{session}/steps", {"inputs": [[1]]})
        client.post(f"{session}/peek", struct.pack("<f", 1), OCTETS)
        client.post(f"{session}/steps", b"{")


def _encodings(client: Client) -> None:
    """Send content types and encodings of every kind."""
    session = client.open()
    for headers in (
        {"content-type": "application/json"},
        {"content-type": "text/plain"},
        {"content-type": "application/octet-stream; q=1"},
        {"content-encoding": "gzip"},
        {"content-encoding": "identity"},
        {"accept-encoding": "gzip"},
        {"accept": "text/html"},
        {"x-step": "99"},
    ):
        client.post(f"{session}/steps", {"inputs": [[1]]}, headers)
    client.post(f"{session}/steps?x=1", {"inputs": [[1]]})


FAMILY = Family(play, (*_INPUTS, "whole"), both_ways=True)
