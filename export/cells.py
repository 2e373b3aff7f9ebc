"""Every cell of the table through the whole way, as a table: `python -m export.cells`.

Exit status 1 where a row fails.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export.errors import ExportError
from export.lower import Target, forms_of
from export.served import RefusedError, running_service, served_error
from export.suite import COMPOSITIONS, TIMED_BATCHES, Outcome, entries, export_entry, step_microseconds
from export.verify import TOLERANCE
from models.cells import CELLS
from models.threads import torch_threads

COLUMNS = {
    "sequence": "whole_sequence",
    "steps": "one_step_at_a_time",
    "chunks": "random_chunks",
    "ragged": "ragged_batch",
    "from a state": "initial_state",
    "served": "served",
}


@dataclass(slots=True)
class Row:
    """Gather what is known of one entry; `failure` is why it fails, empty while it does not."""

    name: str
    form: str
    errors: dict[str, float] = field(default_factory=dict)
    microseconds: dict[int, float] = field(default_factory=dict)
    failure: str = ""


def run(names: list[str], folder: Path, target: Target, console: Console) -> list[Row]:
    """Take the entries through export, service and clock, and return a row for each."""
    rows = {name: Row(name, forms_of(CELLS[_cell(name)]).on(target).op) for name in names}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with torch_threads(1), Progress(*columns, console=console, transient=True) as progress:
        outcomes = []
        for name in progress.track(names, description="export and verify"):
            outcomes += _export(rows[name], folder, target)
        if outcomes:
            with running_service(folder / "artifacts", "--max-sessions", "50") as client:
                for outcome in progress.track(outcomes, description="stream through the service"):
                    row = rows[outcome.name]
                    try:
                        row.errors["served"] = served_error(client, outcome.name, outcome.network)
                        if not row.errors["served"] <= TOLERANCE:
                            row.failure = f"through the service: {row.errors['served']:.1e}"
                    except (RefusedError, OSError) as exc:
                        row.failure = str(exc)
        for outcome in progress.track(outcomes, description="time a step"):
            if outcome.network.streams:
                rows[outcome.name].microseconds = step_microseconds(outcome.name, target)
    return list(rows.values())


def _cell(name: str) -> str:
    return str(COMPOSITIONS.get(name, {"cell": name})["cell"])


def _export(row: Row, folder: Path, target: Target) -> list[Outcome]:
    """Return the outcome in a list, empty where there is none, and note in the row what failed."""
    try:
        outcome = export_entry(row.name, folder, target)
    except (ExportError, ValueError, ArithmeticError) as exc:
        row.failure = str(exc)
        return []
    row.errors = dict(outcome.errors)
    if not outcome.loss_after < outcome.loss_before:
        row.failure = f"training took the loss from {outcome.loss_before:.3g} to {outcome.loss_after:.3g}"
    return [outcome]


def parity_table(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    table = Table(title=f"torch and onnxruntime, largest difference over the scale (tolerance {TOLERANCE:.0e})")
    table.add_column("cell", no_wrap=True)
    table.add_column("form")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for batch in TIMED_BATCHES:
        table.add_column(f"µs a step, batch {batch}", justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        errors = [f"{row.errors[key]:.1e}" if key in row.errors else "–" for key in COLUMNS.values()]
        times = [f"{row.microseconds[batch]:.2f}" if row.microseconds else "–" for batch in TIMED_BATCHES]
        verdict = f"[red]failed: {row.failure}" if row.failure else "[green]ok"
        table.add_row(row.name, row.form, *errors, *times, verdict)
    return table


def main(
    cells: Annotated[list[str] | None, typer.Argument(help="Names from the table; all, when none is given.")] = None,
    target: Annotated[str, typer.Option(help="cpu or cuda: whose kernels the forms are chosen for.")] = "cpu",
) -> None:
    """Train, save, export, verify, serve and time every cell; exit 1 where a row fails."""
    names = cells or entries()
    if unknown := sorted(set(names) - set(entries())):
        raise typer.BadParameter(f"no cell is called {unknown[0]!r}; there are {', '.join(entries())}")
    if target not in ("cpu", "cuda"):
        raise typer.BadParameter(f"the target is cpu or cuda, and is {target!r}")
    console = Console()
    if not console.is_terminal:  # a line a cell, however narrow the pipe claims to be
        console = Console(width=200)
    with tempfile.TemporaryDirectory(prefix="cellstream-cells-") as folder:
        rows = run(names, Path(folder), cast(Target, target), console)
    console.print(parity_table(rows))
    native = sum(row.form != "Scan" for row in rows)
    failed = [row.name for row in rows if row.failure]
    console.print(f"{len(rows)} rows: {native} native nodes, {len(rows) - native} Scan, {len(failed)} failed")
    raise typer.Exit(1 if failed else 0)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app(prog_name="python -m export.cells")
