"""How many functions one step passes: python -m benchmarks.calls TREE [TREE].

A tree's service runs with a profile function (benchmarks/probe.py) and answers steps of one session, JSON, one after
the other over one connection. Counted is what Python reports between the arrival of a request and the end of the task
that answered it: each Python function entered, where every resumption of a coroutine is one more, and, apart, each
call of a C function from Python. What compiled code (uvloop, httptools, onnxruntime) does by itself is not reported.
All steps should give the same number; the commonest one is shown, and how many steps gave it.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.load import post
from benchmarks.older_cards import keep_known_fields
from benchmarks.reference import FEATURES, write_reference

WARM_UP = 100
STEPS = 300
_PROBE = Path(__file__).with_name("probe.py")
_SECONDS = 30.0


def count(tree: Path, artifacts: Path, folder: Path, steps: int = STEPS) -> dict[str, Any]:
    """Return what a step of a tree's service calls: function → count, for Python's and for C's."""
    file, log = folder / "calls.json", folder / "log"
    file.unlink(missing_ok=True)
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [
                *(sys.executable, str(_PROBE), str(file), "--artifacts", str(artifacts)),
                *("--port", "0", "--log-format", "json"),
            ],
            cwd=tree,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        with socket.create_connection(("127.0.0.1", _port(process, log)), _SECONDS) as connection:
            opened = json.loads(_ask(connection, post("/v1/models/lstm/sessions", b"")))
            inputs = json.dumps({"inputs": [[n / 8 for n in range(FEATURES)]]}, separators=(",", ":")).encode()
            step = post(f"/v1/sessions/{opened['session_id']}/steps", inputs)
            for _ in range(WARM_UP):
                _ask(connection, step)
            os.kill(process.pid, signal.SIGUSR1)
            for _ in range(steps + 2):
                _ask(connection, step)
            os.kill(process.pid, signal.SIGUSR2)
            deadline = time.monotonic() + _SECONDS
            while not file.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        found: dict[str, Any] = json.loads(file.read_text())
        return found
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"event": "started"' in line and line.endswith("}"):
                return int(json.loads(line)["port"])
        time.sleep(0.01)
    raise RuntimeError(f"the service did not start: {log.read_text()[-2000:]}")


def _ask(connection: socket.socket, request: bytes) -> bytes:
    """Send a request and return the body of its answer."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(1 << 16)
    head, _, body = answer.partition(b"\r\n\r\n")
    if head[9:11] != b"20":
        raise RuntimeError(f"answered {answer!r}")
    size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    while len(body) < size:
        body += connection.recv(1 << 16)
    return body


def _packages(functions: dict[str, int]) -> Counter[str]:
    """Sum the counts by the package that a function is in."""
    summed: Counter[str] = Counter()
    for name, number in functions.items():
        summed[name.split("/", 1)[0] if "/" in name else "(standard library)"] += number
    return summed


def main(
    trees: Annotated[list[Path], typer.Argument(help="one tree, or two to compare")],
    every: Annotated[bool, typer.Option("--list", help="print every function with its count")] = False,
    steps: Annotated[int, typer.Option(min=3, help="steps that are counted")] = STEPS,
) -> None:
    """Count the functions of a step, in one tree or in two."""
    with tempfile.TemporaryDirectory() as folder:
        write_reference(Path(folder) / "artifacts")
        keep_known_fields(Path(folder) / "artifacts", *(tree.resolve() for tree in trees))
        found = [count(tree.resolve(), Path(folder) / "artifacts", Path(folder), steps) for tree in trees]
    table = Table(title="function calls of one step, JSON, one session")
    table.add_column("what")
    for tree in trees:
        table.add_column(str(tree), justify="right")
    if len(trees) == 2:
        table.add_column("ratio", justify="right")

    def add(what: str, numbers: list[int]) -> None:
        ratio = [f"{numbers[1] / numbers[0]:.3f}" if numbers[0] else "–"] if len(numbers) == 2 else []
        table.add_row(what, *map(str, numbers), *ratio)

    add("Python functions entered", [sum(each["python"].values()) for each in found])
    packages = [_packages(each["python"]) for each in found]
    for package in sorted(set().union(*packages)):
        add(f"  {package}", [each[package] for each in packages])
    add("C functions called", [sum(each["c"].values()) for each in found])
    table.add_section()
    shares = [f"{each['like_this']} of {each['steps']}" for each in found]
    table.add_row("steps that gave these numbers", *shares, *([""] if len(trees) == 2 else []))
    Console(width=120).print(table)
    if every:
        for kind in ("python", "c"):
            print(f"\n{kind}:")
            for name in sorted(set().union(*(each[kind] for each in found))):
                print("".join(f"{each[kind].get(name, 0):5}" for each in found), name)


if __name__ == "__main__":
    typer.run(main)
