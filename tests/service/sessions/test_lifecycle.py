"""What a client does with a whole session: open, fork, rewind, peek, snapshot, restore, extend, list."""

import asyncio
import base64
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import safetensors.numpy

from models.network import Network
from service.app import Service
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import offline, random_inputs

Answer = dict[str, object]


async def opened(client: httpx.AsyncClient, model: str = "lstm", **options: object) -> str:
    answer = await client.post(f"/v1/models/{model}/sessions", json=options)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["session_id"])


async def stepped(client: httpx.AsyncClient, session: str, inputs: np.ndarray, **numbers: object) -> np.ndarray:
    answer = await client.post(f"/v1/sessions/{session}/steps", json={"inputs": inputs.tolist(), **numbers})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["outputs"], np.float32)


async def described(client: httpx.AsyncClient, session: str) -> dict[str, object]:
    answer: dict[str, object] = (await client.get(f"/v1/sessions/{session}")).json()
    return answer


def held(service: Service, model: str = "lstm") -> int:
    return service.repository.find(model).arena.slots.leased


@pytest.mark.parametrize("model", ["lstm", "gru-reset-after", "rnn-tanh"])
async def test_a_fork_is_independent(client: httpx.AsyncClient, networks: dict[str, Network], model: str) -> None:
    """A session and its fork each give the outputs of an offline run over their own steps."""
    common, ours, theirs = random_inputs(5), random_inputs(4, 1), random_inputs(4, 2)
    session = await opened(client, model)
    await stepped(client, session, common)
    fork = (await client.post(f"/v1/sessions/{session}/fork")).json()
    assert (fork["step"], fork["epoch"]) == (5, 0)
    for name, rest in ((session, ours), (fork["session_id"], theirs)):
        expected = offline(networks[model], np.concatenate([common, rest]))[5:]
        np.testing.assert_allclose(await stepped(client, name, rest), expected, atol=1e-5)


async def test_a_fork_shares_its_row_until_it_steps(client: httpx.AsyncClient, service: Service) -> None:
    """Forks hold no row of their own until they step, and the shared row is released by its last holder."""
    session = await opened(client)
    await stepped(client, session, random_inputs(1))
    forks = [(await client.post(f"/v1/sessions/{session}/fork")).json()["session_id"] for _ in range(20)]
    assert held(service) == 1
    await stepped(client, forks[0], random_inputs(1))
    assert held(service) == 2
    for name in (session, *forks):
        await client.delete(f"/v1/sessions/{name}")
    assert held(service) == 0
    assert service.repository.find("lstm").promised == 0


async def test_a_fork_answers_the_last_request_again(client: httpx.AsyncClient) -> None:
    """A fork can replay the last request that its parent answered."""
    session, inputs = await opened(client), random_inputs(2)
    first = await stepped(client, session, inputs, step=1)
    fork = (await client.post(f"/v1/sessions/{session}/fork")).json()["session_id"]
    np.testing.assert_array_equal(await stepped(client, fork, inputs, step=1), first)
    assert (await described(client, fork))["step"] == 2


async def test_a_rewind_restores_the_earlier_state(client: httpx.AsyncClient, networks: dict[str, Network]) -> None:
    """After a rewind, a session goes on from the state before those requests, in the next epoch."""
    inputs = random_inputs(6)
    session = await opened(client, keep=2)
    for row in inputs[:4]:
        await stepped(client, session, row[None])
    answer = await client.post(f"/v1/sessions/{session}/rewind", json={"requests": 2})
    assert (answer.json()["step"], answer.json()["epoch"]) == (2, 1)
    expected = offline(networks["lstm"], inputs[[0, 1, 4, 5]])[2:]
    np.testing.assert_allclose(await stepped(client, session, inputs[4:], step=3, epoch=1), expected, atol=1e-5)


async def test_a_rewind_goes_no_further_than_what_is_kept(client: httpx.AsyncClient, service: Service) -> None:
    """A rewind of more requests than are kept is refused with their number, and changes nothing."""
    session = await opened(client, keep=3)
    for _ in range(5):
        await stepped(client, session, random_inputs(1))
    assert held(service) == 4
    answer = await client.post(f"/v1/sessions/{session}/rewind", json={"requests": 4})
    assert (answer.status_code, answer.json()["code"], answer.json()["kept"]) == (409, "rewind_too_far", 3)
    assert (await described(client, session))["step"] == 5
    await client.post(f"/v1/sessions/{session}/rewind", json={"requests": 3})
    assert ((await described(client, session))["step"], held(service)) == (2, 1)


async def test_the_request_before_a_rewind_is_replayed(client: httpx.AsyncClient) -> None:
    """After a rewind, the request that led to the present state can be replayed."""
    session, inputs = await opened(client, keep=1), random_inputs(2)
    first = await stepped(client, session, inputs[:1], step=1)
    await stepped(client, session, inputs[1:], step=2)
    await client.post(f"/v1/sessions/{session}/rewind", json={"requests": 1})
    np.testing.assert_array_equal(await stepped(client, session, inputs[:1], step=1), first)


async def test_a_step_for_another_epoch_is_refused(client: httpx.AsyncClient) -> None:
    """A step that names an older epoch is refused with the present one."""
    session = await opened(client, keep=1)
    await stepped(client, session, random_inputs(1))
    await client.post(f"/v1/sessions/{session}/rewind", json={"requests": 1})
    body = {"inputs": random_inputs(1).tolist(), "step": 1, "epoch": 0}
    answer = await client.post(f"/v1/sessions/{session}/steps", json=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["epoch"]) == (409, "epoch_conflict", 1)


async def test_a_peek_changes_nothing(
    client: httpx.AsyncClient, networks: dict[str, Network], service: Service
) -> None:
    """A peek gives the outputs of the step, each time it is sent, and does not advance the session."""
    inputs = random_inputs(40)
    expected = offline(networks["lstm"], inputs)
    session = await opened(client)
    await stepped(client, session, inputs[:3])
    for _ in range(2):
        answer = (await client.post(f"/v1/sessions/{session}/peek", json={"inputs": inputs[3:].tolist()})).json()
        assert answer["step"] == 40
        np.testing.assert_allclose(answer["outputs"], expected[3:], atol=1e-5)
    assert ((await described(client, session))["step"], held(service)) == (3, 1)
    np.testing.assert_allclose(await stepped(client, session, inputs[3:]), expected[3:], atol=1e-5)


async def test_a_session_starts_after_a_history(client: httpx.AsyncClient, networks: dict[str, Network]) -> None:
    """A session that is opened with a history of thousands of steps continues after its last step."""
    inputs = random_inputs(3000)
    session = await opened(client, history=inputs[:2995].tolist())
    assert (await described(client, session))["step"] == 2995
    expected = offline(networks["lstm"], inputs)[2995:]
    np.testing.assert_allclose(await stepped(client, session, inputs[2995:], step=2996), expected, atol=1e-5)


async def test_a_history_that_cannot_be_taken_leaves_no_session(client: httpx.AsyncClient, service: Service) -> None:
    """A history that cannot be taken is refused as a step would be, and opens no session."""
    for history, code in (([[1, 2]], "invalid_input"), ([[1e30, 1e30, 1e30]] * 40, "state_not_finite")):
        answer = await client.post("/v1/models/explosive/sessions", json={"history": history})
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert (len(service.sessions), held(service, "explosive")) == (0, 0)


async def snapshot(client: httpx.AsyncClient, session: str) -> bytes:
    answer = await client.get(f"/v1/sessions/{session}/state")
    assert answer.headers["content-type"] == "application/octet-stream"
    return answer.content


@pytest.mark.parametrize("how", ["put", "body", "base64"])
async def test_a_session_continues_from_a_snapshot(
    client: httpx.AsyncClient, networks: dict[str, Network], how: str
) -> None:
    """A session that is opened or restored from a snapshot continues from its state and step."""
    inputs = random_inputs(8)
    session = await opened(client)
    await stepped(client, session, inputs[:5])
    taken = await snapshot(client, session)
    if how == "put":
        other = await opened(client, keep=2)
        await stepped(client, other, random_inputs(2, 3))
        answer = await client.put(f"/v1/sessions/{other}/state", content=taken)
        assert (answer.json()["step"], answer.json()["epoch"]) == (5, 1)
    elif how == "body":
        octets = {"content-type": "application/octet-stream"}
        answer = await client.post("/v1/models/lstm/sessions", content=taken, headers=octets)
        assert (answer.json()["step"], answer.json()["epoch"]) == (5, 0)
        other = answer.json()["session_id"]
    else:
        other = await opened(client, state=base64.b64encode(taken).decode())
    expected = offline(networks["lstm"], inputs)[5:]
    np.testing.assert_allclose(await stepped(client, other, inputs[5:], step=6), expected, atol=1e-5)


async def test_a_snapshot_is_a_safetensors_file(client: httpx.AsyncClient, service: Service) -> None:
    """A snapshot is a safetensors file of the states by name, and is the same each time it is taken."""
    session = await opened(client)
    await stepped(client, session, random_inputs(1))
    taken = await snapshot(client, session)
    card = service.repository.find("lstm").card
    assert {name: rows.shape for name, rows in safetensors.numpy.load(taken).items()} == {
        state.name: state.shape for state in card.states
    }
    assert await snapshot(client, session) == taken


async def test_a_damaged_snapshot_is_refused(client: httpx.AsyncClient) -> None:
    """A snapshot with a flipped bit, or of another length, is refused, and changes nothing."""
    session = await opened(client)
    await stepped(client, session, random_inputs(2))
    taken = await snapshot(client, session)
    before = await described(client, session)
    random = np.random.default_rng(0)
    damaged = [taken[:-1], taken + b"\0", b"", taken[:8], b"\xff" * len(taken), b"\x80\x04N." + taken]
    for at in random.permutation(len(taken))[:300]:
        turned = bytearray(taken)
        turned[at] ^= 1 << int(random.integers(8))
        damaged.append(bytes(turned))
    for body in damaged:
        answer = await client.put(f"/v1/sessions/{session}/state", content=body)
        assert answer.status_code in (409, 422), answer.text
        assert answer.json()["code"] in ("snapshot_corrupt", "snapshot_mismatch")
    answer = await client.put(f"/v1/sessions/{session}/state", content=taken + bytes(1 << 20))
    assert answer.json()["code"] == "body_too_large"
    after = await described(client, session)
    assert (after["step"], after["epoch"]) == (before["step"], before["epoch"])


async def test_a_snapshot_of_another_model_is_refused(client: httpx.AsyncClient) -> None:
    """A snapshot of another model is refused with the field that differs."""
    taken = await snapshot(client, await opened(client, "gru-reset-after"))
    answer = await client.put(f"/v1/sessions/{await opened(client, 'lstm')}/state", content=taken)
    assert (answer.status_code, answer.json()["code"], answer.json()["where"]) == (409, "snapshot_mismatch", "model")


async def test_sessions_are_listed_page_by_page(client: httpx.AsyncClient, clock: FakeClock) -> None:
    """Each session is listed once, in the sequence of opening, even if the one that ends a page is deleted."""
    ids = [await opened(client) for _ in range(10)]
    await client.delete(f"/v1/sessions/{ids[2]}")
    del ids[2]
    listed: list[str] = []
    page: dict[str, object] = {"next": None}
    while True:
        after = {"after": str(page["next"])} if page["next"] else {}
        page = (await client.get("/v1/sessions", params={"limit": "4", **after})).json()
        sessions = page["sessions"]
        assert isinstance(sessions, list)
        listed += [session["session_id"] for session in sessions]
        if page["next"] is None:
            break
        await client.delete(f"/v1/sessions/{page['next']}")
    assert listed == ids


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=nobody", "page=2"])
async def test_a_bad_page_is_refused(client: httpx.AsyncClient, query: str) -> None:
    """A query with an invalid limit, an unknown session or an unknown parameter is refused."""
    answer = await client.get(f"/v1/sessions?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_an_idle_limit_is_extended(client: httpx.AsyncClient, clock: FakeClock, service: Service) -> None:
    """A new idle limit, longer or shorter, applies from the time of the request."""
    session, short = await opened(client, idle_limit=10), await opened(client, idle_limit=1000)
    clock.advance(9)
    for name, limit in ((session, 100), (short, 5)):
        answer = await client.patch(f"/v1/sessions/{name}", json={"idle_limit": limit})
        assert answer.json()["idle_limit"] == limit
    clock.advance(50)
    assert service.sessions.sweep() == 1
    assert (await client.get(f"/v1/sessions/{session}")).status_code == 200
    assert (await client.get(f"/v1/sessions/{short}")).json()["code"] == "session_expired"


async def test_a_creation_sent_again_opens_one_session(client: httpx.AsyncClient, service: Service) -> None:
    """The same Idempotency-Key gives the same session, and is refused with another body."""
    key = {"idempotency-key": "k1"}
    answers = [(await client.post("/v1/models/lstm/sessions", headers=key, json={"keep": 1})).json() for _ in range(3)]
    assert len({answer["session_id"] for answer in answers}) == len(service.sessions) == 1
    other = await client.post("/v1/models/lstm/sessions", headers=key, json={"keep": 2})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    bad = await client.post("/v1/models/lstm/sessions", headers={"idempotency-key": "a b"})
    assert (bad.status_code, bad.json()["where"]) == (422, "Idempotency-Key")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "fork", {"keep": 65}),
        ("POST", "fork", {"keep": -1}),
        ("POST", "fork", {"idle_limit": 0}),
        ("POST", "rewind", {"requests": 0}),
        ("POST", "rewind", {"requests": 1.5}),
        ("POST", "rewind", {}),
        ("POST", "rewind", []),
        ("PATCH", "", {"idle_limit": 1e9}),
        ("PATCH", "", {"idle_limit": "1"}),
        ("PATCH", "", {}),
    ],
)
async def test_bad_options_change_nothing(client: httpx.AsyncClient, method: str, path: str, body: object) -> None:
    """Invalid options are refused with 422, and the session stays as it is."""
    session = await opened(client, keep=1)
    await stepped(client, session, random_inputs(1))
    before = await described(client, session)
    answer = await client.request(method, f"/v1/sessions/{session}/{path}".rstrip("/"), json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert (await described(client, session))["step"] == before["step"]


@pytest.fixture
async def small_service(artifacts: object) -> AsyncIterator[Service]:
    """Return a service whose table holds ten rows of a model."""
    made = Service(Settings(artifacts=artifacts, max_sessions=10), FakeClock())
    made.open()
    yield made
    made.close()


async def test_kept_requests_count_as_sessions(small_service: Service) -> None:
    """A session that keeps four requests counts as five sessions."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(small_service.app), base_url="http://service") as client:
        for _ in range(2):
            session = await opened(client, keep=4)
            for _ in range(8):
                await stepped(client, session, random_inputs(1))
        full = await client.post("/v1/models/lstm/sessions", json={})
        assert (full.status_code, full.json()["code"]) == (429, "table_full")
        assert held(small_service) == 10


async def test_a_creation_sent_again_waits_for_the_history(client: httpx.AsyncClient, service: Service) -> None:
    """A creation that is repeated while its history runs waits for it, and gets the same session."""
    options = {"history": random_inputs(20_000).tolist()}

    async def open_once() -> dict[str, object]:
        answer = await client.post("/v1/models/lstm/sessions", headers={"idempotency-key": "long"}, json=options)
        told: dict[str, object] = answer.json()
        return told

    first, again = await asyncio.gather(open_once(), open_once())
    assert (first["session_id"], first["step"]) == (again["session_id"], again["step"])
    assert (again["step"], len(service.sessions)) == (20_000, 1)


async def test_a_fork_and_a_rewind_sent_again_are_done_once(client: httpx.AsyncClient, service: Service) -> None:
    """A fork repeated with its key, and a rewind repeated with its epoch, take effect once."""
    session = await opened(client, keep=4)
    for _ in range(4):
        await stepped(client, session, random_inputs(1))
    key = {"idempotency-key": "f"}
    forks = [(await client.post(f"/v1/sessions/{session}/fork", headers=key)).json() for _ in range(2)]
    assert forks[0]["session_id"] == forks[1]["session_id"]
    rewinds = [
        (await client.post(f"/v1/sessions/{session}/rewind", json={"requests": 2, "epoch": 0})).json() for _ in range(2)
    ]
    assert [(told["step"], told["epoch"]) for told in rewinds] == [(2, 1)] * 2
    other = await client.post(f"/v1/sessions/{session}/rewind", json={"requests": 1, "epoch": 0})
    assert (other.status_code, other.json()["code"]) == (409, "epoch_conflict")
