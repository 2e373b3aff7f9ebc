"""P7: rolling restarts. The service gets SIGTERM under load and is started again; no answered step may be lost."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from tests.faults.clients import Client, Connections, Goal, JsonClient, OctetClient
from tests.faults.fleets import FleetClient
from tests.faults.history import Event, Report, Restarted, check
from tests.faults.process import ServiceProcess
from tests.faults.sockets import SERVICE_RESTART, FramedClient, SocketClient

_CLIENT_TIMEOUT = 10.0
_END_SECONDS = 30.0


@dataclass(slots=True)
class RestartResult:
    """The report of the clients' history, exit statuses and times of the restarts; `wrong` lists unexpected closes."""

    report: Report = field(default_factory=Report)
    statuses: Counter[int] = field(default_factory=Counter)
    stop_seconds: list[float] = field(default_factory=list)
    down_seconds: list[float] = field(default_factory=list)
    closed: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def restart_under_load(
    service: ServiceProcess, restarts: int, seed: int = 1, progress: Callable[[int], None] = lambda restarts: None
) -> RestartResult:
    """Restart a running service `restarts` times, under load from clients of every kind."""
    rng, result = Random(seed), RestartResult()
    history: list[Event] = []
    connections = Connections(service.port, service.port, _CLIENT_TIMEOUT)
    goal = Goal(1 << 62)
    clients = _clients(connections, history, goal, rng)
    start = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())
            for _ in range(restarts):
                await asyncio.sleep(rng.uniform(0.3, 0.8))
                await _restart(service, history, result)
                progress(1)
            await asyncio.sleep(0.5)
            goal.over = True
    finally:
        connections.close()
    for client in clients:
        if isinstance(client, SocketClient):
            _check_closes(client, result)
    result.report, result.seconds = check(history), time.perf_counter() - start
    return result


async def _restart(service: ServiceProcess, history: list[Event], result: RestartResult) -> None:
    start = time.perf_counter()
    service.terminate()
    while (status := service.ended()) is None:
        if time.perf_counter() - start > _END_SECONDS:
            raise RuntimeError("the service does not end")
        await asyncio.sleep(0.005)
    history.append(Restarted())
    result.stop_seconds.append(time.perf_counter() - start)
    result.statuses[status] += 1
    service.start()
    while not service.listens():
        if service.ended() is not None:
            raise RuntimeError(f"the service does not start again: {service.log.read_text()[-2000:]}")
        await asyncio.sleep(0.02)
    result.down_seconds.append(time.perf_counter() - start)


def _check_closes(client: SocketClient, result: RestartResult) -> None:
    """Check that every WebSocket that the client did not close ended with 1012 and the step at which to resume."""
    for close in client.closes:
        result.closed += 1
        if close.code != SERVICE_RESTART or close.reason != str(close.next_step):
            result.wrong.append(f"{client.format} socket closed with {close}")


def _clients(connections: Connections, history: list[Event], goal: Goal, rng: Random) -> list[Client]:
    def seeded() -> Random:
        return Random(rng.random())

    clients: list[Client] = [JsonClient(connections, history, goal, seeded()) for _ in range(4)]
    clients += [OctetClient(connections, history, goal, seeded()) for _ in range(3)]
    clients += [FleetClient(connections, history, goal, seeded())]
    clients += [SocketClient(connections, history, goal, seeded()) for _ in range(4)]
    clients += [FramedClient(connections, history, goal, seeded(), window=1 + at) for at in range(4)]
    return clients
