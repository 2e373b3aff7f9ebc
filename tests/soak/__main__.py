"""The command line of the starvation tests: python -m tests.soak [ATTACK]."""

import hashlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.reference import FEATURES, write_reference
from tests.faults.process import ServiceProcess
from tests.soak.attacks import ATTACKS
from tests.soak.starvation import Windows, measure
from tests.soak.target import Target
from tests.soak.victim import percentile

_MOST = 2.0
"""Largest ratio of the victim's 99th percentile under attack to that alone."""
_KEYS = ("victim", "attacker")
_WIDTH = 120


def write_keys(file: Path) -> Path:
    """Write a file of keys in which each tenant's key is its name."""
    file.write_text("".join(f"{key}:{hashlib.sha256(key.encode()).hexdigest()}\n" for key in _KEYS))
    return file


def main(
    attack: Annotated[str, typer.Argument(help="a part of the name of the attacks to make; all by default")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="pairs of windows, alone and under attack")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="seconds of a window")] = 3.0,
) -> None:
    """Time one client's steps while another one attacks; the exit status is 1 where the ratio is over 2."""
    console, found = Console(width=_WIDTH), dict[str, Windows]()
    with tempfile.TemporaryDirectory() as folder:
        artifacts, keys = Path(folder) / "artifacts", write_keys(Path(folder) / "keys")
        write_reference(artifacts)
        for name in [name for name in ATTACKS if attack in name]:
            with ServiceProcess(artifacts, "--api-key-file", str(keys)) as service:
                victim = Target(service.port, FEATURES, _KEYS[0])
                found[name] = measure(service, name, victim, _KEYS[1], rounds, seconds)
            console.print(f"{name}: {found[name].ratio:.1f}")
    console.print(table_of(found))
    if not all(windows.ratio <= _MOST and not windows.refused for windows in found.values()):
        raise typer.Exit(1)


def table_of(found: dict[str, Windows]) -> Table:
    """Return the table of results; times in milliseconds."""
    table = Table(title="steps of one client while another one attacks, in ms", title_justify="left")
    table.add_column("attack")
    for column in ("alone p50", "p99", "attacked p50", "p99", "longest", "ratio of p99", "refused", "≤ 2"):
        table.add_column(column, justify="right")
    for name, windows in found.items():
        alone, attacked = windows.alone, windows.attacked
        times = [percentile(values, share) for values in (alone, attacked) for share in (0.5, 0.99)]
        reached = windows.ratio <= _MOST and not windows.refused
        table.add_row(
            name,
            *(f"{time * 1000:.2f}" for time in (*times, max(attacked))),
            f"{windows.ratio:.2f}",
            f"{len(windows.refused)}",
            "yes" if reached else "NO",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
