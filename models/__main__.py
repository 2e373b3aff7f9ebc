"""Command line of the models: `python -m models list` prints one line for each cell."""

import sys

from rich.console import Console
from rich.table import Table

from models.cells import CELLS, PAPER_NAMES, Bidirectional

USAGE = "usage: python -m models list"


def cell_table() -> Table:
    """Return the table of all cells: name, family, states, whether it streams, ONNX operators, source."""
    table = Table(title=f"{len(CELLS)} cells")
    for column in ("name", "family", "states", "streams", "ONNX on CPU", "on CUDA"):
        table.add_column(column, no_wrap=True)
    table.add_column("source")
    for name, cell in CELLS.items():
        hidden = 8
        states = cell(hidden, hidden).states
        names = ", ".join(f"{spec.name} {spec.dtype}" if spec.dtype != "float32" else spec.name for spec in states)
        streams = "yes" if cell.streams else "no"
        table.add_row(name, cell.family(), names, streams, cell.onnx.cpu, cell.onnx.cuda, cell.source)
    return table


def composition_table() -> Table:
    """Return the table of stacks and of the paper names that stand for one of the cells with certain options."""
    table = Table(title="networks configured from these cells")
    table.add_column("name", no_wrap=True)
    table.add_column("configuration")
    table.add_column("streams")
    table.add_row("stack", "num_layers: 2 or more", "yes")
    table.add_row("residual stack", "residual: true", "yes")
    table.add_row("bidirectional", "bidirectional: true", "yes" if Bidirectional.streams else "no")
    for name, (cell, options) in PAPER_NAMES.items():
        chosen = ", ".join(f"{key}: {value}" for key, value in options.items())
        table.add_row(name, f"cell: {cell}, cell_options: {{{chosen}}}", "yes")
    return table


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    if arguments in (["--help"], ["-h"]):
        print(USAGE)
        return 0
    if arguments != ["list"]:
        print(USAGE, file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:  # one line for each cell, also if the output is a pipe
        console = Console(width=200)
    console.print(cell_table())
    console.print(composition_table())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
