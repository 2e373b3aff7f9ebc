"""For any sequence of requests, the service answers what the reference model answers, and holds the same rows."""

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
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from export import export_network
from models.network import Network, NetworkConfig
from service.app import Service
from service.engine.chunk import Chunk
from service.settings import Settings
from tests.fakes import FakeClock
from tests.service.reference_model import Checkpoint, ReferenceModel, ReferenceSession
from tests.service.step_clients import (
    ENCODINGS,
    OCTETS,
    Answer,
    ApiClient,
    FleetAnswer,
    Refused,
    StepAnswer,
    StepSpec,
    send_fleet,
    send_json,
    send_raw,
)

MODEL = "halving"
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]
"""All phases but the one that explains a failure, which takes longer than finding it."""
NOTHING = np.zeros(1, "<f4").tobytes()
TENANTS = ("ann", "bob")
MAX_ROWS = 14
MAX_ROWS_OF_TENANT = 7
"""With keys of two tenants, each may have half of the rows."""
"""So few that the table is sometimes full."""

_T = TypeVar("_T")

tenants = st.sampled_from(TENANTS)
picks = st.integers(0, 999)
"""The index, modulo their number, of the session or snapshot that is used."""
encodings = st.sampled_from(sorted(ENCODINGS))
numbers = st.sampled_from([1.0, 2.0, 3.0, 0.0, -1.0, 3e38])
"""3e38 twice gives a state that is not finite."""
chunks = st.lists(numbers, min_size=1, max_size=4).map(lambda values: np.array(values, "<f4").tobytes())
small_chunks = st.lists(numbers.filter(lambda x: x < 1e9), min_size=1, max_size=4).map(
    lambda values: np.array(values, "<f4").tobytes()
)
numberings = st.sampled_from(["next", "none", "again", "older", "gap"])
epochs = st.sampled_from(["none", "none", "right", "wrong"])
idle_limits = st.sampled_from([None, None, 1, 1, 30.5, 7200])
keeps = st.sampled_from([None, 0, 1, 3, 3])
pauses = st.integers(0, 4)
"""Iterations of the event loop before the next request is sent."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the one model, h ← relu(h / 2 + x) and y = h, and write the file of the two tenants' keys."""
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


class DelayedExecutor(Executor):
    """Replaces the engine's thread: a run ends a fixed number of event loop iterations later, so it is reproducible."""

    ITERATIONS = 3

    def submit(self, run: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run after a few iterations of the event loop; the future gets the result or the exception."""
        future: Future[Any] = Future()
        loop = asyncio.get_running_loop()

        def wait(iterations: int) -> None:
            if iterations:
                loop.call_soon(wait, iterations - 1)
                return
            try:
                future.set_result(run(*args, **kwargs))
            except Exception as exc:
                future.set_exception(exc)

        wait(self.ITERATIONS)
        return future


class ReusedService:
    """A service for many examples; it is used again if nothing but tombstones is left, as making one takes long."""

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
            batcher._thread = DelayedExecutor()  # type: ignore[assignment]

    def renew(self) -> None:
        """End all sessions; if anything but tombstones is left of them, make another service.

        An example must not depend on earlier ones: it begins long after them, at a whole second, after a single step.
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
def reused(request: pytest.FixtureRequest, folder: Path) -> Iterator[ReusedService]:
    """Run the engine on the event loop, and beside it: rounds of 1 ns run a single time step each."""
    settings = Settings(
        artifacts=folder, api_key_file=folder / "keys", max_sessions=MAX_ROWS, turn_ms=request.param, watch=0
    )
    made = ReusedService(settings)
    yield made
    made.close()


class SessionApi(RuleBasedStateMachine):
    """Sends the same requests to the service and to the reference model, and compares answers and state."""

    def __init__(self, reused: ReusedService) -> None:
        super().__init__()
        reused.renew()
        self.reused, self.clock, self.service = reused, reused.clock, reused.service
        self.served = self.service.repository.find(MODEL)
        self.reference = ReferenceModel(MAX_ROWS, MAX_ROWS_OF_TENANT, reused.settings.idle_limit, self.clock())
        self.clients = {tenant: ApiClient(self.service.app, MODEL, headers={"x-api-key": tenant}) for tenant in TENANTS}
        self.snapshots: list[tuple[bytes, Checkpoint]] = []
        self.creations: list[tuple[str, str, bytes, dict[str, str]]] = []
        self.fresh_keys = itertools.count()

    def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.reused.runner.run(work)

    def expect(self, work: Callable[[], _T]) -> _T | Refused:
        try:
            return work()
        except Refused as refused:
            return refused

    def pick(self, pick: int) -> ReferenceSession:
        """Return a live session, sometimes one that is overdue, and for every other number one of the newest."""
        live = self.reference.live
        fit = [ref for ref in live if not self.reference.overdue(ref)]
        among = fit if fit and pick % 5 else live
        return among[-1 - pick % min(3, len(among))] if pick % 2 else among[pick % len(among)]

    def send(self, tenant: str, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return self.wait(self.clients[tenant].send(method, path, body, **more))

    def described(self, answer: Answer, ref: ReferenceSession, status: int = 200) -> None:
        """Check a session's description, and store the id of a new one."""
        assert answer.status == status, answer
        fields = answer.json()
        if not ref.id:
            ref.id = fields["session_id"]
        if status == 201:
            assert answer.headers["location"] == f"/v1/sessions/{ref.id}"
        del fields["expires_at"]
        same = {"session_id": ref.id, "model": MODEL, "version": 1, "durability": "memory"}
        assert fields == {**same, **ref.described()}

    def checked(self, answer: Answer, expected: ReferenceSession | Refused, status: int = 200) -> None:
        """Check an answer that is expected to be a session's description, or an error."""
        if isinstance(expected, Refused):
            assert answer.refusal() == expected
        else:
            self.described(answer, expected, status)

    def spec(self, ref: ReferenceSession, inputs: bytes, numbering: str, epoch: str) -> StepSpec:
        """Return a step whose number fits the reference model's present state."""
        now = ref.now
        number = {
            "next": now.step + 1,
            "again": now.first or now.step + 1,
            "older": max(1, now.first - 1),
            "gap": now.step + 2,
        }.get(numbering)
        if numbering == "again" and inputs.startswith(b"\0\0\x80?"):  # 1.0, in about a third: the same content
            inputs = now.inputs or inputs
        return StepSpec(inputs, number, {"right": ref.epoch, "wrong": ref.epoch + 1}.get(epoch))

    # open and end sessions

    @rule(tenant=tenants, idle_limit=idle_limits, keep=keeps, key=st.sampled_from([None, "k1", "k2"]))
    def create(self, tenant: str, idle_limit: float | None, keep: int | None, key: str | None) -> None:
        fields = {"idle_limit": idle_limit, "keep": keep}
        self._create(tenant, fields, key, lambda: self.reference.create(tenant, idle_limit, keep))

    @rule(tenant=tenants, keep=keeps, history=chunks, key=st.sampled_from([None, "k1"]))
    def create_with_a_history(self, tenant: str, keep: int | None, history: bytes, key: str | None) -> None:
        fields = {"keep": keep, "history": StepSpec(history).rows(1)}
        self._create(tenant, fields, key, lambda: self.reference.create_with_history(tenant, history, None, keep))

    @precondition(lambda self: self.snapshots)
    @rule(tenant=tenants, keep=keeps, pick=picks, raw=st.booleans(), key=st.sampled_from([None, "k1"]))
    def create_from_a_snapshot(self, tenant: str, keep: int | None, pick: int, raw: bool, key: str | None) -> None:
        snapshot, state = self.snapshots[pick % len(self.snapshots)]
        if raw:
            self._create(tenant, snapshot, key, lambda: self.reference.create_from_snapshot(tenant, state, None, None))
        else:
            fields = {"keep": keep, "state": base64.b64encode(snapshot).decode()}
            self._create(tenant, fields, key, lambda: self.reference.create_from_snapshot(tenant, state, None, keep))

    def _create(
        self, tenant: str, content: bytes | dict[str, Any], key: str | None, expected: Callable[[], ReferenceSession]
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"content-type": OCTETS} if isinstance(content, bytes) else {}

        def create() -> ReferenceSession:
            if key is None:
                return expected()
            ref = self.reference.session_of_key(tenant, key, body)
            if ref is None:
                ref = expected()
                self.reference.keys[tenant, key] = (body, ref, self.reference.time)
            return ref

        if key is not None:
            key = f"{key}-of-{self.reused.examples}"
            headers["idempotency-key"] = key
            self.creations.append((tenant, key, body, headers))
        answer = self.send(tenant, "POST", f"/v1/models/{MODEL}/sessions", body, headers=headers)
        self.checked(answer, self.expect(create), 201)

    @precondition(lambda self: self.creations)
    @rule(pick=picks)
    def create_again(self, pick: int) -> None:
        tenant, key, body, headers = self.creations[pick % len(self.creations)]
        ref = self.expect(lambda: self.reference.session_of_key(tenant, key, body))
        if ref is not None:
            self.checked(self.send(tenant, "POST", f"/v1/models/{MODEL}/sessions", body, headers=headers), ref, 201)

    @rule(tenant=tenants, history=small_chunks, copies=st.integers(2, 3))
    def create_twice_at_once(self, tenant: str, history: bytes, copies: int) -> None:
        body = json.dumps({"history": StepSpec(history).rows(1)}).encode()
        key = f"{next(self.fresh_keys)}-of-{self.reused.examples}"
        expected = self.expect(lambda: self.reference.create_with_history(tenant, history, None, None))
        path, headers = f"/v1/models/{MODEL}/sessions", {"idempotency-key": key}

        async def all_at_once() -> list[Answer]:
            return await asyncio.gather(
                *(self.clients[tenant].send("POST", path, body, headers) for _ in range(copies))
            )

        for answer in self.wait(all_at_once()):
            self.checked(answer, expected, 201)

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks, idle_limit=idle_limits, keep=keeps)
    def fork(self, pick: int, idle_limit: float | None, keep: int | None) -> None:
        ref = self.pick(pick)
        body = {"idle_limit": idle_limit, "keep": keep}
        answer = self.send(ref.tenant, "POST", f"/v1/sessions/{ref.id}/fork", body)
        self.checked(answer, self.expect(lambda: self.reference.fork(ref, ref.tenant, idle_limit, keep)), 201)

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks, idle_limit=st.sampled_from([1, 30.5, 7200]))
    def extend(self, pick: int, idle_limit: float) -> None:
        ref = self.pick(pick)
        answer = self.send(ref.tenant, "PATCH", f"/v1/sessions/{ref.id}", {"idle_limit": idle_limit})
        self.checked(answer, self.expect(lambda: self.reference.extend(ref, ref.tenant, idle_limit)))

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks)
    def delete(self, pick: int) -> None:
        ref = self.pick(pick)
        answer = self.send(ref.tenant, "DELETE", f"/v1/sessions/{ref.id}")
        refused = self.expect(lambda: self.reference.close(ref, ref.tenant))
        assert answer.refusal() == refused
        assert refused is not None or (answer.status, answer.body) == (204, b"")

    @rule(seconds=st.sampled_from([0.5, 0.5, 1, 1, 1, 30, 30, 900, 3599]), sweep=st.booleans())
    def let_time_pass(self, seconds: float, sweep: bool) -> None:
        self.clock.advance(seconds)
        self.reference.time += seconds
        if sweep:
            self.sweep()

    @rule()
    def sweep(self) -> None:
        ended = self.service.sessions.sweep()
        assert ended == self.reference.sweep({session.id for session in self.service.sessions})

    @precondition(lambda self: self.reference.sessions)
    @rule(pick=picks, verb=st.sampled_from(["", "/steps", "/peek", "/fork", "/rewind", "/state"]), own=st.booleans())
    def touch(self, pick: int, verb: str, own: bool) -> None:
        """An ended session is reported as such to its tenant, and as unknown to others."""
        ref = self.reference.sessions[pick % len(self.reference.sessions)]
        if own and ref.live and not self.reference.overdue(ref):
            return
        tenant = ref.tenant if own else TENANTS[ref.tenant == TENANTS[0]]
        body = {"/steps": {"inputs": [[1]]}, "/peek": {"inputs": [[1]]}, "/rewind": {"requests": 1}}.get(verb)
        answer = self.send(tenant, "GET" if verb in ("", "/state") else "POST", f"/v1/sessions/{ref.id}{verb}", body)
        assert answer.refusal() == self.expect(lambda: self.reference.find(ref, tenant))

    @rule(tenant=tenants, limit=st.integers(1, 4))
    def list_all(self, tenant: str, limit: int) -> None:
        """All pages together contain each session once, in the sequence of opening."""
        after: ReferenceSession | None = None
        while True:
            after = self._list(tenant, limit, after)
            if after is None:
                break

    @precondition(lambda self: self.reference.sessions)
    @rule(tenant=tenants, limit=st.integers(1, 4), pick=picks)
    def list_after(self, tenant: str, limit: int, pick: int) -> None:
        """A page can begin after any session, live or ended."""
        self._list(tenant, limit, self.reference.sessions[pick % len(self.reference.sessions)])

    def _list(self, tenant: str, limit: int, after: ReferenceSession | None) -> ReferenceSession | None:
        query = f"limit={limit}" + (f"&after={after.id}" if after is not None else "")
        answer = self.send(tenant, "GET", "/v1/sessions", query=query)
        expected = self.expect(lambda: self.reference.page(tenant, limit, after))
        if isinstance(expected, Refused):
            assert answer.refusal() == expected
            return None
        listed, more = expected
        fields = answer.json()
        assert [one["session_id"] for one in fields["sessions"]] == [ref.id for ref in listed]
        assert [one["step"] for one in fields["sessions"]] == [ref.now.step for ref in listed]
        assert fields["next"] == (listed[-1].id if more else None)
        return listed[-1] if more else None

    # steps

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks, encoding=encodings, inputs=chunks, numbering=numberings, epoch=epochs, requests=st.integers(1, 4))
    def step(self, pick: int, encoding: str, inputs: bytes, numbering: str, epoch: str, requests: int) -> None:
        ref = self.pick(pick)
        for _ in range(requests):
            spec = self.spec(ref, inputs, numbering, epoch)
            got = self.wait(ENCODINGS[encoding](self.clients[ref.tenant], ref.id, spec))
            assert got == self._step(ref, spec)

    @precondition(lambda self: any(ref.now.first for ref in self.reference.live))
    @rule(pick=picks, encoding=encodings, epoch=epochs, change=st.sampled_from(["none", "none", "value", "length"]))
    def retry(self, pick: int, encoding: str, epoch: str, change: str) -> None:
        """The last request again gets the stored answer, or a conflict if its content differs."""
        stepped = [ref for ref in self.reference.live if ref.now.first]
        ref = stepped[pick % len(stepped)]
        inputs = ref.now.inputs
        if change != "none":
            inputs = inputs + inputs[:4] if change == "length" else inputs[:-1] + bytes([inputs[-1] ^ 0x80])
        spec = StepSpec(inputs, ref.now.first, {"right": ref.epoch, "wrong": ref.epoch + 1}.get(epoch))
        got = self.wait(ENCODINGS[encoding](self.clients[ref.tenant], ref.id, spec))
        assert got == self.expect(lambda: self.reference.step(ref, ref.tenant, spec))

    @precondition(lambda self: self.reference.live)
    @rule(
        pick=picks, send_step=st.sampled_from([send_json, send_raw]), inputs=chunks, numbering=numberings, epoch=epochs
    )
    def peek(self, pick: int, send_step: Any, inputs: bytes, numbering: str, epoch: str) -> None:
        ref = self.pick(pick)
        spec = self.spec(ref, inputs, numbering, epoch)
        got = self.wait(send_step(self.clients[ref.tenant], ref.id, spec, "peek"))
        assert got == self.expect(lambda: self.reference.step(ref, ref.tenant, spec, commit=False))

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks, raw=st.booleans(), values=st.sampled_from([[], [[]], [[1, 2]], [[float("nan")]], [["1"]], [1]]))
    def bad_input(self, pick: int, raw: bool, values: Any) -> None:
        """Invalid inputs are refused, and nothing is taken."""
        ref = self.pick(pick)
        body: object = b'{"inputs":%b}' % json.dumps(values).encode().replace(b"NaN", b"1e39")
        headers = {}
        if raw:
            body, headers = (np.array([np.nan], "<f4").tobytes() if values else b"123"), {"content-type": OCTETS}
        answer = self.send(ref.tenant, "POST", f"/v1/sessions/{ref.id}/steps", body, headers=headers)
        found = self.expect(lambda: self.reference.find(ref, ref.tenant))
        refused = answer.refusal()
        assert refused == (found if isinstance(found, Refused) else Refused("invalid_input"))

    @rule(
        tenant=tenants,
        rows=st.lists(st.tuples(picks, numberings, epochs, chunks), min_size=1, max_size=5),
        even=st.booleans(),
        framed=st.booleans(),
        create=st.booleans(),
    )
    def fleet(
        self, tenant: str, rows: list[tuple[int, str, str, bytes]], even: bool, framed: bool, create: bool
    ) -> None:
        """A fleet step may name its rows by id or by name, number them or not, and repeat a session."""
        keys: list[ReferenceSession | str] = []
        specs = []
        for pick, numbering, epoch, inputs in rows:
            known: list[ReferenceSession] = self.reference.sessions
            ref = known[pick // 2 % len(known)] if known and pick % 2 else None
            name = f"n{pick % 5}-of-{self.reused.examples}"
            named = next((one for one in self.reference.live if (one.tenant, one.name) == (tenant, name)), None)
            keys.append(ref or name)
            specs.append(self.spec(ref or named or ReferenceSession(tenant, 0, 0, 0), inputs, numbering, epoch))
        if even or framed:
            specs = [StepSpec(spec.inputs[:4], spec.number, spec.epoch) for spec in specs]
        ids = [key.id if isinstance(key, ReferenceSession) else key for key in keys]
        got = self.wait(send_fleet(self.clients[tenant], ids, specs, framed=framed, create=create))
        expected, created, opened = self.reference.fleet(tenant, keys, specs, create)
        assert got == FleetAnswer(expected, created)
        for ref in opened:
            assert ref.name is not None
            ref.id = self.service.sessions._tenants[tenant].named[MODEL][ref.name].id

    @precondition(lambda self: self.reference.live)
    @rule(rows=st.lists(st.tuples(picks, encodings, numberings, epochs, chunks, st.booleans()), min_size=2, max_size=6))
    def several_at_once(self, rows: list[tuple[int, str, str, str, bytes, bool]]) -> None:
        """Requests of one session are taken in the order in which they arrive, and a retry waits for its original."""
        expected: list[StepAnswer | Refused] = []
        calls: list[Awaitable[StepAnswer | Refused]] = []
        for pick, encoding, numbering, epoch, inputs, peek in rows:
            ref = self.pick(pick % 3)
            client, spec = self.clients[ref.tenant], self.spec(ref, inputs, numbering, epoch)
            if peek and encoding in ("json", "octets"):
                calls.append((send_json if encoding == "json" else send_raw)(client, ref.id, spec, "peek"))
                expected.append(self._step(ref, spec, commit=False))
            else:
                calls.append(ENCODINGS[encoding](client, ref.id, spec))
                expected.append(self._step(ref, spec))
            if not self.reference.live:
                break

        async def all_at_once() -> list[StepAnswer | Refused]:
            return await asyncio.gather(*calls)

        assert self.wait(all_at_once()) == expected

    def _step(self, ref: ReferenceSession, spec: StepSpec, commit: bool = True) -> StepAnswer | Refused:
        return self.expect(lambda: self.reference.step(ref, ref.tenant, spec, commit))

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks, encoding=encodings, inputs=small_chunks, numbered=st.booleans(), pause=pauses)
    def cancel(self, pick: int, encoding: str, inputs: bytes, numbered: bool, pause: int) -> None:
        """A step whose request is cancelled was taken or not; sent again with its number, it is taken once."""
        ref = self.pick(pick)
        client, before = self.clients[ref.tenant], ref.now.step
        spec = StepSpec(inputs, before + 1 if numbered else None)
        if self.reference.overdue(ref):
            return

        async def give_up() -> int:
            task = asyncio.ensure_future(ENCODINGS[encoding](client, ref.id, spec))
            for _ in range(pause):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            peeked = await send_raw(client, ref.id, StepSpec(NOTHING), "peek")  # taken after what still runs
            assert isinstance(peeked, StepAnswer)
            return peeked.step - 1

        step = self.wait(give_up())
        again = StepSpec(inputs, before + 1)
        if step != before:
            self.expect(lambda: self.reference.step(ref, ref.tenant, spec))
            assert step == ref.now.step
        got = self.wait(ENCODINGS[encoding](client, ref.id, again))
        assert got == self.expect(lambda: self.reference.step(ref, ref.tenant, again))

    # replace the state

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks, requests=st.sampled_from([1, 1, 2, 3, 4]))
    def rewind(self, pick: int, requests: int) -> None:
        rewindable = [ref for ref in self.reference.live if ref.kept]
        ref = rewindable[pick % len(rewindable)] if rewindable and pick % 4 else self.pick(pick)
        answer = self.send(ref.tenant, "POST", f"/v1/sessions/{ref.id}/rewind", {"requests": requests})
        self.checked(answer, self.expect(lambda: self.reference.rewind(ref, ref.tenant, requests)))

    @precondition(lambda self: self.reference.live)
    @rule(pick=picks)
    def snapshot(self, pick: int) -> None:
        ref = self.pick(pick)
        answer = self.send(ref.tenant, "GET", f"/v1/sessions/{ref.id}/state")
        found = self.expect(lambda: self.reference.find(ref, ref.tenant))
        if isinstance(found, Refused):
            assert answer.refusal() == found
            return
        assert answer.headers["content-type"] == OCTETS
        assert answer.headers["x-step"] == str(ref.now.step)
        (state,) = safetensors.numpy.load(answer.body).values()
        assert state.ravel().tolist() == [ref.now.value]
        self.snapshots.append((answer.body, ref.now))

    @precondition(lambda self: self.snapshots and self.reference.live)
    @rule(pick=picks, snapshot=picks, harm=st.sampled_from(["none", "none", "flipped", "cut", "empty"]))
    def restore(self, pick: int, snapshot: int, harm: str) -> None:
        ref = self.pick(pick)
        body, state = self.snapshots[snapshot % len(self.snapshots)]
        if harm != "none":
            at = snapshot % len(body)
            flipped = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            body = {"flipped": flipped, "cut": body[:-1], "empty": b""}[harm]
        answer = self.send(ref.tenant, "PUT", f"/v1/sessions/{ref.id}/state", body, headers={"content-type": OCTETS})
        expected = self.expect(lambda: self.reference.find(ref, ref.tenant))
        if not isinstance(expected, Refused):
            expected = self.reference.restore(ref, ref.tenant, state) if harm == "none" else Refused("snapshot_corrupt")
        self.checked(answer, expected)

    @precondition(lambda self: self.reference.live)
    @rule(
        pick=picks,
        encoding=encodings,
        inputs=chunks,
        numbering=numberings,
        pause=pauses,
        verb=st.sampled_from(["rewind", "restore", "fork", "delete", "extend"]),
    )
    def meanwhile(self, pick: int, encoding: str, inputs: bytes, numbering: str, pause: int, verb: str) -> None:
        """A request that arrives while a step runs takes effect before it or after it, or is refused."""
        ref = self.pick(pick)
        tenant, client, path = ref.tenant, self.clients[ref.tenant], f"/v1/sessions/{ref.id}"
        if verb == "restore" and not self.snapshots:
            return
        spec = self.spec(ref, inputs, numbering, "none")
        body, state = self.snapshots[-1] if self.snapshots else (b"", Checkpoint())
        request: tuple[str, str, object] = {
            "rewind": ("POST", f"{path}/rewind", {"requests": 1}),
            "restore": ("PUT", f"{path}/state", body),
            "fork": ("POST", f"{path}/fork", None),
            "delete": ("DELETE", path, None),
            "extend": ("PATCH", path, {"idle_limit": 60}),
        }[verb]

        async def both() -> tuple[StepAnswer | Refused, Answer]:
            step = asyncio.ensure_future(ENCODINGS[encoding](client, ref.id, spec))
            for _ in range(pause):
                await asyncio.sleep(0)
            other = await client.send(*request)
            return await step, other

        def step(reference: ReferenceModel, one: ReferenceSession) -> StepAnswer:
            return reference.step(one, tenant, spec)

        def change(reference: ReferenceModel, one: ReferenceSession) -> dict[str, object] | None:
            if verb == "delete":
                reference.close(one, tenant)
                return None
            changed = {
                "rewind": lambda: reference.rewind(one, tenant, 1),
                "restore": lambda: reference.restore(one, tenant, state),
                "fork": lambda: reference.fork(one, tenant, None, None),
                "extend": lambda: reference.extend(one, tenant, 60),
            }[verb]()
            return changed.described()

        def refuse(reference: ReferenceModel, one: ReferenceSession) -> None:
            reference.find(one, tenant)
            if verb in ("rewind", "restore"):
                raise Refused("session_in_use")

        got_step, other = self.wait(both())
        got_other = other.refusal() or (other.json() if other.body else None)
        after = self.send(tenant, "GET", path)
        at = self.reference.sessions.index(ref)
        for order in ((step, change), (change, step), (step, refuse)):
            reference = copy.deepcopy(self.reference)
            answers: dict[Any, Any] = {}
            for act in order:
                answers[act is step] = self.expect(lambda: act(reference, reference.sessions[at]))  # noqa: B023
            seen = self.expect(lambda: reference.find(reference.sessions[at], tenant).described())  # noqa: B023
            agree = _agree(answers[False], got_other) and _agree(seen, after.refusal() or after.json())
            if answers[True] == got_step and agree:
                if verb == "fork" and isinstance(got_other, dict):
                    reference.sessions[-1].id = got_other["session_id"]
                self.reference = reference
                return
        raise AssertionError(f"{got_step} and {got_other} fit neither {spec} before {verb} nor after it, at {ref}")

    # invariants

    @invariant()
    def every_description_and_peek_agrees(self) -> None:
        for ref in self.reference.live:
            if not self.reference.overdue(ref):
                self.described(self.send(ref.tenant, "GET", f"/v1/sessions/{ref.id}"), ref)
                spec = StepSpec(NOTHING)
                got = self.wait(send_raw(self.clients[ref.tenant], ref.id, spec, "peek"))
                assert got == self.expect(lambda: self.reference.step(ref, ref.tenant, spec, commit=False))  # noqa: B023

    @invariant()
    def slots_are_shared_as_in_the_model(self) -> None:
        """Two sessions share a slot exactly if they share a row in the reference model."""
        slot_of, row_of = {0: 0}, {0: 0}
        held = {session.id: session for session in self.service.sessions}
        for ref in self.reference.live:
            session = held[ref.id]
            kept = session.history.checkpoints if session.history is not None else ()
            slots = [session.slot, *(checkpoint.slot for checkpoint in kept)]
            for row, slot in zip([ref.now.row, *(checkpoint.row for checkpoint in ref.kept)], slots, strict=True):
                assert slot_of.setdefault(row, slot) == slot
                assert row_of.setdefault(slot, row) == row
        assert self.served.arena.slots.leased == len(slot_of) - 1

    @invariant()
    def counts_agree(self) -> None:
        table, live = self.service.sessions, self.reference.live
        assert self.served.promised == self.reference.promised <= MAX_ROWS
        for tenant in TENANTS:
            assert self.served.quota.held[tenant] == self.reference.promised_to(tenant) <= MAX_ROWS_OF_TENANT
            assert self.served.sessions_of[tenant] == sum(each.tenant == tenant for each in self.reference.live)
        assert len(table) == self.served.sessions == len(live)
        assert self.served.batcher.waiting == 0
        assert len(table._expiry) == len(live)
        for session in table:
            assert session.busy is None
            assert session.waiting is None


def _agree(expected: Any, got: Any) -> bool:
    """Tell whether an answer contains all fields that are expected."""
    if isinstance(expected, dict) and isinstance(got, dict):
        return all(got[name] == value for name, value in expected.items())
    return bool(expected == got)


@pytest.mark.timeout(240)
def test_the_service_agrees_with_the_reference_model(reused: ReusedService) -> None:
    """Every answer equals the reference model's, and the service holds exactly the model's rows."""

    class Api(SessionApi):
        def __init__(self) -> None:
            super().__init__(reused)

    run_state_machine_as_test(
        Api,
        settings=hypothesis_settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=PHASES,
        ),
    )
