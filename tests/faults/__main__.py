"""The table: python -m tests.faults [small|large|PART [COUNT]], or make faults."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.logs import configure_logs
from tests.faults.parts import PARTS, Figure, Part

_WIDTH = 120

app = typer.Typer(add_completion=False)


def chosen(what: str, count: int) -> list[tuple[Part, int]]:
    """Return the parts to run and how much of each.

    Raises:
        typer.BadParameter: There is no such form or part.
    """
    if what in ("small", "large"):
        return [(part, part.small if what == "small" else part.large) for part in PARTS]
    for part in PARTS:
        if part.name == what:
            return [(part, count or part.large)]
    names = ", ".join(part.name for part in PARTS)
    raise typer.BadParameter(f"expected small, large, or one of {names}; got {what}")


def run(part: Part, count: int, progress: Progress) -> list[Figure]:
    """Run one part and show how far it is."""
    task = progress.add_task(f"{part.promise} {part.name}", total=None if part.name == "churn" else count)
    with tempfile.TemporaryDirectory() as folder:
        figures = part.run(Path(folder), count, lambda done: progress.advance(task, done))
    progress.remove_task(task)
    return figures


def show(results: list[tuple[Part, list[Figure]]], console: Console) -> None:
    """Print a table."""
    table = Table(title="what was done to the service, and what came of it", title_justify="left")
    table.add_column("promise", no_wrap=True)
    table.add_column("what", overflow="fold")
    for column in ("figure", "aim", "reached"):
        table.add_column(column, justify="right", overflow="fold")
    for part, figures in results:
        for at, figure in enumerate(figures):
            reached = ("yes" if figure.reached else "NO") if figure.aim else ""
            table.add_row(
                f"{part.promise} {part.name}" if at == 0 else "",
                figure.what,
                figure.value,
                figure.aim,
                reached,
                end_section=at == len(figures) - 1,
            )
    console.print(table)


@app.command()
def main(
    what: Annotated[str, typer.Argument(help="small, large, or one part")] = "large",
    count: Annotated[int, typer.Argument(min=0, help="how much of that part; 0 for the large form")] = 0,
) -> None:
    """Break what passes between clients and the service, and print what was lost or doubled; both must be 0."""
    configure_logs("error", "json")
    results: list[tuple[Part, list[Figure]]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(width=_WIDTH)
    with Progress(*columns, console=console, transient=True) as progress:
        for part, much in chosen(what, count):
            results.append((part, run(part, much, progress)))
            figures = results[-1][1]
            missed = [figure.what for figure in figures if not figure.reached]
            console.print(f"{part.promise} {part.name}: {', '.join(missed) if missed else 'as it should be'}")
    show(results, console)
    if not all(figure.reached for _, figures in results for figure in figures):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
