"""Two trees against each other: python -m benchmarks.compare OLD_TREE NEW_TREE.

A server of each tree runs the reference model, both with this interpreter and on the same core. Every round loads all
of them one after the other, in an order that changes from round to round, so that what slows the machine down for a
while slows all of them down; the figures are the medians of the rounds' ratios. A second server of the old tree is the
control: its ratios say how much of a difference means nothing.
"""

import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.load import Load
from benchmarks.older_cards import keep_known_fields
from benchmarks.reference import write_reference
from benchmarks.rounds import fleet_load, open_sessions, step_load
from benchmarks.servers import Server, pin

SECONDS = 0.4
SESSIONS = (1, 16, 64)
NEW, CONTROL = "new ÷ old", "old ÷ old"


@dataclass(slots=True)
class Ratios:
    """The ratios of every round of one load: steps a second, and the server's CPU seconds for a step."""

    rates: list[float]
    costs: list[float]

    def add(self, old: Load, other: Load) -> None:
        self.rates.append(other.rate / old.rate)
        self.costs.append((other.cpu / other.steps) / (old.cpu / old.steps))


Measure = Callable[[Server, float], Coroutine[Any, Any, Load]]


async def _steps(paths: dict[int, list[str]], sessions: int, server: Server, seconds: float) -> Load:
    return await step_load(server, paths[server.pid][:sessions], seconds)


def loads(servers: list[Server]) -> dict[str, Measure]:
    """Return the loads by name; the sessions that they step are opened here."""
    paths = {server.pid: open_sessions(server, max(SESSIONS)) for server in servers}
    named: dict[str, Measure] = {f"JSON, sessions: {count}": partial(_steps, paths, count) for count in SESSIONS}
    return named | {"fleet of 1,024, framed": fleet_load}


def shown(ratios: list[float]) -> str:
    """Return the median, and between which values the middle half of the rounds is."""
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return f"{middle:.3f} ({low:.3f}–{high:.3f})"


def show(found: dict[str, dict[str, Ratios]], olds: dict[str, list[Load]], rounds: int) -> None:
    """Print the table of medians."""
    table = Table(title=f"medians of the ratios of {rounds} rounds (25–75 %)")
    for column in ("load", "ratio"):
        table.add_column(column)
    for column in ("steps/s", "server CPU a step", "old: steps/s", "old: µs CPU a step"):
        table.add_column(column, justify="right")
    for load, by_ratio in found.items():
        rate = np.median([each.rate for each in olds[load]])
        cost = np.median([each.cpu / each.steps * 1e6 for each in olds[load]])
        for ratio, values in by_ratio.items():
            figures = (f"{rate:,.0f}", f"{cost:.2f}") if ratio == NEW else ("", "")
            table.add_row(load if ratio == NEW else "", ratio, shown(values.rates), shown(values.costs), *figures)
    Console(width=130).print(table)


def main(
    old: Annotated[Path, typer.Argument(help="tree that is measured against")],
    new: Annotated[Path, typer.Argument(help="tree that is measured")],
    rounds: Annotated[int, typer.Option(min=1, help="how often every load is measured on every server")] = 30,
    seconds: Annotated[float, typer.Option(min=0.05, help="seconds of each load")] = SECONDS,
    control: Annotated[bool, typer.Option(help="measure a second server of the old tree as well")] = True,
) -> None:
    """Load a server of each tree one after the other, and print the ratios of their speed and of their CPU time."""
    trees = {"old": old, NEW: new} | ({CONTROL: old} if control else {})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, Progress(transient=True) as progress:
        write_reference(Path(folder) / "artifacts")
        keep_known_fields(Path(folder) / "artifacts", old.resolve(), new.resolve())
        flags = ("service", "--artifacts", f"{folder}/artifacts", "--log-level", "error")
        servers = {name: stack.enter_context(Server(*flags, tree=tree.resolve())) for name, tree in trees.items()}
        pin(1)
        measures = loads(list(servers.values()))
        found = {load: {name: Ratios([], []) for name in servers if name != "old"} for load in measures}
        olds: dict[str, list[Load]] = {load: [] for load in measures}
        names = list(servers)
        task = progress.add_task("rounds", total=rounds * len(measures))
        for number in range(rounds):
            names = [*names[1:], names[0]] if number % 2 else names[::-1]
            for load, measure in measures.items():
                taken = {name: uvloop.run(measure(servers[name], seconds)) for name in names}
                olds[load].append(taken["old"])
                for name, ratios in found[load].items():
                    ratios.add(taken["old"], taken[name])
                progress.advance(task)
    show(found, olds, rounds)


if __name__ == "__main__":
    typer.run(main)
