"""A snapshot is accepted only if the session can go on from it."""

import httpx

from service.app import Service
from service.sessions.snapshots import _label, _write, read_snapshot
from tests.service.conftest import FEATURES

OCTETS = {"content-type": "application/octet-stream"}


async def test_a_snapshot_with_too_large_a_step_is_refused(client: httpx.AsyncClient, service: Service) -> None:
    """A snapshot with a valid checksum is refused if its step is too large to count on from."""
    session = (await client.post("/v1/models/lstm/sessions")).json()["session_id"]
    good = (await client.get(f"/v1/sessions/{session}/state")).content
    model = service.repository.find("lstm")
    row, _ = read_snapshot(good, model)
    for step, status in ((2**63 - 1, 422), (2**62 + 1, 422), (2**62, 200)):
        crafted = _write(_label(model.card, step), row)
        answer = await client.put(f"/v1/sessions/{session}/state", content=crafted, headers=OCTETS)
        assert answer.status_code == status
    taken = await client.post(f"/v1/sessions/{session}/steps", json={"inputs": [[0.0] * FEATURES]})
    assert taken.json()["step"] == 2**62 + 1
    assert (await client.get(f"/v1/sessions/{session}/state")).status_code == 200
