"""P1: steps under faults. Clients of every kind send through the proxy, and their history is judged."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.faults.clients import Client, Goal, JsonClient, OctetClient, Wire
from tests.faults.fleets import FleetClient
from tests.faults.history import Event, Verdict, check
from tests.faults.proxy import HTTP_FAULTS, SOCKET_FAULTS, Fault, Proxy
from tests.faults.sockets import FramedClient, SocketClient


@dataclass(frozen=True, slots=True)
class Load:
    """How much is sent: `steps` in all, how many clients of each kind send them, and what they meet on the way.

    A client waits `timeout` seconds for an answer, less than the proxy holds a late request; `extras` are what it sends
    beside the steps.
    """

    steps: int
    json: int = 12
    octets: int = 10
    fleets: int = 2
    sockets: int = 6
    framed: int = 6
    rate: float = 0.25
    timeout: float = 0.35
    extras: bool = True
    faults: tuple[Fault, ...] = (*HTTP_FAULTS, *SOCKET_FAULTS)
    seed: int = 1


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of it."""

    verdict: Verdict
    faults: Counter[Fault]
    passed: int
    seconds: float


async def run_load(port: int, load: Load, progress: Callable[[int], None] = lambda steps: None) -> LoadResult:
    """Send a load through the proxy to the service at a port, and judge it."""
    rng = Random(load.seed)
    proxy = Proxy(port, Random(rng.random()), load.rate, faults=load.faults)
    wire = Wire(await proxy.start(), port, load.timeout)
    history: list[Event] = []
    start = time.perf_counter()
    try:
        goal = Goal(load.steps, progress)
        async with asyncio.TaskGroup() as group:
            for client in _clients(load, wire, history, goal, rng):
                group.create_task(client.run())
    finally:
        wire.close()
        await proxy.close()
    return LoadResult(check(history), proxy.counts, proxy.passed, time.perf_counter() - start)


def _clients(load: Load, wire: Wire, history: list[Event], goal: Goal, rng: Random) -> Sequence[Client]:
    def seeded() -> Random:
        return Random(rng.random())

    clients: list[Client] = [JsonClient(wire, history, goal, seeded(), extras=load.extras) for _ in range(load.json)]
    clients += [OctetClient(wire, history, goal, seeded(), extras=load.extras) for _ in range(load.octets)]
    clients += [FleetClient(wire, history, goal, seeded(), named=at % 2 == 1) for at in range(load.fleets)]
    clients += [SocketClient(wire, history, goal, seeded(), extras=load.extras) for _ in range(load.sockets)]
    clients += [
        FramedClient(wire, history, goal, seeded(), window=1 + at % 4, extras=load.extras) for at in range(load.framed)
    ]
    return clients
