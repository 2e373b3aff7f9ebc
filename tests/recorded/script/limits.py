"""Limits: bodies, steps, sessions, queues; what arrives together is made to by stopping the process meanwhile."""

import struct
from typing import Any

from tests.recorded.client import OCTETS, Client
from tests.recorded.script import Family
from tests.recorded.script.fleets import framed, tensor
from tests.recorded.script.v2_infer import tensor as json_tensor
from tests.recorded.script.v2_sequences import START, step


def play(client: Client) -> None:
    session = client.open()
    _bodies(client, session)
    _steps(client, session)
    _queues(client)
    _table(client)
    client.get("/metrics")


def _bodies(client: Client, session: str) -> None:
    """Send bodies up to the limit and beyond it, with their length told before and not."""
    for size in (1024, 1025, 5000):
        for verb in ("steps", "peek"):
            client.post(f"{session}/{verb}", b'{"inputs":[[1]]}'.ljust(size))
    for size in (4096, 4097):
        client.post("/v1/models/sum/predict", b'{"inputs":[[[1]]]}'.ljust(size))
        client.post("/v1/models/sum/sessions", b"{}".ljust(size))
        client.post("/v1/models/sum/fleet", b'{"sessions":["a"],"inputs":[[[1]]],"create":true}'.ljust(size))
        client.post("/v2/models/sum/infer", b'{"inputs":[]}'.ljust(size))
    for size in (65536, 65537):
        client.post(f"{session}/fork", b"{}".ljust(size))
        client.post(f"{session}/rewind", b'{"requests":0}'.ljust(size))
        client.request("PATCH", session, b'{"idle_limit":900}'.ljust(size))
    client.request("PUT", f"{session}/state", b"\0" * 16_500, OCTETS)
    client.post("/v2/repository/index", b"{}".ljust((1 << 20) + 1))
    stream = client.stream(f"{session}/stream")
    stream.text(b'{"inputs":[[1]]}'.ljust(1000))
    stream.text(b'{"inputs":[[1]]}'.ljust(2000))
    stream.text(b'{"inputs":[[1]]}'.ljust(3000))
    stream.abort()


def _steps(client: Client, session: str) -> None:
    for count in (8, 9):
        client.post(f"{session}/steps", {"inputs": [[1]] * count})
        client.post(f"{session}/peek", struct.pack("<f", 1) * count, OCTETS)
    pair = client.open("pair")
    for count in (5, 6, 8):
        client.post(f"{pair}/steps", {"inputs": [[1, 0]] * count})
        client.post(f"{pair}/steps", struct.pack("<2f", 1, 0) * count, OCTETS)
    for lengths in ((10, 10), (10, 11), (21,), (20,)):
        client.post("/v1/models/sum/predict", {"inputs": [[[1]] * length for length in lengths]})
        client.post("/v1/models/sum/sessions", {"history": [[1]] * lengths[0]})
    for count in (12, 13, 20):
        client.post("/v1/models/pair/predict", {"inputs": [[[1, 0]] * count]})
        client.post("/v1/models/pair/predict", struct.pack("<2f", 1, 0) * count, OCTETS)
    names = [f"n{number}" for number in range(21)]
    head = {"sessions": names, "create": True, "inputs": [tensor([21, 1, 1], 84)]}
    client.post("/v1/models/sum/fleet", *framed(head, struct.pack("<f", 1) * 21))
    client.post("/v1/models/sum/fleet", {"sessions": names, "inputs": [[[1]]] * 21})
    for count in (8, 9, 20, 21):
        fields = step(70, **START) | {"inputs": [json_tensor([1] * count, [1, count, 1])]}
        client.post("/v2/models/sum/infer", fields)
    client.post("/v2/models/sum/infer", {"inputs": [json_tensor([1] * 21, [21, 1, 1])], "parameters": {}})
    client.post("/v2/models/whole/infer", {"inputs": [json_tensor([1] * 21, [21, 1, 1])]})
    client.post("/v2/models/whole/infer", {"inputs": [json_tensor([1] * 20, [1, 20, 1])]})


def _queues(client: Client) -> None:
    """Have more requests wait than may."""
    session = client.open(keep=1)
    steps = ("POST", f"{session}/steps", {"inputs": [[1]]})
    client.post(*steps[1:])
    client.together(*[steps] * 6)
    client.together(steps, ("POST", f"{session}/rewind", {"requests": 1}), ("GET", session, None))
    snapshot = client.get(f"{session}/state").body
    client.together(steps, ("PUT", f"{session}/state", snapshot), ("POST", f"{session}/fork", None))
    client.together(steps, ("DELETE", session, None), steps)
    others = [client.open() for _ in range(5)]
    client.together(*(("POST", f"{other}/steps", {"inputs": [[1]]}) for other in others))
    predict: tuple[str, str, Any] = ("POST", "/v1/models/sum/predict", {"inputs": [[[1]], [[2]]]})
    client.together(*[predict] * 5)
    fleet: tuple[str, str, Any] = (
        "POST",
        "/v1/models/sum/fleet",
        {"sessions": ["n0"], "inputs": [[[1]]], "create": True},
    )
    client.together(fleet, fleet, fleet, fleet, fleet)
    client.post("/v1/models/sum/fleet", {"sessions": ["n0"] * 5, "inputs": [[[1]]] * 5})
    client.post("/v2/models/sum/infer", step(80, **START))
    infer: tuple[str, str, Any] = ("POST", "/v2/models/sum/infer", step(80))
    client.together(*[infer] * 5)
    for request_id in ("s", "t"):
        start: tuple[str, str, Any] = ("POST", "/v2/models/sum/infer", step(81, 1, request_id, **START))
        client.together(start, start)


def _table(client: Client) -> None:
    """Open sessions until there is no room."""
    for _ in range(40):
        if client.post("/v1/models/sum/sessions", {"keep": 5}).status != 201:
            break
    client.post("/v1/models/sum/sessions", {"keep": 64})
    for _ in range(7):
        client.post("/v1/models/sum/sessions")
    client.post("/v1/models/sum/sessions", {"history": [[1]]})
    client.post("/v1/models/sum/fleet", {"sessions": ["full"], "inputs": [[[1]]], "create": True})
    client.post("/v2/models/sum/infer", step(90, **START))
    client.post("/v2/models/sum/infer", step(80, **START))
    client.stream("/v1/models/sum/stream")


FAMILY = Family(
    play,
    ("sum", "pair", "whole"),
    (
        *("--step-body", "1024", "--predict-body", "4096", "--step-steps", "8", "--step-elements", "10"),
        *("--predict-steps", "20", "--predict-elements", "24", "--frame-size", "2048"),
        *("--queue-limit", "4", "--session-queue-limit", "2", "--max-sessions", "60"),
    ),
)
