"""The time of each stage of one step: python -m benchmarks.stages.

Whole steps of many sessions at once are timed in this process, without sockets; then each stage is timed by itself. The
rest, which no stage accounts for, is asyncio: tasks, futures and coroutines.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.reference import FEATURES, write_reference
from benchmarks.servers import pin
from service.api.request import Call, Reply, operation
from service.app import Service
from service.engine.chunk import Chunk
from service.engine.outputs import RunOutputs
from service.engine.work import Job, Work
from service.repository.served_model import ServedModel
from service.settings import Settings

ROUNDS = 7


class Driver:
    """A service in this process, and sessions that step concurrently."""

    def __init__(self, artifacts: Path, sessions: int) -> None:
        self.service = Service(Settings(artifacts=artifacts))
        self.service.open()
        self.model: ServedModel = self.service.repository.find("lstm")
        self.sessions = [self.service.sessions.create("public", self.model, 900) for _ in range(sessions)]
        self.body = json.dumps(
            {"inputs": [[round(0.01 * n, 5) for n in range(FEATURES)]]}, separators=(",", ":")
        ).encode()
        self.headers = [(b"host", b"bench"), (b"content-type", b"application/json"), (b"content-length", b"120")]

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, _: Any) -> None:
        pass

    async def whole_step(self, steps: int) -> float:
        """Return the CPU seconds per step through the ASGI callable, with one task per request."""
        loop = asyncio.get_running_loop()

        async def stream(path: str) -> None:
            scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": self.headers}
            for _ in range(steps):
                await loop.create_task(self.service.app(scope, self.receive, self.send))  # type: ignore[arg-type]

        start = time.process_time()
        await asyncio.gather(*(stream(f"/v1/sessions/{session.id}/steps") for session in self.sessions))
        return (time.process_time() - start) / steps / len(self.sessions)

    def stages(self) -> dict[str, float]:
        """Return the seconds that a step takes in each part of one round of the batcher."""
        batcher, codec = self.model.batcher, self.model.codec
        times: dict[str, float] = {}

        def timed(name: str, call: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            result = call()
            times[name] = (time.perf_counter() - start) / len(self.sessions)
            return result

        bodies = timed(
            "decode: JSON → bytes", lambda: [codec.decode_steps(self.body, 1024, 65_536) for _ in self.sessions]
        )
        chunks = [Chunk(session, *body) for session, body in zip(self.sessions, bodies, strict=True)]
        batcher._scheduled = True  # the round is run by hand
        timed("submit: waiter, future, queue", lambda: [batcher.submit((chunk,)) for chunk in chunks])
        now, runner, slots = time.monotonic(), self.model.runner, self.model.arena.slots
        jobs: list[Job] = []

        def pick() -> Work:
            batcher._scheduler.pick(batcher._queue.short, jobs, now, batcher.max_rows)
            return jobs[0].gather(jobs, batcher._limits, 0.001, batcher.max_rows)

        work = timed("pick: who runs together", pick)
        binding = runner.binding(work.rows, work.steps)
        timed("prepare: lease, inputs, slots", lambda: work.prepare(binding, slots.lease_many(work.leases)))
        timed("run: onnxruntime", lambda: runner.run(binding))

        def settle() -> None:
            outputs = RunOutputs([tensor.copy() for tensor in binding.outputs])
            settled = work.settle(outputs, binding.not_finite_rows(), now)
            batcher._committer.apply(settled.commits, now, batcher._answer_commits)

        timed("settle, commit, answer", settle)
        batcher._scheduled = False
        timed("encode: outputs → JSON", lambda: [codec.encode_steps(chunk.outputs) for chunk in chunks])
        return times

    async def handler(self) -> float:
        """Return the seconds that the handler's own parts take: headers, key, request id, counts."""
        handler, scope = self.service.handler, {"headers": self.headers, "query_string": b""}

        async def nothing(call: Call, body: bytes) -> Reply:
            return 200, [], b""

        empty, start = operation("step", nothing), time.perf_counter()
        for _ in range(1000):
            await handler.run(empty, Call("id", scope, self.receive))
        return (time.perf_counter() - start) / 1000


async def measure(artifacts: Path, sessions: int) -> dict[str, float]:
    """Return the minimum seconds per step of each stage over several rounds, and those of the whole step under ""."""
    driver = Driver(artifacts, sessions)
    await driver.whole_step(20)
    result = {"": min([await driver.whole_step(max(20, 10_000 // sessions)) for _ in range(ROUNDS)])}
    result["handler: headers, key, id, metrics"] = min([await driver.handler() for _ in range(ROUNDS)])
    rounds = [driver.stages() for _ in range(50)]
    return result | {name: min(times[name] for times in rounds) for name in rounds[0]}


def main(sessions: Annotated[int, typer.Option(min=1, help="number of sessions that step concurrently")] = 64) -> None:
    """Print the time of each stage of one step."""
    with tempfile.TemporaryDirectory() as folder:
        write_reference(Path(folder))
        pin(1)
        stages = uvloop.run(measure(Path(folder), sessions))
    whole = stages.pop("")
    table = Table(title=f"one step of {sessions} concurrent sessions, without HTTP")
    table.add_column("stage")
    for column in ("µs per step", "share"):
        table.add_column(column, justify="right")
    stages["asyncio: tasks, futures, coroutines"] = whole - sum(stages.values())
    for name, seconds in (*stages.items(), ("whole step", whole)):
        table.add_row(name, f"{seconds * 1e6:.2f}", f"{seconds / whole:.0%}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
