"""The main benchmark, which prints a table of ratios: python -m benchmarks, or make bench."""

import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.rounds import SECONDS, Bench, Figure
from benchmarks.servers import pin
from export import export_network
from models.network import Network, NetworkConfig

Round = dict[str, Figure]
"""Name of a load → its result."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: a label, the ratio computed from a round, the required value and the target."""

    label: str
    value: Callable[[Round], float]
    required: float
    target: float
    lower_is_better: bool = False

    def reached(self, value: float) -> str:
        """Return "target", "required" or "no": the best of the two limits that the value reaches."""
        sign = -1 if self.lower_is_better else 1
        if sign * value >= sign * self.target:
            return "target"
        return "required" if sign * value >= sign * self.required else "no"


ROWS = (
    Row(
        "server CPU per step, 64 sessions ÷ per request of bare uvicorn",
        lambda r: r["ours 64"].cpu / r["bare 64"].cpu,
        1.6,
        1.3,
        True,
    ),
    Row("steps/s, JSON, 64 sessions ÷ bare uvicorn", lambda r: r["ours 64"].rate / r["bare 64"].rate, 0.62, 0.80),
    Row("steps/s, JSON, 16 sessions ÷ bare uvicorn", lambda r: r["ours 16"].rate / r["bare 16"].rate, 0.46, 0.62),
    Row("steps/s, JSON, 64 sessions ÷ dict of states", lambda r: r["ours 64"].rate / r["dict 64"].rate, 3.8, 5),
    Row(
        "steps/s, JSON, 64 sessions ÷ FastAPI without a model",
        lambda r: r["ours 64"].rate / r["pydantic 64"].rate,
        1,
        2,
    ),
    Row("p50, one session ÷ bare uvicorn", lambda r: r["ours 1"].p50 / r["bare 1"].p50, 2.1, 1.7, True),
    Row("p99 ÷ p50, 64 sessions", lambda r: r["ours 64"].p99 / r["ours 64"].p50, 2.5, 1.8, True),
    Row(
        "p99, 64 sessions, with concurrent predictions of 3,801 steps ÷ without",
        lambda r: r["with predictions"].p99 / r["ours 64"].p99,
        3,
        2,
        True,
    ),
    Row(
        "steps/s, WebSocket, binary, 64 sockets ÷ bare WebSocket",
        lambda r: r["ours ws"].rate / r["bare ws"].rate,
        0.45,
        0.60,
    ),
    Row("time steps/s, chunks of 1–8 ÷ chunks of 1", lambda r: r["chunks"].rate / r["ours 64"].rate, 2.5, 3.3),
    Row(
        "fleet of 1,024, binary ÷ raw onnxruntime at batch 1,024",
        lambda r: r["fleet"].rate / r["raw 1024"].rate,
        0.65,
        0.80,
    ),
    Row(
        "predict 3,801 steps, binary ÷ raw onnxruntime",
        lambda r: r["long binary"].rate / r["raw long"].rate,
        0.85,
        0.95,
    ),
    Row("predict 3,801 steps, JSON ÷ raw onnxruntime", lambda r: r["long json"].rate / r["raw long"].rate, 0.60, 0.75),
    Row(
        "64 concurrent predictions of 10–400 steps ÷ raw onnxruntime, one at a time",
        lambda r: r["predictions"].rate / r["raw short"].rate,
        1.2,
        1.8,
    ),
    Row("seconds from start to ready, ten small models", lambda r: 1 / r["start"].rate, 2.0, 1.2, True),
)


async def measure_round(bench: Bench, ten: Path) -> Round:
    """Run every load once, and return the results; `ten` is the folder of the ten small models."""
    result: Round = {}
    for sessions in (1, 16, 64):
        result[f"bare {sessions}"] = await bench.steps(bench.bare, sessions)
        result[f"ours {sessions}"] = await bench.steps(bench.service, sessions)
    result["dict 64"] = await bench.steps(bench.dict_of_states, 64)
    result["pydantic 64"] = await bench.steps(bench.pydantic, 64)
    result["with predictions"] = await bench.steps_with_predictions()
    result["bare ws"] = await bench.sockets(bench.bare_ws)
    result["ours ws"] = await bench.sockets(bench.service)
    result["chunks"] = await bench.chunks(8)
    result["raw 1024"] = bench.raw_batches()
    result["fleet"] = await bench.fleet()
    result["raw long"] = bench.raw_long()
    result["long binary"] = await bench.long_prediction(True)
    result["long json"] = await bench.long_prediction(False)
    result["raw short"] = bench.raw_one_at_a_time()
    result["predictions"] = await bench.predictions()
    result["start"] = bench.start_of_ten(ten)
    return result


async def sweep(bench: Bench) -> dict[str, dict[int, Figure]]:
    """Measure throughput and latency of each server by the number of sessions."""
    servers = {"cellstream": bench.service, "bare uvicorn": bench.bare, "dict of states": bench.dict_of_states}
    return {
        name: {sessions: await bench.steps(server, sessions) for sessions in (1, 4, 16, 64, 256)}
        for name, server in servers.items()
    }


def write_ten_models(folder: Path) -> None:
    """Export ten small models to a folder of artefacts."""
    for number in range(10):
        torch.manual_seed(number)
        network = Network(NetworkConfig(cell="lstm", input_size=4, hidden_size=32, output_size=2))
        export_network(network, folder, f"small-{number}", 1)


def show(rounds: list[Round]) -> None:
    """Print the table of the rounds' medians, minima and maxima."""
    table = Table(title=f"medians of {len(rounds)} alternating rounds, {SECONDS:g} s per load")
    table.add_column("measurement")
    for column in ("median", "minimum", "maximum", "required", "target", "reached"):
        table.add_column(column, justify="right")
    for row in ROWS:
        values = [row.value(each) for each in rounds]
        sign = "≤" if row.lower_is_better else "≥"
        figures = [f"{value:.2f}" for value in (median(values), min(values), max(values))]
        table.add_row(
            row.label, *figures, f"{sign} {row.required:g}", f"{sign} {row.target:g}", row.reached(median(values))
        )
    Console(width=120).print(table)


def plot(curves: dict[str, dict[int, Figure]], path: Path) -> None:
    """Plot throughput and p99 latency by the number of sessions, and save the image."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for name, points in curves.items():
        sessions = list(points)
        left.plot(sessions, [points[n].rate / 1000 for n in sessions], marker="o", label=name)
        right.plot(sessions, [points[n].p99 for n in sessions], marker="o", label=name)
    for axes, title in ((left, "thousand steps/s"), (right, "p99 of a step, ms")):
        axes.set(xscale="log", xlabel="sessions", title=title)
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    left.legend()
    figure.suptitle(
        "one step per request over HTTP, JSON; LSTM 16 → 128 × 2 → 4; one core for the server, one for the load"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="how many times every load is measured")] = 5,
    out: Annotated[Path, typer.Option(help="folder for results.json and sessions.png")] = Path("results"),
    curves: Annotated[bool, typer.Option(help="also measure and plot the dependence on the number of sessions")] = True,
) -> None:
    """Measure the service against bare uvicorn, FastAPI, a dict of states and raw onnxruntime, and print ratios."""
    out.mkdir(parents=True, exist_ok=True)
    done: list[Round] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, Progress(transient=True) as progress:
        task = progress.add_task("exporting", total=rounds + 1)
        write_ten_models(Path(folder) / "ten")
        bench = Bench(Path(folder), stack)
        pin(1)
        error = uvloop.run(bench.check())
        if error > 1e-5:
            raise RuntimeError(f"the service's outputs differ from those of raw onnxruntime by {error:g}")
        for number in range(rounds):
            progress.update(task, description=f"round {number + 1} of {rounds}")
            done.append(uvloop.run(measure_round(bench, Path(folder) / "ten")))
            progress.advance(task)
        if curves:
            progress.update(task, description="sessions")
            plot(uvloop.run(sweep(bench)), out / "sessions.png")
    show(done)
    results = [
        {"label": row.label, "required": row.required, "target": row.target, "values": [row.value(r) for r in done]}
        for row in ROWS
    ]
    loads = [{name: {"rate": f.rate, "p50": f.p50, "p99": f.p99, "cpu": f.cpu} for name, f in r.items()} for r in done]
    (out / "results.json").write_text(json.dumps({"rows": results, "rounds": loads}, indent=1))


if __name__ == "__main__":
    typer.run(main)
