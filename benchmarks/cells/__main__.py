"""Every cell of the table through training, export, service and clock: `python -m benchmarks.cells`.

Exit status 1 where a row fails.
"""

import tempfile
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from benchmarks.cells.suite import variants
from benchmarks.cells.table import run, table_of
from export.lower import Target


def main(
    cells: Annotated[list[str] | None, typer.Argument(help="Names from the table; all, when none is given.")] = None,
    target: Annotated[str, typer.Option(help="cpu or cuda: whose kernels the graphs are made for.")] = "cpu",
) -> None:
    """Train, save, export, verify, serve and time every cell; exit 1 where a row fails."""
    names = cells or variants()
    if unknown := sorted(set(names) - set(variants())):
        raise typer.BadParameter(f"no cell is called {unknown[0]!r}; there are {', '.join(variants())}")
    if target not in ("cpu", "cuda"):
        raise typer.BadParameter(f"the target is cpu or cuda, and is {target!r}")
    console = Console()
    if not console.is_terminal:  # a line a cell, however narrow the pipe claims to be
        console = Console(width=200)
    with tempfile.TemporaryDirectory(prefix="cellstream-cells-") as folder:
        rows = run(names, Path(folder), cast(Target, target), console)
    console.print(table_of(rows))
    native = sum(row.operator != "Scan" for row in rows)
    failed = [row.name for row in rows if row.failure]
    console.print(f"{len(rows)} rows: {native} native nodes, {len(rows) - native} Scan, {len(failed)} failed")
    raise typer.Exit(1 if failed else 0)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)

if __name__ == "__main__":
    app(prog_name="python -m benchmarks.cells")
