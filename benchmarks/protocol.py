"""What the Open Inference Protocol costs: python -m benchmarks.protocol, or make bench-protocol.

The load generator that other servers were measured with, `bench/loadgen.py` of the folder that CELLSTREAM_SHARED names,
steps the reference model over /v1 and over /v2, JSON and binary, and the bare uvicorn callable that stands beside it.
It compares the answers with onnxruntime's.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.reference import write_reference
from benchmarks.servers import Server, pin

SESSIONS = (1, 16, 64)
_V1 = (
    *("plain-json", "--path", "/v1/sessions/{sid}/steps", "--open", "/v1/models/lstm/sessions"),
    *("--open-id", "session_id", "--body", '{"inputs":[{x}]}', "--answer", "outputs.0"),
)
_OIP = ("--model", "lstm", "--x-shape", "1,1,16")
ADAPTERS = {
    "bare": ("plain-json", "--no-check"),
    "v1": _V1,
    "json": ("oip-json", *_OIP),
    "binary": ("oip-binary", *_OIP),
}

Round = dict[tuple[str, int], float]
ROWS = (
    *((f"v2 JSON × /v1, {n} sessions", ("json", n), ("v1", n), "≥ 0.75", "≥ 0.90") for n in (16, 64)),
    *((f"v2 binary × /v1, {n} sessions", ("binary", n), ("v1", n), "≥ 0.85", "≥ 1.00") for n in (16, 64)),
    ("v2 JSON × bare uvicorn, 1 session", ("json", 1), ("bare", 1), "≥ 0.40", "≥ 0.52"),
    ("v2 JSON × bare uvicorn, 16 sessions", ("json", 16), ("bare", 16), "≥ 0.40", "≥ 0.56"),
    ("v2 JSON × bare uvicorn, 64 sessions", ("json", 64), ("bare", 64), "≥ 0.52", "≥ 0.75"),
)


def load(generator: Path, server: Server, adapter: str, sessions: int, seconds: float) -> float:
    """Return the steps a second of one load.

    Raises:
        RuntimeError: The generator found an error, or an answer that is not onnxruntime's.
    """
    command = [sys.executable, str(generator), "--url", server.url, "--adapter", *ADAPTERS[adapter]]
    command += ["--sessions", str(sessions), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lambda: pin(1))
    if done.returncode:
        raise RuntimeError(f"{adapter}, {sessions} sessions: {done.stdout}{done.stderr}")
    return float(json.loads(done.stdout)["steps_per_s"])


def main(
    rounds: Annotated[int, typer.Option(min=1, help="how often every load is measured")] = 5,
    seconds: Annotated[float, typer.Option(help="length of a load")] = 1.0,
) -> None:
    """Measure v2 infer against /v1 steps and bare uvicorn, and print ratios."""
    shared = Path(os.environ.get("CELLSTREAM_SHARED", "../shared")).resolve()
    if not (shared / "bench/loadgen.py").exists():
        raise SystemExit(
            f"no {shared}/bench/loadgen.py: CELLSTREAM_SHARED names the folder that has the load generator"
        )
    measured: list[Round] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, Progress(transient=True) as progress:
        for script in ("loadgen.py", "make_model.py"):  # they read and write beside themselves
            shutil.copy(shared / "bench" / script, folder)
        subprocess.run([sys.executable, f"{folder}/make_model.py"], check=True, stdout=subprocess.DEVNULL)
        generator = Path(folder) / "loadgen.py"
        write_reference(Path(folder) / "artifacts")
        ours = stack.enter_context(Server("service", "--artifacts", f"{folder}/artifacts", "--log-level", "error"))
        peer = ("uvicorn", "--app-dir", str(shared / "bench/peers/bare-uvicorn"), "app:app")
        bare = stack.enter_context(Server(*peer, "--no-access-log", "--log-level", "warning"))
        task = progress.add_task("rounds", total=rounds * len(SESSIONS) * len(ADAPTERS))
        time.sleep(0.5)
        for _ in range(rounds):
            one: Round = {}
            for sessions in SESSIONS:
                for adapter in ADAPTERS:
                    server = bare if adapter == "bare" else ours
                    one[adapter, sessions] = load(generator, server, adapter, sessions, seconds)
                    progress.advance(task)
            measured.append(one)
    table = Table(title=f"the protocol's cost, medians of {rounds} rounds")
    table.add_column("what")
    for column in ("median", "least", "most", "at least", "aim"):
        table.add_column(column, justify="right")
    for what, above, below, least, aim in ROWS:
        values = [each[above] / each[below] for each in measured]
        figures = [f"{value:.2f}" for value in (median(values), min(values), max(values))]
        table.add_row(what, *figures, least, aim)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
