"""The command line of the fuzz tests: python -m tests.fuzz [CASES]."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.reference import FEATURES, write_reference
from tests.faults.process import ServiceProcess
from tests.fuzz.frames import send_frames
from tests.fuzz.requests import send_requests
from tests.fuzz.results import Results
from tests.fuzz.stateful import call_statefully
from tests.fuzz.wire import send_damaged
from tests.soak.target import Target

_SHARES = {"requests": 0.5, "wire": 0.15, "frames": 0.25, "OpenAPI": 0.1}
_WIDTH = 120


def fuzz(artifacts: Path, cases: int, seed: int, say: Callable[[str], object]) -> tuple[Results, list[str], int]:
    """Send cases of all sources to a service; return their results, the errors in its log, and its exit status."""
    results = Results()
    with ServiceProcess(artifacts) as service:
        target = Target(service.port, FEATURES)
        for source, share in _SHARES.items():
            count, rng = int(cases * share), Random(f"{seed} {source}")
            if source == "requests":
                send_requests(target, rng, count, results)
            elif source == "wire":
                send_damaged(target, rng, count, results)
            elif source == "frames":
                send_frames(target, rng, count, results)
            else:
                call_statefully(service.url, count, results)
            say(f"{source}: {results.cases[source]:,} cases")
        status = service.stop()
        return results, service.error_lines(), status


def main(
    cases: Annotated[int, typer.Argument(min=100, help="about how many cases to send")] = 110_000,
    seed: Annotated[int, typer.Option(help="seed of the random numbers")] = 1,
) -> None:
    """Send random requests and frames; the exit status is 1 where one got a 5xx or no answer, or left a traceback."""
    console = Console(width=_WIDTH)
    with tempfile.TemporaryDirectory() as folder:
        write_reference(Path(folder))
        results, errors, status = fuzz(Path(folder), cases, seed, console.print)
    table = Table(title="results of the fuzz tests", title_justify="left")
    table.add_column("measurement")
    table.add_column("value", justify="right")
    table.add_column("target", justify="right")
    for source, count in results.cases.items():
        table.add_row(f"cases of {source}", f"{count:,}", "")
    table.add_row("cases", f"{results.cases.total():,}", "", end_section=True)
    for outcome, count in sorted(results.outcomes.items()):
        table.add_row(f"  {outcome}", f"{count:,}", "")
    table.add_row("5xx, but for 501 and model_control_off", f"{results.server_errors}", "0")
    table.add_row("without an answer in 5 s", f"{results.unanswered}", "0")
    table.add_row("errors and tracebacks in the log", f"{len(errors)}", "0")
    table.add_row("exit status after SIGTERM", f"{status}", "0")
    console.print(table)
    for fault in [*results.shown, *errors[:3]]:
        console.print(fault, markup=False)
    if results.server_errors or results.unanswered or errors or status:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
