"""The table of all cells: how far each was from torch at export and through the service, and what a step takes."""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.cells.served import RefusedError, running_service, served_error
from benchmarks.cells.suite import COMPOSITIONS, TIMED_BATCHES, Outcome, export_variant, step_microseconds
from export.errors import ExportError
from export.lower import Target, lowerings_of
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
    """One variant's results; `failure` says why it failed, and is empty if it did not."""

    name: str
    operator: str
    errors: dict[str, float] = field(default_factory=dict)
    microseconds: dict[int, float] = field(default_factory=dict)
    failure: str = ""


def run(names: list[str], folder: Path, target: Target, console: Console) -> list[Row]:
    """Take the variants through export, service and clock, and return a row for each."""
    rows = {name: Row(name, lowerings_of(CELLS[_cell(name)]).on(target).op) for name in names}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with torch_threads(1), Progress(*columns, console=console, transient=True) as progress:
        outcomes = []
        for name in progress.track(names, description="export and verify"):
            outcomes += _exported(rows[name], folder, target)
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


def _exported(row: Row, folder: Path, target: Target) -> list[Outcome]:
    """Return the outcome in a list, empty where the export failed, and write its figures or the reason to the row."""
    try:
        outcome = export_variant(row.name, folder, target)
    except (ExportError, ValueError, ArithmeticError) as exc:
        row.failure = str(exc)
        return []
    row.errors = dict(outcome.errors)
    if not outcome.loss_after < outcome.loss_before:
        row.failure = f"training took the loss from {outcome.loss_before:.3g} to {outcome.loss_after:.3g}"
    return [outcome]


def table_of(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    table = Table(title=f"torch and onnxruntime, largest difference over the scale (tolerance {TOLERANCE:.0e})")
    table.add_column("cell", no_wrap=True)
    table.add_column("node")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for batch in TIMED_BATCHES:
        table.add_column(f"µs a step, batch {batch}", justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        errors = [f"{row.errors[key]:.1e}" if key in row.errors else "–" for key in COLUMNS.values()]
        times = [f"{row.microseconds[batch]:.2f}" if row.microseconds else "–" for batch in TIMED_BATCHES]
        verdict = f"[red]failed: {row.failure}" if row.failure else "[green]ok"
        table.add_row(row.name, row.operator, *errors, *times, verdict)
    return table
