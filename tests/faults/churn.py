"""P8: sessions are opened and ended continuously, and the service's memory does not grow after a warm-up."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.faults.accumulator import NAME
from tests.faults.process import ServiceProcess
from tests.faults.wire import Http

MAX_GROWTH = 0.05
_TASKS = 8
_IDLE_SECONDS = 0.2
_EXPIRED_SECONDS = 1.5
"""Longer than the idle limit and the interval at which the service looks for expired sessions."""


@dataclass(frozen=True, slots=True)
class ChurnResult:
    """The resident memory of the service in bytes, after the warm-up and at the end."""

    sessions: int
    warm: int
    end: int

    @property
    def growth(self) -> float:
        return self.end / self.warm - 1

    @property
    def bounded(self) -> bool:
        return self.growth <= MAX_GROWTH


async def churn(
    service: ServiceProcess, sessions: int, warm_up: int, progress: Callable[[int], None] = lambda sessions: None
) -> ChurnResult:
    """Open sessions, step them, and delete them or let them expire: first `warm_up` of them, then `sessions`."""
    await _run_sessions(service.port, warm_up, Random(1), progress)
    warm = service.resident()
    await _run_sessions(service.port, sessions, Random(2), progress)
    return ChurnResult(sessions, warm, service.resident())


async def _run_sessions(port: int, sessions: int, rng: Random, progress: Callable[[int], None]) -> None:
    http = Http(port, timeout=30)
    try:
        async with asyncio.TaskGroup() as group:
            for task in range(_TASKS):
                count = (sessions + task) // _TASKS
                group.create_task(_run_in_sequence(http, count, Random(rng.random()), progress))
        await asyncio.sleep(_EXPIRED_SECONDS)
    finally:
        http.close()


async def _run_in_sequence(http: Http, count: int, rng: Random, progress: Callable[[int], None]) -> None:
    for _ in range(count):
        expires = rng.random() < 0.3
        options = {"keep": rng.choice((0, 2)), "idle_limit": _IDLE_SECONDS if expires else 60}
        key = {"idempotency-key": f"{rng.getrandbits(64):x}"} if rng.random() < 0.2 else {}
        body = json.dumps(options).encode()
        opened = await http.send("POST", f"/v1/models/{NAME}/sessions", body, key)
        path = f"/v1/sessions/{opened.json()['session_id']}"
        for step in range(1, rng.randint(2, 4)):
            await http.send("POST", f"{path}/steps", b'{"inputs":[[1]],"step":%d}' % step)
        if not expires:
            await http.send("DELETE", path)
        progress(1)
