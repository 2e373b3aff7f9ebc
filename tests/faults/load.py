"""P1: steps under faults. Clients of every kind send requests through the proxy, and their history is checked."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tests.faults.clients import Client, Connections, Goal, JsonClient, OctetClient
from tests.faults.fleets import FleetClient
from tests.faults.history import Event, Report, check
from tests.faults.proxy import HTTP_FAULTS, SOCKET_FAULTS, Fault, Proxy
from tests.faults.sockets import FramedClient, SocketClient


@dataclass(frozen=True, slots=True)
class Load:
    """The load: the total number of `steps`, the number of clients of each kind, and the injected faults.

    `rate` is the fraction of requests with a fault. A client waits `timeout` seconds for an answer, less than the proxy
    delays a request. With `extras` clients also send forks, rewinds, snapshots and invalid requests.
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
    """The result of a load: violations and counts, the injected faults, requests without one, and the duration in s."""

    report: Report
    faults: Counter[Fault]
    passed: int
    seconds: float


async def run_load(port: int, load: Load, progress: Callable[[int], None] = lambda steps: None) -> LoadResult:
    """Send a load through the proxy to the service at a port, and check its history."""
    rng = Random(load.seed)
    proxy = Proxy(port, Random(rng.random()), load.rate, faults=load.faults)
    connections = Connections(await proxy.start(), port, load.timeout)
    history: list[Event] = []
    start = time.perf_counter()
    try:
        goal = Goal(load.steps, progress)
        async with asyncio.TaskGroup() as group:
            for client in _clients(load, connections, history, goal, rng):
                group.create_task(client.run())
    finally:
        connections.close()
        await proxy.close()
    return LoadResult(check(history), proxy.counts, proxy.passed, time.perf_counter() - start)


def _clients(load: Load, connections: Connections, history: list[Event], goal: Goal, rng: Random) -> Sequence[Client]:
    def seeded() -> Random:
        return Random(rng.random())

    clients: list[Client] = [
        JsonClient(connections, history, goal, seeded(), extras=load.extras) for _ in range(load.json)
    ]
    clients += [OctetClient(connections, history, goal, seeded(), extras=load.extras) for _ in range(load.octets)]
    clients += [FleetClient(connections, history, goal, seeded(), named=at % 2 == 1) for at in range(load.fleets)]
    clients += [SocketClient(connections, history, goal, seeded(), extras=load.extras) for _ in range(load.sockets)]
    clients += [
        FramedClient(connections, history, goal, seeded(), window=1 + at % 4, extras=load.extras)
        for at in range(load.framed)
    ]
    return clients
