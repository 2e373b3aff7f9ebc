"""The cost of sessions: python -m benchmarks.sessions, or make bench-sessions.

Measures step numbers, forks and a million idle sessions: the time to open them, their memory, and the time of a step
while they exist. Speed is given as a ratio to a reference that is measured in the same run.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import orjson
import torch
import typer
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import Load, Request, closed_loop, post
from benchmarks.reference import FEATURES, write_reference
from benchmarks.servers import Server, pin, post_json
from export import ExportOptions, export_network
from models.network import Network, NetworkConfig

SMALL_FEATURES, SMALL_HIDDEN = 4, 32
"""Sizes of an LSTM whose state, h and c, is 64 floats."""
FLEET = 1000
_FEW = 1000
_NUMBERED = 4000
_IDLE = orjson.dumps({"idle_limit": 86_400})


def write_small(folder: Path) -> None:
    """Export the small model, which the idle sessions use, to FOLDER/small/1."""
    torch.manual_seed(0)
    network = Network(
        NetworkConfig(cell="lstm", input_size=SMALL_FEATURES, hidden_size=SMALL_HIDDEN, output_size=SMALL_FEATURES)
    )
    export_network(network, folder, "small", 1, ExportOptions(max_batch=1024))


class Bench:
    """Three servers: one with the reference model, and two with the small model and few or many idle sessions."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        write_reference(folder / "reference")
        write_small(folder / "small")
        small = ("--idle-limit", "86400", "--max-sessions", "1100000")
        self.reference = stack.enter_context(_service(folder / "reference"))
        self.few = stack.enter_context(_service(folder / "small", *small))
        self.many = stack.enter_context(_service(folder / "small", *small))

    def open_idle(self, server: Server, count: int, progress: Progress) -> float:
        """Open sessions by name, 1,000 per request, each with its first step; return the seconds taken."""
        task = progress.add_task(f"opening {count:,} sessions", total=count)
        raw = np.random.default_rng(0).normal(size=(FLEET, 1, SMALL_FEATURES)).astype("<f4").tobytes()
        tensor = {
            "name": "x",
            "datatype": "FP32",
            "shape": [FLEET, 1, SMALL_FEATURES],
            "parameters": {"binary_data_size": len(raw)},
        }
        start = time.perf_counter()
        for first in range(0, count, FLEET):
            names = [f"unit-{number}" for number in range(first, first + FLEET)]
            head = orjson.dumps({"sessions": names, "create": True, "inputs": [tensor]})
            post_json(f"{server.url}/v1/models/small/fleet", head + raw, inference_header_content_length=str(len(head)))
            progress.advance(task, FLEET)
        return time.perf_counter() - start

    async def steps(self, server: Server, model: str, features: int, sessions: int, numbered: bool = False) -> Load:
        """Send one step per request, in JSON, from new sessions, with or without step numbers."""
        loops = []
        for _ in range(sessions):
            path = f"/v1/sessions/{_open(server, model)}/steps"
            rows = [_row(features, number) for number in range(32)]
            bodies = [b'{"inputs":[%b]}' % row for row in rows]
            if numbered:
                bodies = [b'{"inputs":[%b],"step":%d}' % (rows[n % 32], n + 1) for n in range(_NUMBERED)]
            loops.append([Request(post(path, body)) for body in bodies])
        return await closed_loop(server.url, loops, pid=server.pid)

    async def forks(self) -> Load:
        """Fork one session, which has taken a step, once per request."""
        session = _open(self.reference, "lstm")
        post_json(f"{self.reference.url}/v1/sessions/{session}/steps", b'{"inputs":[%b]}' % _row(FEATURES, 0))
        loop = [Request(post(f"/v1/sessions/{session}/fork", b""))]
        return await closed_loop(self.reference.url, [loop], pid=self.reference.pid, seconds=0.5)

    async def round(self) -> dict[str, float]:
        """Measure both sides of every ratio once, and return the ratios by name."""
        plain = await self.steps(self.reference, "lstm", FEATURES, 64)
        numbered = await self.steps(self.reference, "lstm", FEATURES, 64, numbered=True)
        one = await self.steps(self.reference, "lstm", FEATURES, 1)
        fork = await self.forks()
        ratios = {"numbered": numbered.rate / plain.rate, "fork": fork.percentile(50) / one.percentile(50)}
        for sessions in (1, 64):
            few = await self.steps(self.few, "small", SMALL_FEATURES, sessions)
            many = await self.steps(self.many, "small", SMALL_FEATURES, sessions)
            ratios[f"many {sessions}"] = many.percentile(50) / few.percentile(50)
        return ratios


def _service(artifacts: Path, *flags: str) -> Server:
    return Server("service", "--artifacts", str(artifacts), "--log-level", "error", *flags)


def _open(server: Server, model: str) -> str:
    return str(orjson.loads(post_json(f"{server.url}/v1/models/{model}/sessions", _IDLE))["session_id"])


def _row(features: int, seed: int) -> bytes:
    return json.dumps(np.random.default_rng(seed).uniform(-1, 1, features).round(5).tolist()).encode()


def main(
    rounds: Annotated[int, typer.Option(min=1, help="how many times every ratio is measured")] = 5,
    idle: Annotated[int, typer.Option(min=FLEET, help="number of idle sessions")] = 1_000_000,
) -> None:
    """Measure and print the cost of step numbers, forks and a million idle sessions."""
    idle -= idle % FLEET
    memory = json.loads(subprocess.check_output([sys.executable, "-m", "benchmarks.weights", str(idle)]))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, Progress(transient=True) as progress:
        bench = Bench(Path(folder), stack)
        pin(1)
        bench.open_idle(bench.few, _FEW, progress)
        seconds = bench.open_idle(bench.many, idle, progress)
        task = progress.add_task("rounds", total=rounds)
        measured = []
        for _ in range(rounds):
            measured.append(uvloop.run(bench.round()))
            progress.advance(task)
    lines = (
        ("steps/s of 64 sessions with step numbers ÷ without", "numbered", "≥ 0.92", "≥ 0.97"),
        (f"p50 of a step, one session, with {idle:,} idle sessions ÷ with {_FEW:,}", "many 1", "≤ 1.2", "≤ 1.05"),
        (f"p50 of a step, 64 sessions, with {idle:,} idle sessions ÷ with {_FEW:,}", "many 64", "≤ 1.2", "≤ 1.05"),
        ("p50 of a fork ÷ p50 of a step", "fork", "≤ 1.2", "≤ 0.8"),
    )
    table = Table(title=f"cost of sessions, medians of {rounds} rounds")
    table.add_column("measurement")
    for column in ("median", "minimum", "maximum", "required", "target"):
        table.add_column(column, justify="right")
    for label, key, required, target in lines:
        values = [ratios[key] for ratios in measured]
        figures = [f"{value:.2f}" for value in (median(values), min(values), max(values))]
        table.add_row(label, *figures, required, target)
    before, after = memory["before"], memory["after"]
    table.add_row("Python bytes per session before its first step", f"{before:.0f}", "", "", "≤ 400", "≤ 350")
    table.add_row("Python bytes per session after it, with its stored answer", f"{after:.0f}", "", "", "≤ 650", "≤ 550")
    table.add_row(
        f"seconds to open {idle:,} by fleet steps, with one step each", f"{seconds:.1f}", "", "", "≤ 60", "≤ 20"
    )
    console = Console(width=140)
    console.print(table)
    parts = Table(title="bytes per session after its first step, by part")
    parts.add_column("part")
    parts.add_column("bytes", justify="right")
    for part, size in memory["parts"].items():
        parts.add_row(part, f"{size:.0f}")
    console.print(parts)


if __name__ == "__main__":
    typer.run(main)
