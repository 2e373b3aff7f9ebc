"""A snapshot is read only where the session can go on from it."""

import httpx

from service.app import Service
from service.sessions.snapshots import _label, _write, read_snapshot
from tests.service.conftest import FEATURES

OCTETS = {"content-type": "application/octet-stream"}


async def test_a_step_beyond_counting_is_refused(client: httpx.AsyncClient, service: Service) -> None:
    """The checksum is no secret, so a file may claim any step; one that leaves no number for the next is not taken."""
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
