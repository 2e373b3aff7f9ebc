"""The end of a server: what it refuses meanwhile, what it tells its streams, and that the exit status is 0."""

import signal

from tests.recorded.client import Client
from tests.recorded.script import Family
from tests.recorded.script.v2_sequences import START, step


def play(client: Client) -> None:
    session = client.open()
    client.post("/v2/models/sum/infer", step(1, **START))
    first, second = client.stream("/v1/models/sum/stream"), client.stream("/v1/models/sum/stream?format=framed")
    first.text({"inputs": [[1], [2], [4]]})
    client.get("/readyz")
    blocked = client.stream(f"{session}/stream")
    blocked.send_without_reading({"inputs": [[1]] * 1024})  # the server waits for it, and stops a while later
    client.server.send_signal(signal.SIGTERM)
    client.wait_until("/readyz", 503)
    first.receive(2)
    second.receive(2)
    for path in ("/readyz", "/livez", "/v2/health/ready", "/v2/health/live", "/v2/models/sum/ready", "/v1/models/sum"):
        client.get(path)
    client.post("/v1/models/sum/sessions")
    client.post("/v1/models/sum/predict", {"inputs": [[[1]]]})
    client.post("/v1/models/sum/fleet", {"sessions": ["new"], "inputs": [[[1]]], "create": True})
    client.post("/v2/models/sum/infer", step(1))
    client.post("/v2/models/sum/infer", step(2, **START))
    client.post(f"{first.session}/steps", {"inputs": [[1]]})
    client.post(f"{first.session}/fork")
    client.stream(f"{first.session}/stream")
    client.stream("/v1/models/sum/stream")
    client.hang_up()
    client.note("SIGTERM", 0, b"", f"exit status {client.server.wait()}\n")


FAMILY = Family(play, ("sum",), ("--grace", "3"))
