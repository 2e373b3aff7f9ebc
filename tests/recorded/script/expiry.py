"""Sessions that were idle for longer than their limit."""

import time

from tests.recorded.client import Client
from tests.recorded.script import Family
from tests.recorded.script.v2_sequences import END, START, step


def play(client: Client) -> None:
    short = client.open(idle_limit=0.8)
    client.post(f"{short}/steps", {"inputs": [[1], [2]]})
    client.post("/v2/models/sum/infer", step(1, 1, "a", **START))
    client.post("/v1/models/sum/fleet", {"sessions": ["name"], "inputs": [[[1]]], "create": True})
    streamed = client.open(idle_limit=0.8)
    stream = client.stream(f"{streamed}/stream")
    stream.text({"inputs": [[1]]})
    keyed = client.open(headers={"idempotency-key": "k"}, idle_limit=0.8)
    extended = client.open(idle_limit=0.8)
    client.request("PATCH", extended, {"idle_limit": 600})
    time.sleep(2.2)
    client.get(short)
    for verb, body in (("steps", {"inputs": [[1]]}), ("peek", {"inputs": [[1]]}), ("fork", None)):
        client.post(f"{short}/{verb}", body)
    client.post(f"{short}/rewind", {"requests": 1})
    client.request("PATCH", short, {"idle_limit": 5})
    client.get(f"{short}/state")
    client.stream(f"{short}/stream")
    client.request("DELETE", short)
    stream.text({"inputs": [[1]]}, 2)
    client.get(keyed)
    client.post("/v1/models/sum/sessions", {"idle_limit": 0.8}, {"idempotency-key": "k"})
    client.get(extended)
    client.post("/v2/models/sum/infer", step(1, 1, "b"))
    client.post("/v2/models/sum/infer", step(1, 1, "b", **END))
    client.post("/v2/models/sum/infer", step(1, 1, "a", **START))
    for create in (False, True):
        fields = {"sessions": ["name", short.rpartition("/")[2]], "inputs": [[[1]], [[1]]], "create": create}
        client.post("/v1/models/sum/fleet", fields)
    client.get("/v1/sessions")


FAMILY = Family(play, ("sum",), ("--idle-limit", "1.2"))
