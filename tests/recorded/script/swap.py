"""A new version put into service by SIGHUP; sessions of the old one end when they have had long enough."""

import shutil
import signal

from tests.recorded.client import Client
from tests.recorded.script import Family
from tests.recorded.script.v2_sequences import START, step


def play(client: Client) -> None:
    for verb in ("load", "unload"):
        client.post(f"/v2/repository/models/sum/{verb}")
        client.post(f"/v2/repository/models/none/{verb}", b"{")
    old = client.open(keep=1, idle_limit=600)
    client.post(f"{old}/steps", {"inputs": [[4], [2]]})
    client.post("/v2/models/sum/infer", step(1, 1, **START))
    stream = client.stream(f"{old}/stream")
    for version in (2, 3):
        shutil.copytree(client.next_versions / f"sum/{version}", client.artifacts / f"sum/{version}")
        client.server.send_signal(signal.SIGHUP)
        client.wait_until(f"/v2/models/sum/versions/{version}/ready", 200)
        client.get("/v1/models/sum")
        client.get("/v2/models/sum")
        client.post("/v2/repository/index")
        client.post(f"{old}/steps", {"inputs": [[4]]})
        stream.text({"inputs": [[1]]})
        new = client.open()
        client.post(f"{new}/steps", {"inputs": [[4]]})
        client.post(f"{new}/steps", {"inputs": [[4, 2]]})
        ids = [session.rpartition("/")[2] for session in (old, new)]
        client.post("/v1/models/sum/fleet", {"sessions": ids, "inputs": [[[1]], [[1]]]})
        client.post("/v1/models/sum/fleet", {"sessions": ids, "inputs": [[[1, 2]], [[1, 2]]]})
        client.post("/v2/models/sum/infer", step(1, 1))
        client.post("/v1/models/sum/predict", {"inputs": [[[1]]]})
    client.wait_until(old, 410)
    client.get(old)
    stream.text({"inputs": [[1]]}, 2)
    for verb in ("steps", "peek", "fork"):
        client.post(f"{old}/{verb}", {"inputs": [[1]]} if verb != "fork" else None)
    client.post("/v2/models/sum/infer", step(1, 1))
    client.post("/v2/repository/index")
    client.get("/v1/sessions")


FAMILY = Family(play, ("sum", "pair"), ("--retire-after", "4"))
