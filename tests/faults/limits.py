"""P13: races at the session limit. Sessions that are opened concurrently in any way never exceed the limit."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random

from tests.fakes import FakeClock
from tests.faults.accumulator import NAME
from tests.faults.inprocess import OCTETS, InProcess
from tests.faults.wire import Response

LIMIT = 8
IDLE_LIMIT = 60
_SESSIONS = f"/v1/models/{NAME}/sessions"


@dataclass(slots=True)
class LimitResult:
    """The numbers of races, `full` tables and answers by code, the `most` sessions at any time, unexpected results."""

    races: int = 0
    most: int = 0
    full: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def race_at_the_limit(
    service: InProcess,
    clock: FakeClock,
    races: int,
    seed: int = 1,
    progress: Callable[[int], None] = lambda races: None,
) -> LimitResult:
    """Open sessions concurrently in every way, near the limit of LIMIT, while others end and expire."""
    rng, result = Random(seed), LimitResult()
    model = service.service.repository.find(NAME)
    parent = await service.open(NAME, b'{"idle_limit":86400}')
    await service.send("POST", f"/v1/sessions/{parent}/steps", b'{"inputs":[[1]]}')
    snapshot = (await service.send("GET", f"/v1/sessions/{parent}/state")).body
    fleets = 0

    def opening() -> Coroutine[None, None, Response]:
        """Return a random request that opens one or several sessions."""
        nonlocal fleets
        kind, pieces = rng.randrange(6), rng.randint(1, 4)
        body = b'{"idle_limit":%d}' % IDLE_LIMIT
        if kind == 0:
            fleets += 1
            names = [f"unit {fleets} {row}" for row in range(rng.randint(1, LIMIT + 1))]
            quoted = ",".join(f'"{name}"' for name in names)
            fleet = f'{{"create":true,"sessions":[{quoted}],"inputs":[{",".join(["[[1]]"] * len(names))}]}}'
            return service.send("POST", f"/v1/models/{NAME}/fleet", fleet.encode(), pieces=pieces)
        if kind == 1:
            return service.send("POST", f"/v1/sessions/{parent}/fork", body, pieces=pieces)
        if kind == 2:
            return service.send("POST", _SESSIONS, b'{"history":[[1],[2],[3]],"idle_limit":60}', pieces=pieces)
        if kind == 3:
            return service.send("POST", _SESSIONS, snapshot, OCTETS, pieces)
        if kind == 4:
            return service.send("POST", _SESSIONS, b'{"keep":%d}' % rng.randint(1, 2), pieces=pieces)
        return service.send("POST", _SESSIONS, body, pieces=pieces)

    for _ in range(races):
        requests = [opening() for _ in range(rng.randint(2, 5))]
        for answer in await _run_watched(requests, service, result):
            result.codes[answer.json().get("code", str(answer.status))] += 1
            if answer.status not in (200, 201, 429):
                result.wrong.append(f"answered {answer.status} {answer.body!r}")
        result.races += 1
        result.full += model.promised == LIMIT
        progress(1)
        if rng.random() < 0.3:
            clock.advance(IDLE_LIMIT + 1)
            await service.send("PATCH", f"/v1/sessions/{parent}", b'{"idle_limit":86400}')
            if rng.random() < 0.5:
                service.service.sessions.sweep()
        for session in [each.id for each in service.service.sessions if each.id != parent]:
            if rng.random() < 0.6:
                answer = await service.send("DELETE", f"/v1/sessions/{session}")
                if answer.status not in (204, 410):
                    result.wrong.append(f"deleted with {answer.status} {answer.body!r}")
    return result


async def _run_watched(
    requests: list[Coroutine[None, None, Response]], service: InProcess, result: LimitResult
) -> list[Response]:
    """Run all requests concurrently, and count the sessions in every event loop iteration until all are answered."""
    model = service.service.repository.find(NAME)
    tasks = [asyncio.ensure_future(request) for request in requests]
    while True:
        live, rows = len(service.service.sessions), model.promised
        result.most = max(result.most, live, rows)
        if live > LIMIT or rows > LIMIT or model.sessions > LIMIT or model.arena.slots.free < 0:
            result.wrong.append(f"{live} sessions that may hold {rows} rows")
        if all(task.done() for task in tasks):
            return [task.result() for task in tasks]
        await asyncio.sleep(0)
