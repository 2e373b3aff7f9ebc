"""The cost of the Open Inference Protocol: python -m benchmarks.protocol, or make bench-protocol.

The load generator is `bench/loadgen.py` in the folder that CELLSTREAM_SHARED names, which has also measured other
servers. It steps the reference model over /v1 and over /v2, in JSON and binary, and measures a bare uvicorn callable
from the same folder. It compares the outputs with those of onnxruntime.
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
    *((f"v2 JSON ÷ /v1, {n} sessions", ("json", n), ("v1", n), "≥ 0.75", "≥ 0.90") for n in (16, 64)),
    *((f"v2 binary ÷ /v1, {n} sessions", ("binary", n), ("v1", n), "≥ 0.85", "≥ 1.00") for n in (16, 64)),
    ("v2 JSON ÷ bare uvicorn, 1 session", ("json", 1), ("bare", 1), "≥ 0.40", "≥ 0.52"),
    ("v2 JSON ÷ bare uvicorn, 16 sessions", ("json", 16), ("bare", 16), "≥ 0.40", "≥ 0.56"),
    ("v2 JSON ÷ bare uvicorn, 64 sessions", ("json", 64), ("bare", 64), "≥ 0.52", "≥ 0.75"),
)


def load(generator: Path, server: Server, adapter: str, sessions: int, seconds: float) -> float:
    """Return the steps per second of one load.

    Raises:
        RuntimeError: The generator found an error, or an output that differs from onnxruntime's.
    """
    command = [sys.executable, str(generator), "--url", server.url, "--adapter", *ADAPTERS[adapter]]
    command += ["--sessions", str(sessions), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=lambda: pin(1))
    if done.returncode:
        raise RuntimeError(f"{adapter}, {sessions} sessions: {done.stdout}{done.stderr}")
    return float(json.loads(done.stdout)["steps_per_s"])


def main(
    rounds: Annotated[int, typer.Option(min=1, help="how many times every load is measured")] = 5,
    seconds: Annotated[float, typer.Option(help="duration of each load, in seconds")] = 1.0,
) -> None:
    """Measure v2 infer against /v1 steps and bare uvicorn, and print ratios."""
    shared = Path(os.environ.get("CELLSTREAM_SHARED", "../shared")).resolve()
    if not (shared / "bench/loadgen.py").exists():
        raise SystemExit(
            f"no {shared}/bench/loadgen.py: set CELLSTREAM_SHARED to the folder that contains bench/loadgen.py"
        )
    measured: list[Round] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, Progress(transient=True) as progress:
        for script in ("loadgen.py", "make_model.py"):  # the scripts read and write files in their own folder
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
    table = Table(title=f"steps/s of the Open Inference Protocol, medians of {rounds} rounds")
    table.add_column("measurement")
    for column in ("median", "minimum", "maximum", "required", "target"):
        table.add_column(column, justify="right")
    for label, numerator, denominator, required, target in ROWS:
        values = [each[numerator] / each[denominator] for each in measured]
        figures = [f"{value:.2f}" for value in (median(values), min(values), max(values))]
        table.add_row(label, *figures, required, target)
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
