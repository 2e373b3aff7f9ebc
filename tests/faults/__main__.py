"""The command line of the fault injection tests: python -m tests.faults [small|large|SCENARIO [COUNT]]."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from service.logs import configure_logs
from tests.faults.scenarios import SCENARIOS, Figure, Scenario

_WIDTH = 120

app = typer.Typer(add_completion=False)


def select(name: str, count: int) -> list[tuple[Scenario, int]]:
    """Return the scenarios to run, each with its count.

    Raises:
        typer.BadParameter: There is no such size or scenario.
    """
    if name in ("small", "large"):
        return [(scenario, scenario.small if name == "small" else scenario.large) for scenario in SCENARIOS]
    for scenario in SCENARIOS:
        if scenario.name == name:
            return [(scenario, count or scenario.large)]
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    raise typer.BadParameter(f"expected small, large, or one of {names}; got {name}")


def run(scenario: Scenario, count: int, progress: Progress) -> list[Figure]:
    """Run one scenario, and show its progress."""
    task = progress.add_task(f"{scenario.promise} {scenario.name}", total=None if scenario.name == "churn" else count)
    with tempfile.TemporaryDirectory() as folder:
        figures = scenario.run(Path(folder), count, lambda done: progress.advance(task, done))
    progress.remove_task(task)
    return figures


def show(results: list[tuple[Scenario, list[Figure]]], console: Console) -> None:
    """Print the table of results."""
    table = Table(title="results of the fault injection tests", title_justify="left")
    table.add_column("scenario", no_wrap=True)
    table.add_column("measurement", overflow="fold")
    for column in ("value", "target", "reached"):
        table.add_column(column, justify="right", overflow="fold")
    for scenario, figures in results:
        for index, figure in enumerate(figures):
            reached = ("yes" if figure.reached else "NO") if figure.target else ""
            table.add_row(
                f"{scenario.promise} {scenario.name}" if index == 0 else "",
                figure.label,
                figure.value,
                figure.target,
                reached,
                end_section=index == len(figures) - 1,
            )
    console.print(table)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="small or large for all scenarios, or the name of one")] = "large",
    count: Annotated[int, typer.Argument(min=0, help="count for one scenario; 0 for that of its large size")] = 0,
) -> None:
    """Inject faults between clients and the service, and print the lost and duplicated steps; both must be 0."""
    configure_logs("error", "json")
    results: list[tuple[Scenario, list[Figure]]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(width=_WIDTH)
    with Progress(*columns, console=console, transient=True) as progress:
        for scenario, size in select(name, count):
            results.append((scenario, run(scenario, size, progress)))
            figures = results[-1][1]
            missed = [figure.label for figure in figures if not figure.reached]
            console.print(f"{scenario.promise} {scenario.name}: {', '.join(missed) if missed else 'passed'}")
    show(results, console)
    if not all(figure.reached for _, figures in results for figure in figures):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
