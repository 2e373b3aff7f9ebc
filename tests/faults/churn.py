"""P8: sessions come and go, and the service's memory stays what it was when it had warmed up."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.faults.accumulator import NAME
from tests.faults.process import ServiceProcess
from tests.faults.wire import Http

MOST_GROWTH = 0.05
_TASKS = 8
_IDLE_SECONDS = 0.2
_EXPIRED_SECONDS = 1.5
"""Longer than the idle limit and a round of the service's sweep."""


@dataclass(frozen=True, slots=True)
class ChurnResult:
    """The bytes that the service held when it had warmed up, and at the end."""

    sessions: int
    warm: int
    end: int

    @property
    def growth(self) -> float:
        return self.end / self.warm - 1

    @property
    def bounded(self) -> bool:
        return self.growth <= MOST_GROWTH


async def churn(
    service: ServiceProcess, sessions: int, warm_up: int, progress: Callable[[int], None] = lambda sessions: None
) -> ChurnResult:
    """Have sessions opened, stepped, and deleted or left to expire: `warm_up` of them first, then `sessions`."""
    await _come_and_go(service.port, warm_up, Random(1), progress)
    warm = service.resident()
    await _come_and_go(service.port, sessions, Random(2), progress)
    return ChurnResult(sessions, warm, service.resident())


async def _come_and_go(port: int, sessions: int, rng: Random, progress: Callable[[int], None]) -> None:
    http = Http(port, timeout=30)
    try:
        async with asyncio.TaskGroup() as group:
            for task in range(_TASKS):
                count = (sessions + task) // _TASKS
                group.create_task(_lives(http, count, Random(rng.random()), progress))
        await asyncio.sleep(_EXPIRED_SECONDS)
    finally:
        http.close()


async def _lives(http: Http, count: int, rng: Random, progress: Callable[[int], None]) -> None:
    for _ in range(count):
        left = rng.random() < 0.3
        wish = {"keep": rng.choice((0, 2)), "idle_limit": _IDLE_SECONDS if left else 60}
        key = {"idempotency-key": f"{rng.getrandbits(64):x}"} if rng.random() < 0.2 else {}
        body = json.dumps(wish).encode()
        opened = await http.send("POST", f"/v1/models/{NAME}/sessions", body, key)
        path = f"/v1/sessions/{opened.json()['session_id']}"
        for step in range(1, rng.randint(2, 4)):
            await http.send("POST", f"{path}/steps", b'{"inputs":[[1]],"step":%d}' % step)
        if not left:
            await http.send("DELETE", path)
        progress(1)
