"""Snapshots: a session's state read, written back, put into a new session, damaged."""

import base64

from tests.recorded.client import OCTETS, Client
from tests.recorded.script import Family


def play(client: Client) -> None:
    session = client.open(keep=2)
    client.get(f"{session}/state")
    client.post(f"{session}/steps", {"inputs": [[1], [2], [4]]})
    snapshot = client.get(f"{session}/state").body
    client.post(f"{session}/steps", {"inputs": [[8]], "step": 4})
    client.request("PUT", f"{session}/state", snapshot, OCTETS)
    client.post(f"{session}/steps", {"inputs": [[8]], "step": 4})
    client.post(f"{session}/steps", {"inputs": [[8]], "step": 5, "epoch": 0})
    client.post(f"{session}/rewind", {"requests": 1})
    client.post(f"{session}/rewind", {"requests": 1})
    client.request("PUT", f"{session}/state", snapshot)
    client.request("HEAD", f"{session}/state")
    _new_sessions(client, snapshot)
    _damaged(client, session, snapshot)
    for name in ("pair", "tokens", "mixed", "kinds", "half", "stateless"):
        other = client.open(name)
        client.get(f"{other}/state")
        client.request("PUT", f"{other}/state", snapshot, OCTETS)
        client.request("PUT", f"{other}/state", client.get(f"{other}/state").body, OCTETS)
    client.request("DELETE", session)
    for path in (session, "/v1/sessions/none", "/v1/sessions/r0-abcd-AAAAAAAAAAAAAAAAAAAAAA"):
        client.get(f"{path}/state")
        client.request("PUT", f"{path}/state", snapshot, OCTETS)


def _new_sessions(client: Client, snapshot: bytes) -> None:
    """Open sessions at a snapshot, as base64 and as the body itself."""
    text = base64.b64encode(snapshot).decode()
    for fields in (
        {"state": text},
        {"state": text, "keep": 1, "idle_limit": 9},
        {"state": text[:-4]},
        {"state": text + "="},
    ):
        client.post("/v1/models/sum/sessions", fields)
    opened = client.post("/v1/models/sum/sessions", snapshot, OCTETS).json()["session_id"]
    client.post(f"/v1/sessions/{opened}/steps", {"inputs": [[1]], "step": 4})
    client.post("/v1/models/pair/sessions", snapshot, OCTETS)
    client.post("/v1/models/pair/sessions", {"state": text})
    client.post("/v1/models/whole/sessions", snapshot, OCTETS)
    for key in ("a", "a"):
        client.post("/v1/models/sum/sessions", snapshot, OCTETS | {"idempotency-key": key})
    client.post("/v1/models/sum/sessions", snapshot[:-1], OCTETS | {"idempotency-key": "a"})


def _damaged(client: Client, session: str, snapshot: bytes) -> None:
    """Write back what is not a snapshot, or not quite."""
    size = int.from_bytes(snapshot[:8], "little")
    for body in (
        *(b"", b"x", snapshot[:-1], snapshot + b"\0", snapshot[:8], b"\xff" * 8 + snapshot[8:], b"\0" * 64),
        snapshot[:-2] + bytes([snapshot[-2] ^ 1]) + snapshot[-1:],
        snapshot.replace(b'\\"step\\":3', b'\\"step\\":4'),
        snapshot.replace(b'\\"version\\":1', b'\\"version\\":2'),
        snapshot.replace(b"cellstream", b"cellstrean"),
        (2).to_bytes(8, "little") + b"{}",
        snapshot[:8] + b"[" + snapshot[9:],
        snapshot[: 8 + size] + b"\0\0\xc0\x7f",
    ):
        client.request("PUT", f"{session}/state", body, OCTETS)
    client.request("PUT", f"{session}/state", b"\0" * 20_000, OCTETS)
    client.request("PUT", f"{session}/state", snapshot, OCTETS | {"content-encoding": "gzip"})
    client.get(session)


FAMILY = Family(play, ("sum", "pair", "tokens", "mixed", "kinds", "half", "stateless", "whole"), both_ways=True)
