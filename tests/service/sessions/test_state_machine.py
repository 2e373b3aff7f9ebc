"""Whatever is asked in whatever order, the service answers what a plain model answers, and holds no row too many."""

import asyncio
import base64
import copy
import hashlib
import itertools
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import settings as effort
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from export import export_network
from models.network import Network, NetworkConfig
from service.app import Service
from service.engine.chunk import Chunk
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.numpy_model import Moment, Twin, World
from tests.service.ways_in import (
    OCTETS,
    WAYS,
    Answer,
    FleetAnswer,
    Order,
    Refused,
    Taken,
    Wire,
    by_json,
    by_octets,
    fleet,
)

MODEL = "halving"
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
"""All but the one that explains a failure, which takes longer than finding it."""
NOTHING = np.zeros(1, "<f4").tobytes()
TENANTS = ("ann", "bob")
MOST_ROWS = 14
"""So few that the table is full now and then."""

_T = TypeVar("_T")

tenants = st.sampled_from(TENANTS)
picks = st.integers(0, 999)
"""Which of those that are there, counted round."""
ways = st.sampled_from(sorted(WAYS))
numbers = st.sampled_from([1.0, 2.0, 3.0, 0.0, -1.0, 3e38])
"""3e38 twice gives a state that is not finite."""
chunks = st.lists(numbers, min_size=1, max_size=4).map(lambda values: np.array(values, "<f4").tobytes())
tame_chunks = st.lists(numbers.filter(lambda x: x < 1e9), min_size=1, max_size=4).map(
    lambda values: np.array(values, "<f4").tobytes()
)
places = st.sampled_from(["next", "none", "again", "older", "gap"])
epochs = st.sampled_from(["none", "none", "right", "wrong"])
idle_limits = st.sampled_from([None, None, 1, 1, 30.5, 7200])
keeps = st.sampled_from([None, 0, 1, 3, 3])
pauses = st.integers(0, 4)
"""So many turns the loop takes before what comes next comes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one artefact, h ← relu(h / 2 + x) and y = h, and the file of the two tenants' keys."""
    made = tmp_path_factory.mktemp("halving")
    network = Network(NetworkConfig(cell="rnn_relu", input_size=1, hidden_size=1, output_size=1))
    values = {"gates.W": 1.0, "gates.R": 0.5, "gates.b": 0.0, "head.weight": 1.0, "head.bias": 0.0}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(values[name.removeprefix("stack.layers.0.")])
    export_network(network, made, MODEL, 1)
    lines = [f"{tenant}:{hashlib.sha256(tenant.encode()).hexdigest()}" for tenant in TENANTS]
    (made / "keys").write_text("\n".join(lines))
    return made


class Later(Executor):
    """Stands for the engine's thread: a run ends so many turns of the loop later, the same each time it is tried."""

    TURNS = 3

    def submit(self, run: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run in a few turns' time; a failure is the future's."""
        future: Future[Any] = Future()
        loop = asyncio.get_running_loop()

        def wait(turns: int) -> None:
            if turns:
                loop.call_soon(wait, turns - 1)
                return
            try:
                future.set_result(run(*args, **kwargs))
            except Exception as exc:
                future.set_exception(exc)

        wait(self.TURNS)
        return future


class Bench:
    """A service to try things on. Making one takes longer than an example, so it is used again where it is as new."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.runner = asyncio.Runner()
        self.examples = 0
        self._open()

    def _open(self) -> None:
        self.clock = FakeClock()
        self.service = Service(self.settings, self.clock)
        self.service.load()
        batcher = self.service.repository.find(MODEL).batcher
        if batcher._thread is not None:
            batcher._thread.shutdown()
            batcher._thread = Later()  # type: ignore[assignment]

    def renew(self) -> None:
        """End all sessions; where anything is left of them but tombstones, take another service.

        What is to come must not depend on what was: it begins long after, at a whole second, behind a lone step.
        """
        model, sessions = self.service.repository.find(MODEL), self.service.sessions
        for session in list(sessions):
            sessions.close(session)
        self.clock.now = math.ceil(self.clock.now) + 7200
        sessions.sweep()
        self.examples += 1
        if len(sessions) or model.promised or model.arena.slots.leased or model.batcher.waiting:
            self.service.close()
            self._open()
        self.runner.run(self._step_alone())

    async def _step_alone(self) -> None:
        model, sessions = self.service.repository.find(MODEL), self.service.sessions
        session = sessions.create("nobody", model, 1)
        await model.batcher.submit((Chunk(session, (NOTHING,), 1),))
        sessions.close(session)

    def close(self) -> None:
        self.service.close()
        self.runner.close()


@pytest.fixture(params=[2.0, pytest.param(1e-6, marks=pytest.mark.slow)], ids=["on the loop", "beside the loop"])
def bench(request: pytest.FixtureRequest, folder: Path) -> Iterator[Bench]:
    """The same is true wherever the engine runs: a turn of 1 ns makes it run beside the loop, a time step at a time."""
    settings = Settings(
        artifacts=folder, api_key_file=folder / "keys", max_sessions=MOST_ROWS, turn_ms=request.param, watch=0
    )
    made = Bench(settings)
    yield made
    made.close()


class SessionApi(RuleBasedStateMachine):
    """Asks the service and the model the same, one rule at a time, and compares what they say and hold."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        bench.renew()
        self.bench, self.clock, self.service = bench, bench.clock, bench.service
        self.served = self.service.repository.find(MODEL)
        self.world = World(bench.settings.max_sessions, bench.settings.idle_limit, self.clock())
        self.wires = {tenant: Wire(self.service.app, MODEL, headers={"x-api-key": tenant}) for tenant in TENANTS}
        self.snapshots: list[tuple[bytes, Moment]] = []
        self.creations: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.fresh_keys = itertools.count()

    def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.bench.runner.run(work)

    def expect(self, work: Callable[[], _T]) -> _T | Refused:
        try:
            return work()
        except Refused as refused:
            return refused

    def pick(self, pick: int) -> Twin:
        """Return a live session: now and then one that is overdue, and for every other pick the newest few."""
        live = self.world.live
        fit = [twin for twin in live if not self.world.overdue(twin)]
        among = fit if fit and pick % 5 else live
        return among[-1 - pick % min(3, len(among))] if pick % 2 else among[pick % len(among)]

    def send(self, tenant: str, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return self.wait(self.wires[tenant].send(method, path, body, **more))

    def described(self, answer: Answer, twin: Twin, status: int = 200) -> None:
        """Check a session's description, and learn the id of a new one."""
        assert answer.status == status, answer
        fields = answer.json()
        if not twin.id:
            twin.id = fields["session_id"]
        if status == 201:
            assert answer.headers["location"] == f"/v1/sessions/{twin.id}"
        del fields["expires_at"]
        same = {"session_id": twin.id, "model": MODEL, "version": 1, "durability": "memory"}
        assert fields == {**same, **twin.described()}

    def checked(self, answer: Answer, expected: Twin | Refused, status: int = 200) -> None:
        """Check an answer that is to be a session's description, or an error."""
        if isinstance(expected, Refused):
            assert answer.refusal() == expected
        else:
            self.described(answer, expected, status)

    def order(self, twin: Twin, inputs: bytes, place: str, epoch: str) -> Order:
        """Number a step as the model's present state has it."""
        now = twin.now
        number = {
            "next": now.step + 1,
            "again": now.first or now.step + 1,
            "older": max(1, now.first - 1),
            "gap": now.step + 2,
        }.get(place)
        if place == "again" and inputs.startswith(b"\0\0\x80?"):  # 1.0: in every third or so, the same content
            inputs = now.inputs or inputs
        return Order(inputs, number, {"right": twin.epoch, "wrong": twin.epoch + 1}.get(epoch))

    # opening and ending

    @rule(tenant=tenants, idle_limit=idle_limits, keep=keeps, key=st.sampled_from([None, "k1", "k2"]))
    def create(self, tenant: str, idle_limit: float | None, keep: int | None, key: str | None) -> None:
        fields = {"idle_limit": idle_limit, "keep": keep}
        self._create(tenant, fields, key, lambda: self.world.create(tenant, idle_limit, keep))

    @rule(tenant=tenants, keep=keeps, history=chunks, key=st.sampled_from([None, "k1"]))
    def create_behind_a_history(self, tenant: str, keep: int | None, history: bytes, key: str | None) -> None:
        fields = {"keep": keep, "history": Order(history).rows(1)}
        self._create(tenant, fields, key, lambda: self.world.create_behind(tenant, history, None, keep))

    @precondition(lambda self: self.snapshots)
    @rule(tenant=tenants, keep=keeps, pick=picks, raw=st.booleans(), key=st.sampled_from([None, "k1"]))
    def create_at_a_snapshot(self, tenant: str, keep: int | None, pick: int, raw: bool, key: str | None) -> None:
        snapshot, state = self.snapshots[pick % len(self.snapshots)]
        if raw:
            self._create(tenant, snapshot, key, lambda: self.world.create_at(tenant, state, None, None))
        else:
            fields = {"keep": keep, "state": base64.b64encode(snapshot).decode()}
            self._create(tenant, fields, key, lambda: self.world.create_at(tenant, state, None, keep))

    def _create(self, tenant: str, wish: bytes | dict[str, Any], key: str | None, expected: Callable[[], Twin]) -> None:
        body = wish if isinstance(wish, bytes) else json.dumps(wish).encode()
        headers = {"content-type": OCTETS} if isinstance(wish, bytes) else {}

        def create() -> Twin:
            if key is None:
                return expected()
            twin = self.world.recall(tenant, key, body)
            if twin is None:
                twin = expected()
                self.world.keys[tenant, key] = (body, twin, self.world.time)
            return twin

        if key is not None:
            key = f"{key}-of-{self.bench.examples}"
            headers["idempotency-key"] = key
            self.creations.append((tenant, key, body, headers))
        answer = self.send(tenant, "POST", f"/v1/models/{MODEL}/sessions", body, headers=headers)
        self.checked(answer, self.expect(create), 201)

    @precondition(lambda self: self.creations)
    @rule(pick=picks)
    def create_again(self, pick: int) -> None:
        tenant, key, body, headers = self.creations[pick % len(self.creations)]
        twin = self.expect(lambda: self.world.recall(tenant, key, body))
        if twin is not None:
            self.checked(self.send(tenant, "POST", f"/v1/models/{MODEL}/sessions", body, headers=headers), twin, 201)

    @rule(tenant=tenants, history=tame_chunks, copies=st.integers(2, 3))
    def create_twice_at_once(self, tenant: str, history: bytes, copies: int) -> None:
        body = json.dumps({"history": Order(history).rows(1)}).encode()
        key = f"{next(self.fresh_keys)}-of-{self.bench.examples}"
        expected = self.expect(lambda: self.world.create_behind(tenant, history, None, None))
        path, headers = f"/v1/models/{MODEL}/sessions", {"idempotency-key": key}

        async def all_at_once() -> list[Answer]:
            return await asyncio.gather(*(self.wires[tenant].send("POST", path, body, headers) for _ in range(copies)))

        for answer in self.wait(all_at_once()):
            self.checked(answer, expected, 201)

    @precondition(lambda self: self.world.live)
    @rule(pick=picks, idle_limit=idle_limits, keep=keeps)
    def fork(self, pick: int, idle_limit: float | None, keep: int | None) -> None:
        twin = self.pick(pick)
        wish = {"idle_limit": idle_limit, "keep": keep}
        answer = self.send(twin.tenant, "POST", f"/v1/sessions/{twin.id}/fork", wish)
        self.checked(answer, self.expect(lambda: self.world.fork(twin, twin.tenant, idle_limit, keep)), 201)

    @precondition(lambda self: self.world.live)
    @rule(pick=picks, idle_limit=st.sampled_from([1, 30.5, 7200]))
    def extend(self, pick: int, idle_limit: float) -> None:
        twin = self.pick(pick)
        answer = self.send(twin.tenant, "PATCH", f"/v1/sessions/{twin.id}", {"idle_limit": idle_limit})
        self.checked(answer, self.expect(lambda: self.world.extend(twin, twin.tenant, idle_limit)))

    @precondition(lambda self: self.world.live)
    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        twin = self.pick(pick)
        answer = self.send(twin.tenant, "DELETE", f"/v1/sessions/{twin.id}")
        refused = self.expect(lambda: self.world.close(twin, twin.tenant))
        assert answer.refusal() == refused
        assert refused is not None or (answer.status, answer.body) == (204, b"")

    @rule(seconds=st.sampled_from([0.5, 0.5, 1, 1, 1, 30, 30, 900, 3599]), sweep=st.booleans())
    def let_time_pass(self, seconds: float, sweep: bool) -> None:
        self.clock.advance(seconds)
        self.world.time += seconds
        if sweep:
            self.sweep()

    @rule()
    def sweep(self) -> None:
        ended = self.service.sessions.sweep()
        assert ended == self.world.sweep({session.id for session in self.service.sessions})

    @precondition(lambda self: self.world.twins)
    @rule(pick=picks, verb=st.sampled_from(["", "/steps", "/peek", "/fork", "/rewind", "/state"]), own=st.booleans())
    def touch(self, pick: int, verb: str, own: bool) -> None:
        """What has ended says so to its tenant; to others, there never was anything."""
        twin = self.world.twins[pick % len(self.world.twins)]
        if own and twin.live and not self.world.overdue(twin):
            return
        tenant = twin.tenant if own else TENANTS[twin.tenant == TENANTS[0]]
        body = {"/steps": {"inputs": [[1]]}, "/peek": {"inputs": [[1]]}, "/rewind": {"requests": 1}}.get(verb)
        answer = self.send(tenant, "GET" if verb in ("", "/state") else "POST", f"/v1/sessions/{twin.id}{verb}", body)
        assert answer.refusal() == self.expect(lambda: self.world.find(twin, tenant))

    @rule(tenant=tenants, limit=st.integers(1, 4))
    def list_all(self, tenant: str, limit: int) -> None:
        """All pages together name every session once, in the order in which they were opened."""
        after: Twin | None = None
        while True:
            after = self._list(tenant, limit, after)
            if after is None:
                break

    @precondition(lambda self: self.world.twins)
    @rule(tenant=tenants, limit=st.integers(1, 4), pick=picks)
    def list_behind(self, tenant: str, limit: int, pick: int) -> None:
        """A page can follow on any session, live or ended."""
        self._list(tenant, limit, self.world.twins[pick % len(self.world.twins)])

    def _list(self, tenant: str, limit: int, after: Twin | None) -> Twin | None:
        query = f"limit={limit}" + (f"&after={after.id}" if after is not None else "")
        answer = self.send(tenant, "GET", "/v1/sessions", query=query)
        expected = self.expect(lambda: self.world.page(tenant, limit, after))
        if isinstance(expected, Refused):
            assert answer.refusal() == expected
            return None
        listed, more = expected
        fields = answer.json()
        assert [one["session_id"] for one in fields["sessions"]] == [twin.id for twin in listed]
        assert [one["step"] for one in fields["sessions"]] == [twin.now.step for twin in listed]
        assert fields["next"] == (listed[-1].id if more else None)
        return listed[-1] if more else None

    # steps

    @precondition(lambda self: self.world.live)
    @rule(pick=picks, way=ways, inputs=chunks, place=places, epoch=epochs, requests=st.integers(1, 4))
    def step(self, pick: int, way: str, inputs: bytes, place: str, epoch: str, requests: int) -> None:
        twin = self.pick(pick)
        for _ in range(requests):
            order = self.order(twin, inputs, place, epoch)
            got = self.wait(WAYS[way](self.wires[twin.tenant], twin.id, order))
            assert got == self._step(twin, order)

    @precondition(lambda self: any(twin.now.first for twin in self.world.live))
    @rule(pick=picks, way=ways, epoch=epochs, change=st.sampled_from(["none", "none", "value", "length"]))
    def retry(self, pick: int, way: str, epoch: str, change: str) -> None:
        """The last request again: the stored answer, or a conflict where its content is another."""
        stepped = [twin for twin in self.world.live if twin.now.first]
        twin = stepped[pick % len(stepped)]
        inputs = twin.now.inputs
        if change != "none":
            inputs = inputs + inputs[:4] if change == "length" else inputs[:-1] + bytes([inputs[-1] ^ 0x80])
        order = Order(inputs, twin.now.first, {"right": twin.epoch, "wrong": twin.epoch + 1}.get(epoch))
        got = self.wait(WAYS[way](self.wires[twin.tenant], twin.id, order))
        assert got == self.expect(lambda: self.world.step(twin, twin.tenant, order))

    @precondition(lambda self: self.world.live)
    @rule(pick=picks, way=st.sampled_from([by_json, by_octets]), inputs=chunks, place=places, epoch=epochs)
    def peek(self, pick: int, way: Any, inputs: bytes, place: str, epoch: str) -> None:
        twin = self.pick(pick)
        order = self.order(twin, inputs, place, epoch)
        got = self.wait(way(self.wires[twin.tenant], twin.id, order, "peek"))
        assert got == self.expect(lambda: self.world.step(twin, twin.tenant, order, commit=False))

    @precondition(lambda self: self.world.live)
    @rule(pick=picks, raw=st.booleans(), values=st.sampled_from([[], [[]], [[1, 2]], [[float("nan")]], [["1"]], [1]]))
    def bad_input(self, pick: int, raw: bool, values: Any) -> None:
        """Nothing of it is taken."""
        twin = self.pick(pick)
        body: object = b'{"inputs":%b}' % json.dumps(values).encode().replace(b"NaN", b"1e39")
        headers = {}
        if raw:
            body, headers = (np.array([np.nan], "<f4").tobytes() if values else b"123"), {"content-type": OCTETS}
        answer = self.send(twin.tenant, "POST", f"/v1/sessions/{twin.id}/steps", body, headers=headers)
        found = self.expect(lambda: self.world.find(twin, twin.tenant))
        refused = answer.refusal()
        assert refused == (found if isinstance(found, Refused) else Refused("invalid_input"))

    @rule(
        tenant=tenants,
        rows=st.lists(st.tuples(picks, places, epochs, chunks), min_size=1, max_size=5),
        even=st.booleans(),
        framed=st.booleans(),
        create=st.booleans(),
    )
    def fleet(
        self, tenant: str, rows: list[tuple[int, str, str, bytes]], even: bool, framed: bool, create: bool
    ) -> None:
        """Many rows at once: by id or by name, numbered or not, one session in several rows or each in its own."""
        keys: list[Twin | str] = []
        orders = []
        for pick, place, epoch, inputs in rows:
            known: list[Twin] = self.world.twins
            twin = known[pick // 2 % len(known)] if known and pick % 2 else None
            name = f"n{pick % 5}-of-{self.bench.examples}"
            named = next((one for one in self.world.live if (one.tenant, one.name) == (tenant, name)), None)
            keys.append(twin or name)
            orders.append(self.order(twin or named or Twin(tenant, 0, 0, 0), inputs, place, epoch))
        if even or framed:
            orders = [Order(order.inputs[:4], order.number, order.epoch) for order in orders]
        ids = [key.id if isinstance(key, Twin) else key for key in keys]
        got = self.wait(fleet(self.wires[tenant], ids, orders, framed=framed, create=create))
        expected, created, opened = self.world.fleet(tenant, keys, orders, create)
        assert got == FleetAnswer(expected, created)
        for twin in opened:
            assert twin.name is not None
            twin.id = self.service.sessions._tenants[tenant].named[MODEL][twin.name].id

    @precondition(lambda self: self.world.live)
    @rule(rows=st.lists(st.tuples(picks, ways, places, epochs, chunks, st.booleans()), min_size=2, max_size=6))
    def several_at_once(self, rows: list[tuple[int, str, str, str, bytes, bool]]) -> None:
        """Requests of one session are taken in the order in which they came; a retry waits for its original."""
        expected: list[Taken | Refused] = []
        calls: list[Awaitable[Taken | Refused]] = []
        for pick, way, place, epoch, inputs, peek in rows:
            twin = self.pick(pick % 3)
            wire, order = self.wires[twin.tenant], self.order(twin, inputs, place, epoch)
            if peek and way in ("json", "octets"):
                calls.append((by_json if way == "json" else by_octets)(wire, twin.id, order, "peek"))
                expected.append(self._step(twin, order, commit=False))
            else:
                calls.append(WAYS[way](wire, twin.id, order))
                expected.append(self._step(twin, order))
            if not self.world.live:
                break

        async def all_at_once() -> list[Taken | Refused]:
            return await asyncio.gather(*calls)

        assert self.wait(all_at_once()) == expected

    def _step(self, twin: Twin, order: Order, commit: bool = True) -> Taken | Refused:
        return self.expect(lambda: self.world.step(twin, twin.tenant, order, commit))

    @precondition(lambda self: self.world.live)
    @rule(pick=picks, way=ways, inputs=tame_chunks, numbered=st.booleans(), pause=pauses)
    def cancel(self, pick: int, way: str, inputs: bytes, numbered: bool, pause: int) -> None:
        """A step whose client went away was taken or not; sent again with its number, it is taken once."""
        twin = self.pick(pick)
        wire, before = self.wires[twin.tenant], twin.now.step
        order = Order(inputs, before + 1 if numbered else None)
        if self.world.overdue(twin):
            return

        async def give_up() -> int:
            task = asyncio.ensure_future(WAYS[way](wire, twin.id, order))
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            peeked = await by_octets(wire, twin.id, Order(NOTHING), "peek")  # comes behind what is still under way
            assert isinstance(peeked, Taken)
            return peeked.step - 1

        step = self.wait(give_up())
        again = Order(inputs, before + 1)
        if step != before:
            self.expect(lambda: self.world.step(twin, twin.tenant, order))
            assert step == twin.now.step
        got = self.wait(WAYS[way](wire, twin.id, again))
        assert got == self.expect(lambda: self.world.step(twin, twin.tenant, again))

    # exchanging the state

    @precondition(lambda self: self.world.live)
    @rule(pick=picks, requests=st.sampled_from([1, 1, 2, 3, 4]))
    def rewind(self, pick: int, requests: int) -> None:
        able = [twin for twin in self.world.live if twin.kept]
        twin = able[pick % len(able)] if able and pick % 4 else self.pick(pick)
        answer = self.send(twin.tenant, "POST", f"/v1/sessions/{twin.id}/rewind", {"requests": requests})
        self.checked(answer, self.expect(lambda: self.world.rewind(twin, twin.tenant, requests)))

    @precondition(lambda self: self.world.live)
    @rule(pick=picks)
    def snapshot(self, pick: int) -> None:
        twin = self.pick(pick)
        answer = self.send(twin.tenant, "GET", f"/v1/sessions/{twin.id}/state")
        found = self.expect(lambda: self.world.find(twin, twin.tenant))
        if isinstance(found, Refused):
            assert answer.refusal() == found
            return
        assert answer.headers["content-type"] == OCTETS
        assert answer.headers["x-step"] == str(twin.now.step)
        (state,) = safetensors.numpy.load(answer.body).values()
        assert state.ravel().tolist() == [twin.now.value]
        self.snapshots.append((answer.body, twin.now))

    @precondition(lambda self: self.snapshots and self.world.live)
    @rule(pick=picks, snapshot=picks, harm=st.sampled_from(["none", "none", "flipped", "cut", "empty"]))
    def restore(self, pick: int, snapshot: int, harm: str) -> None:
        twin = self.pick(pick)
        body, state = self.snapshots[snapshot % len(self.snapshots)]
        if harm != "none":
            at = snapshot % len(body)
            flipped = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            body = {"flipped": flipped, "cut": body[:-1], "empty": b""}[harm]
        answer = self.send(twin.tenant, "PUT", f"/v1/sessions/{twin.id}/state", body, headers={"content-type": OCTETS})
        expected = self.expect(lambda: self.world.find(twin, twin.tenant))
        if not isinstance(expected, Refused):
            expected = self.world.restore(twin, twin.tenant, state) if harm == "none" else Refused("snapshot_corrupt")
        self.checked(answer, expected)

    @precondition(lambda self: self.world.live)
    @rule(
        pick=picks,
        way=ways,
        inputs=chunks,
        place=places,
        pause=pauses,
        verb=st.sampled_from(["rewind", "restore", "fork", "delete", "extend"]),
    )
    def meanwhile(self, pick: int, way: str, inputs: bytes, place: str, pause: int, verb: str) -> None:
        """What comes while a step is under way happens before it or after it, or is told that it cannot now."""
        twin = self.pick(pick)
        tenant, wire, path = twin.tenant, self.wires[twin.tenant], f"/v1/sessions/{twin.id}"
        if verb == "restore" and not self.snapshots:
            return
        order = self.order(twin, inputs, place, "none")
        body, state = self.snapshots[-1] if self.snapshots else (b"", Moment())
        request: tuple[str, str, object] = {
            "rewind": ("POST", f"{path}/rewind", {"requests": 1}),
            "restore": ("PUT", f"{path}/state", body),
            "fork": ("POST", f"{path}/fork", None),
            "delete": ("DELETE", path, None),
            "extend": ("PATCH", path, {"idle_limit": 60}),
        }[verb]

        async def both() -> tuple[Taken | Refused, Answer]:
            step = asyncio.ensure_future(WAYS[way](wire, twin.id, order))
            for _ in range(pause):
                await asyncio.sleep(0)
            other = await wire.send(*request)
            return await step, other

        def step(world: World, one: Twin) -> Taken:
            return world.step(one, tenant, order)

        def exchange(world: World, one: Twin) -> dict[str, object] | None:
            if verb == "delete":
                world.close(one, tenant)
                return None
            changed = {
                "rewind": lambda: world.rewind(one, tenant, 1),
                "restore": lambda: world.restore(one, tenant, state),
                "fork": lambda: world.fork(one, tenant, None, None),
                "extend": lambda: world.extend(one, tenant, 60),
            }[verb]()
            return changed.described()

        def refuse(world: World, one: Twin) -> None:
            world.find(one, tenant)
            if verb in ("rewind", "restore"):
                raise Refused("session_in_use")

        got_step, other = self.wait(both())
        got_other = other.refusal() or (other.json() if other.body else None)
        after = self.send(tenant, "GET", path)
        at = self.world.twins.index(twin)
        for order_of in ((step, exchange), (exchange, step), (step, refuse)):
            world = copy.deepcopy(self.world)
            said: dict[Any, Any] = {}
            for act in order_of:
                said[act is step] = self.expect(lambda: act(world, world.twins[at]))  # noqa: B023
            seen = self.expect(lambda: world.find(world.twins[at], tenant).described())  # noqa: B023
            agree = _agree(said[False], got_other) and _agree(seen, after.refusal() or after.json())
            if said[True] == got_step and agree:
                if verb == "fork" and isinstance(got_other, dict):
                    world.twins[-1].id = got_other["session_id"]
                self.world = world
                return
        raise AssertionError(f"{got_step} and {got_other} fit no order of {order} and {verb} at {twin}")

    # what is always true

    @invariant()
    def every_session_is_described_as_it_is(self) -> None:
        for twin in self.world.live:
            if not self.world.overdue(twin):
                self.described(self.send(twin.tenant, "GET", f"/v1/sessions/{twin.id}"), twin)
                order = Order(NOTHING)
                got = self.wait(by_octets(self.wires[twin.tenant], twin.id, order, "peek"))
                assert got == self.expect(lambda: self.world.step(twin, twin.tenant, order, commit=False))  # noqa: B023

    @invariant()
    def rows_are_held_as_the_model_holds_them(self) -> None:
        """Two sessions share a slot where the model says that they share a row, and only there."""
        slot_of, row_of = {0: 0}, {0: 0}
        held = {session.id: session for session in self.service.sessions}
        for twin in self.world.live:
            session = held[twin.id]
            kept = session.history.checkpoints if session.history is not None else ()
            slots = [session.slot, *(checkpoint.slot for checkpoint in kept)]
            for row, slot in zip([twin.now.row, *(moment.row for moment in twin.kept)], slots, strict=True):
                assert slot_of.setdefault(row, slot) == slot
                assert row_of.setdefault(slot, row) == row
        assert self.served.arena.slots.leased == len(slot_of) - 1

    @invariant()
    def nothing_is_left_over(self) -> None:
        table, live = self.service.sessions, self.world.live
        assert self.served.promised == self.world.promised <= MOST_ROWS
        assert len(table) == self.served.sessions == len(live)
        assert self.served.batcher.waiting == 0
        assert len(table._expiry) == len(live)
        for session in table:
            assert session.busy is None
            assert session.waiting is None


def _agree(expected: Any, got: Any) -> bool:
    """Tell whether a description fits, as far as the model knows it."""
    if isinstance(expected, dict) and isinstance(got, dict):
        return all(got[name] == value for name, value in expected.items())
    return bool(expected == got)


@pytest.mark.timeout(240)
def test_the_service_does_what_the_model_does(bench: Bench) -> None:
    """Every answer is the model's, and every row that is held is one that the model holds."""

    class Api(SessionApi):
        def __init__(self) -> None:
            super().__init__(bench)

    run_state_machine_as_test(
        Api,
        settings=effort(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
        ),
    )
