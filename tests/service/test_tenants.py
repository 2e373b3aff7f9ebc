"""No tenant can take from the others what they need: sessions, the queue, and what is stored of their requests."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from service.api.auth import Authenticator
from service.app import Service
from service.errors import RefusedToStart
from service.sessions import replay
from service.sessions.tombstones import Tombstones
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.conftest import FEATURES, RunningServer

TENANTS = ("alpha", "beta", "gamma")
SESSIONS = "/v1/models/lstm/sessions"
PREDICT = "/v1/models/lstm/predict"
SMALL = {"inputs": [[[0.5] * FEATURES]]}


def write_keys(path: Path, *tenants: str) -> Path:
    """Write a key for each tenant: its name. A name may be followed by `:role`."""
    lines = []
    for tenant in tenants:
        name, colon, role = tenant.partition(":")
        lines.append(f"{name}:{hashlib.sha256(name.encode()).hexdigest()}{colon}{role}\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def settings(artifacts: Path, tmp_path: Path) -> Settings:
    keys = write_keys(tmp_path / "keys", *TENANTS)
    return Settings(artifacts=artifacts, max_sessions=40, queue_limit=40, api_key_file=keys, tenant_share=0.5)


@asynccontextmanager
async def clients_of(service: Service) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    transport = httpx.ASGITransport(service.app)
    clients = {
        tenant: httpx.AsyncClient(transport=transport, base_url="http://service", headers={"x-api-key": tenant})
        for tenant in TENANTS
    }
    yield clients
    for client in clients.values():
        await client.aclose()


@pytest.fixture
async def clients(service: Service) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    async with clients_of(service) as made:
        yield made


async def open_all(client: httpx.AsyncClient, count: int = 60, **fields: Any) -> tuple[list[str], httpx.Response]:
    """Open sessions until one is refused; return their ids and the refusal."""
    opened: list[str] = []
    for _ in range(count):
        answer = await client.post(SESSIONS, json=fields)
        if answer.status_code != 201:
            return opened, answer
        opened.append(answer.json()["session_id"])
    raise AssertionError(f"{count} sessions were opened, and none refused")


async def test_one_tenant_cannot_take_all_sessions(clients: dict[str, httpx.AsyncClient]) -> None:
    """A tenant gets its share of sessions, then `tenant_full`; two that take all they can leave a third its part."""
    opened, refused = await open_all(clients["alpha"])
    assert len(opened) == 20
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["code"] == "tenant_full"
    assert refused.json()["limit"] == 20
    assert [len((await open_all(clients[tenant]))[0]) for tenant in ("beta", "gamma")] == [10, 10]
    assert (await clients["alpha"].delete(f"/v1/sessions/{opened[0]}")).status_code == 204
    assert (await clients["alpha"].post(SESSIONS)).status_code == 201


async def test_rows_kept_for_rewinds_count(clients: dict[str, httpx.AsyncClient]) -> None:
    """The rows that sessions keep count as sessions do: a tenant's share of the state memory is bounded too."""
    opened, refused = await open_all(clients["alpha"], keep=4)
    assert (len(opened), refused.json()["code"]) == (4, "tenant_full")
    assert (await clients["beta"].post(SESSIONS, json={"keep": 9})).status_code == 201


async def test_every_way_to_open_a_session_is_bounded(clients: dict[str, httpx.AsyncClient]) -> None:
    """Forks, fleet steps and sequences are refused at the tenant's share as new sessions are."""
    alpha = clients["alpha"]
    opened, _ = await open_all(alpha)
    fork = await alpha.post(f"/v1/sessions/{opened[0]}/fork", json={})
    assert (fork.status_code, fork.json()["code"]) == (429, "tenant_full")
    row = {"sessions": ["new"], "inputs": SMALL["inputs"], "create": True}
    assert (await alpha.post("/v1/models/lstm/fleet", json=row)).json()["errors"][0]["code"] == "tenant_full"
    tensor = {"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}
    parameters = {"sequence_id": 7, "sequence_start": True}
    started = await alpha.post("/v2/models/lstm/infer", json={"inputs": [tensor], "parameters": parameters})
    assert (started.status_code, started.json()["code"], started.json()["retryable"]) == (503, "tenant_full", True)
    assert (await clients["beta"].post("/v1/models/lstm/fleet", json=row)).json()["created"] == [0]


async def test_sessions_that_expire_make_room(
    service: Service, clients: dict[str, httpx.AsyncClient], clock: FakeClock
) -> None:
    """A tenant that was at its share can open as many again once its sessions have expired."""
    for _ in range(2):
        assert len((await open_all(clients["alpha"]))[0]) == 20
        clock.advance(service.settings.idle_limit + 1)
        service.sessions.sweep()
        assert not service.repository.find("lstm").sessions


async def until_waiting(service: Service, count: int) -> None:
    """Let the event loop run until so many requests wait."""
    for _ in range(10_000):
        if service.repository.find("lstm").batcher.waiting >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"{count} requests never waited")


async def many(client: httpx.AsyncClient, count: int, body: object) -> Counter[str]:
    """Send as many predictions at once; return how often each status and code was answered."""
    answers = await asyncio.gather(*(client.post(PREDICT, json=body) for _ in range(count)))
    return Counter(f"{each.status_code} {each.json().get('code', '')}".strip() for each in answers)


async def test_one_tenant_cannot_fill_the_queue(clients: dict[str, httpx.AsyncClient]) -> None:
    """A tenant's waiting requests are refused beyond its share, with `tenant_busy`; others are always admitted."""
    flood = asyncio.gather(*(many(clients["alpha"], 60, {"inputs": [[[0.5] * FEATURES] * 2000]}) for _ in range(1)))
    await asyncio.sleep(0)
    seen: Counter[str] = Counter()
    while not flood.done():
        seen += await many(clients["beta"], 5, SMALL)
        await asyncio.sleep(0.001)
    assert set(seen) == {"200"}
    (alphas,) = await flood
    assert set(alphas) == {"200", "429 tenant_busy"}
    assert alphas["200"] >= 20
    assert await many(clients["alpha"], 15, SMALL) == Counter({"200": 15})


async def test_a_small_prediction_does_not_wait_for_another_tenants_long_ones(
    service: Service, clients: dict[str, httpx.AsyncClient]
) -> None:
    """A small prediction is answered while nearly all of another tenant's long ones, sent before it, still wait."""
    long = {"inputs": [[[0.5] * FEATURES] * 20_000]}
    flood = [asyncio.ensure_future(clients["alpha"].post(PREDICT, json=long)) for _ in range(15)]
    await until_waiting(service, 15)
    for _ in range(5):
        assert (await clients["beta"].post(PREDICT, json=SMALL)).status_code == 200
    assert sum(each.done() for each in flood) <= 5
    assert [each.status_code for each in await asyncio.gather(*flood)] == [200] * 15
    assert not any(service.repository.find("lstm").batcher._quota.held.values())


async def test_steps_of_one_tenant_do_not_wait_for_another_tenants_fleets(
    service: Service, clients: dict[str, httpx.AsyncClient]
) -> None:
    """A step is answered before the queue of another tenant's fleet steps is empty."""
    session = (await clients["beta"].post(SESSIONS)).json()["session_id"]
    fleets = []
    for number in range(15):
        body = {"sessions": [f"{number}"], "inputs": [[[0.5] * FEATURES] * 16], "create": True}
        fleets.append(asyncio.ensure_future(clients["alpha"].post("/v1/models/lstm/fleet", json=body)))
    await until_waiting(service, 15)
    left = []
    for _ in range(3):
        await clients["beta"].post(f"/v1/sessions/{session}/steps", json={"inputs": SMALL["inputs"][0]})
        left.append(sum(not each.done() for each in fleets))
    assert left[0] >= 10
    assert {each.status_code for each in await asyncio.gather(*fleets)} == {200}


@pytest.fixture(params=["one tenant", "no keys"])
def undivided(request: pytest.FixtureRequest, artifacts: Path, tmp_path: Path) -> Settings:
    keys = write_keys(tmp_path / "one", "alpha") if request.param == "one tenant" else None
    return Settings(artifacts=artifacts, max_sessions=40, queue_limit=40, api_key_file=keys)


async def test_a_single_tenant_may_take_everything(undivided: Settings, clock: FakeClock) -> None:
    """With keys of one tenant, or without keys, all sessions can be taken; then the table is full, as before."""
    service = Service(undivided, clock)
    service.open()
    async with clients_of(service) as clients:
        opened, refused = await open_all(clients["alpha"])
        assert (len(opened), refused.json()["code"]) == (40, "table_full")
    service.close()


async def open_and_close(client: httpx.AsyncClient, count: int) -> None:
    """Open sessions, each by a key of its own, and end them."""
    for number in range(count):
        answer = await client.post(SESSIONS, headers={"idempotency-key": f"k{number}"})
        await client.delete(f"/v1/sessions/{answer.json()['session_id']}")


@pytest.fixture
def small_caches(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bound what is stored of repeated requests to a few values, before the service is composed; return how many."""
    monkeypatch.setattr(replay, "MOST_CREATIONS", 30)
    monkeypatch.setattr(replay, "MOST_RESPONSES", 30)
    monkeypatch.setattr(replay, "MOST_RESPONSE_BYTES", 30 * 8)
    return 30


async def test_another_tenants_openings_do_not_open_a_session_twice(
    small_caches: int, settings: Settings, clock: FakeClock
) -> None:
    """A repeated creation gives the same session, however many sessions another tenant has opened in between."""
    service = Service(settings, clock)
    service.open()
    async with clients_of(service) as clients:
        keyed = {"idempotency-key": "order-1"}
        first = (await clients["beta"].post(SESSIONS, headers=keyed)).json()["session_id"]
        await open_and_close(clients["alpha"], 3 * small_caches)
        again = (await clients["beta"].post(SESSIONS, headers=keyed)).json()["session_id"]
        assert again == first
        await open_and_close(clients["gamma"], 3 * small_caches)
        assert (await clients["beta"].post(SESSIONS, headers=keyed)).json()["session_id"] == first
    service.close()


async def test_another_tenants_endings_do_not_hide_why_a_session_ended(
    service: Service, clients: dict[str, httpx.AsyncClient]
) -> None:
    """A session that was closed is answered with 410 however many sessions another tenant has closed since."""
    service.sessions._tombstones = Tombstones(service.sessions._clock, 30)
    opened = (await clients["beta"].post(SESSIONS)).json()["session_id"]
    assert (await clients["beta"].delete(f"/v1/sessions/{opened}")).status_code == 204
    await open_and_close(clients["alpha"], 90)
    gone = await clients["beta"].get(f"/v1/sessions/{opened}")
    assert (gone.status_code, gone.json()["code"]) == (410, "session_closed")
    assert (await clients["alpha"].get(f"/v1/sessions/{opened}")).status_code == 404
    assert len(service.sessions._tombstones) == 30


async def test_another_tenants_sequences_do_not_drop_a_final_response(
    small_caches: int, settings: Settings, clock: FakeClock
) -> None:
    """The request that ended a sequence is answered again, however many sequences another tenant has ended since."""
    service = Service(settings, clock)
    service.open()
    async with clients_of(service) as clients:
        tensor = {"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}

        def whole(sequence: int) -> dict[str, object]:
            flags = {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
            return {"id": "only", "inputs": [tensor], "parameters": flags}

        first = await clients["beta"].post("/v2/models/lstm/infer", json=whole(1))
        for sequence in range(1, 3 * small_caches):
            assert (await clients["alpha"].post("/v2/models/lstm/infer", json=whole(sequence))).status_code == 200
        created = service.repository.find("lstm").sessions_created
        again = await clients["beta"].post("/v2/models/lstm/infer", json=whole(1))
        assert again.json()["outputs"] == first.json()["outputs"]
        assert service.repository.find("lstm").sessions_created == created
    service.close()


COUNTS_OF_ALL = ("/metrics", "/v2/models/stats", "/v2/models/lstm/stats", "/v2/models/lstm/versions/1/stats")
"""The paths whose replies have counts of all tenants."""


async def test_the_number_of_sessions_is_ones_own(clients: dict[str, httpx.AsyncClient]) -> None:
    """A model's `sessions` are the tenant's own, and `max_sessions` how many it may have."""
    for _ in range(3):
        await clients["alpha"].post(SESSIONS)
    for tenant, count in (("alpha", 3), ("beta", 0)):
        one = (await clients[tenant].get("/v1/models/lstm")).json()
        listed = {each["name"]: each for each in (await clients[tenant].get("/v1/models")).json()["models"]}
        assert (one["sessions"], one["max_sessions"]) == (count, 20)
        assert (listed["lstm"]["sessions"], listed["lstm"]["max_sessions"]) == (count, 20)


@pytest.mark.parametrize("path", COUNTS_OF_ALL)
async def test_counts_of_all_tenants_need_the_role(
    artifacts: Path, tmp_path: Path, clock: FakeClock, path: str
) -> None:
    """Where several tenants have keys, only a key with the role metrics may read the counts of all of them."""
    keys = write_keys(tmp_path / "keys", "alpha", "beta", "gamma:metrics")
    service = Service(Settings(artifacts=artifacts, api_key_file=keys), clock)
    service.open()
    async with clients_of(service) as clients:
        for tenant in ("alpha", "beta"):
            refused = await clients[tenant].get(path)
            assert (refused.status_code, refused.json()["code"], refused.json()["role"]) == (
                403,
                "role_needed",
                "metrics",
            )
        assert (await clients["gamma"].get(path)).status_code == 200
        transport = httpx.ASGITransport(service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as anonymous:
            assert (await anonymous.get(path)).status_code == 401
    service.close()


async def test_loading_models_needs_the_role(artifacts: Path, tmp_path: Path, clock: FakeClock) -> None:
    """Where several tenants have keys, only a key with the role admin may unload a model, which ends their sessions."""
    keys = write_keys(tmp_path / "keys", "alpha", "beta", "gamma:admin")
    service = Service(Settings(artifacts=artifacts, api_key_file=keys, model_control=True), clock)
    service.open()
    async with clients_of(service) as clients:
        for verb in ("load", "unload"):
            refused = await clients["alpha"].post(f"/v2/repository/models/lstm/{verb}")
            told = refused.json()
            assert (refused.status_code, told["code"], told["role"]) == (403, "role_needed", "admin")
        assert (await clients["alpha"].get("/v1/models/lstm")).status_code == 200
        assert (await clients["gamma"].get("/metrics")).status_code == 403
        assert (await clients["gamma"].post("/v2/repository/models/lstm/unload")).status_code == 200
        assert (await clients["alpha"].get("/v1/models/lstm")).status_code == 404
    service.close()


async def test_switched_off_model_control_needs_no_role(
    service: Service, clients: dict[str, httpx.AsyncClient]
) -> None:
    """Where models cannot be loaded by clients, each of them is told so."""
    refused = await clients["alpha"].post("/v2/repository/models/lstm/unload")
    assert (refused.status_code, refused.json()["code"]) == (503, "model_control_off")


@pytest.mark.parametrize("path", COUNTS_OF_ALL)
async def test_a_single_tenant_reads_its_own_counts(undivided: Settings, clock: FakeClock, path: str) -> None:
    """With keys of one tenant, or without keys, no role is needed, as all counts are its own."""
    service = Service(undivided, clock)
    service.open()
    async with clients_of(service) as clients:
        assert (await clients["alpha"].get(path)).status_code == 200
    service.close()


async def test_a_key_for_monitoring_takes_no_share(artifacts: Path, tmp_path: Path, clock: FakeClock) -> None:
    """A tenant that has only keys with the role metrics is not counted where limits are divided."""
    keys = write_keys(tmp_path / "keys", "alpha", "gamma:metrics")
    service = Service(Settings(artifacts=artifacts, max_sessions=40, api_key_file=keys), clock)
    service.open()
    async with clients_of(service) as clients:
        opened, refused = await open_all(clients["alpha"])
        assert (len(opened), refused.json()["code"]) == (40, "table_full")
    service.close()


def test_a_role_that_is_not_known_prevents_the_start(tmp_path: Path) -> None:
    """A key file with a role that is not known is refused with the line that has it."""
    with pytest.raises(RefusedToStart, match=r"line 2: .* :metrics or :admin"):
        Authenticator.from_file(write_keys(tmp_path / "keys", "alpha", "beta:root"))


async def test_steps_and_fleets_beyond_the_share_are_refused(
    service: Service, clients: dict[str, httpx.AsyncClient]
) -> None:
    """Beyond its share of the queue, a tenant's steps, fleet steps and `/v2` requests are refused; no step is taken."""
    alpha, beta = clients["alpha"], clients["beta"]
    session = (await alpha.post(SESSIONS)).json()["session_id"]
    service.repository.find("lstm").batcher._quota.held["alpha"] += 20
    step = await alpha.post(f"/v1/sessions/{session}/steps", json={"inputs": SMALL["inputs"][0]})
    fleet = await alpha.post("/v1/models/lstm/fleet", json={"sessions": [session], "inputs": SMALL["inputs"]})
    body = {"sessions": ["a"], "inputs": SMALL["inputs"], "create": True}
    creating = await alpha.post("/v1/models/lstm/fleet", json=body)
    assert len(service.sessions) == 1
    for refused in (step, fleet, creating):
        assert (refused.status_code, refused.json()["code"]) == (429, "tenant_busy")
        assert (refused.headers["retry-after"], refused.json()["limit"]) == ("1", 20)
    tensor = {"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}
    body = {"inputs": [tensor], "parameters": {"sequence_id": session}}
    refused = await alpha.post("/v2/models/lstm/infer", json=body)
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (503, "tenant_busy", True)
    assert (await beta.post(PREDICT, json=SMALL)).status_code == 200
    service.repository.find("lstm").batcher._quota.held["alpha"] -= 20
    assert (await alpha.get(f"/v1/sessions/{session}")).json()["step"] == 0
    assert (await alpha.post(PREDICT, json=SMALL)).status_code == 200


async def test_a_refused_start_leaves_the_sequence_that_it_would_replace(
    service: Service, clients: dict[str, httpx.AsyncClient]
) -> None:
    """A sequence that cannot be started again, as too many requests wait, goes on where it was."""
    alpha = clients["alpha"]
    tensor = {"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}

    async def infer(**parameters: object) -> httpx.Response:
        body = {"inputs": [tensor], "parameters": {"sequence_id": 7, **parameters}}
        return await alpha.post("/v2/models/lstm/infer", json=body)

    assert (await infer(sequence_start=True)).status_code == 200
    held = service.repository.find("lstm").batcher._quota.held
    held["alpha"] += 20
    assert (await infer(sequence_start=True)).json()["code"] == "tenant_busy"
    held["alpha"] -= 20
    assert (await infer()).json()["parameters"]["step"] == 2
    assert len(service.sessions) == 1


async def test_a_tenant_at_its_share_may_start_a_sequence_again(clients: dict[str, httpx.AsyncClient]) -> None:
    """At its share, a tenant can still replace a sequence of its own, as that takes no more room."""
    alpha = clients["alpha"]
    tensor = {"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}
    for sequence in [*range(1, 21), 7, 7]:
        body = {"inputs": [tensor], "parameters": {"sequence_id": sequence, "sequence_start": True}}
        assert (await alpha.post("/v2/models/lstm/infer", json=body)).status_code == 200
    body["parameters"] = {"sequence_id": 21, "sequence_start": True}
    assert (await alpha.post("/v2/models/lstm/infer", json=body)).json()["code"] == "tenant_full"


def test_streams_are_bounded_and_other_tenants_served(artifacts: Path, tmp_path: Path) -> None:
    """A real server refuses a tenant's handshake beyond its share with 429, and opens another tenant's stream."""
    keys = write_keys(tmp_path / "keys", "alpha", "beta")
    server = RunningServer(artifacts, "--api-key-file", str(keys), "--max-sessions", "8", "--tenant-share", "0.25")
    url = server.url.replace("http", "ws") + "/v1/models/lstm/stream"
    try:
        with ExitStack() as opened:
            for _ in range(2):
                opened.enter_context(connect(url, additional_headers={"x-api-key": "alpha"}))
            with pytest.raises(InvalidStatus) as refused:
                opened.enter_context(connect(url, additional_headers={"x-api-key": "alpha"}))
            answer = refused.value.response
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert json.loads(answer.body or b"")["code"] == "tenant_full"
            stream = opened.enter_context(connect(url, additional_headers={"x-api-key": "beta"}))
            stream.send(json.dumps({"inputs": SMALL["inputs"][0]}))
            assert json.loads(stream.recv())["step"] == 1
    finally:
        assert server.stop() == 0


async def test_a_share_follows_the_number_of_tenants(
    service: Service, clients: dict[str, httpx.AsyncClient], tmp_path: Path
) -> None:
    """Once only one tenant has keys, it may take everything; when others come back, no more than its share."""
    alpha = clients["alpha"]
    keys = write_keys(tmp_path / "keys", "alpha")
    service.reload_keys()
    opened, refused = await open_all(alpha)
    assert (len(opened), refused.json()["code"]) == (40, "table_full")
    write_keys(keys, *TENANTS)
    service.reload_keys()
    for session in opened[:21]:
        assert (await alpha.post(SESSIONS)).status_code == 429
        await alpha.delete(f"/v1/sessions/{session}")
    assert (await alpha.post(SESSIONS)).status_code == 201
    assert (await clients["beta"].post(SESSIONS)).status_code == 201
