"""What the commands have in common: their options, what is printed, and the exit status of a refusal."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from export.artefact import read_card
from export.destination import Destination
from export.errors import ExportError
from export.options import ExportOptions
from export.precision import TOLERANCES, Precision, parse_precision
from export.sentences import printable
from export.tables import parity_table
from models.card import ModelCard

REFUSED = 1

OUT_OPTION = typer.Option(
    help="Where to: artifacts/NAME/VERSION, an integer version.", metavar="FOLDER", show_default=False
)
Out = Annotated[Path, OUT_OPTION]


def _export_options(
    description: Annotated[str, typer.Option(help="A sentence for the card.")] = "",
    max_batch: Annotated[
        int, typer.Option(min=1, max=4096, help="The most sequences the service runs together.")
    ] = 256,
    dtype: Annotated[str, typer.Option(help="float16 halves weights and states, for CUDA.")] = "float32",
    quantize: Annotated[str, typer.Option(metavar="int8", help="int8: smaller, less exact, one row at a time.")] = "",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help=f"The largest difference allowed, of the spread ({TOLERANCES[Precision.FLOAT32]:g} in float32).",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a version that exists.")] = False,
) -> ExportOptions:
    return ExportOptions(
        description=description,
        max_batch=max_batch,
        precision=parse_precision(dtype, quantize),
        tolerance=tolerance,
        force=force,
    )


def takes_export_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the command-line options that every export has, as its one argument `options`."""
    shared = inspect.signature(_export_options).parameters
    signature = inspect.signature(command)
    own = [parameter for name, parameter in signature.parameters.items() if name != "options"]

    @wraps(command)
    def run(**arguments: Any) -> None:
        given = {name: arguments.pop(name) for name in shared}
        command(**arguments, options=_export_options(**given))

    parameters = [*own, *shared.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return run


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what keeps an artefact from being made into a sentence on stderr, and exit status 1."""
    try:
        yield
    except (ExportError, OSError, MemoryError) as exc:
        print(printable(f"{what}: {str(exc) or 'there is not enough memory'}"), file=sys.stderr)
        raise typer.Exit(REFUSED) from exc


def explain_export(options: ExportOptions, explain: Callable[[ExportOptions], ModelCard]) -> None:
    """Show the findings and figures of an export that writes nothing, and what it would serve."""
    console = Console(file=sys.stdout)
    with console.status("starting") as status:
        told = replace(options, on_progress=status.update, on_finding=partial(_show_finding, console))
        card = explain(told)
    console.print(parity_table(card))
    console.print(
        f"nothing was written; with --out it would be served with max_batch {card.max_batch} and "
        f"{len(card.states)} state{'' if len(card.states) == 1 else 's'}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _show_finding(console: Console, finding: str) -> None:
    console.print(printable(finding), soft_wrap=True, markup=False, highlight=False)


def run_export(out: Path, options: ExportOptions, export: Callable[[Destination, ExportOptions], Path]) -> None:
    """Run an export to --out, show its progress, and print its findings, its figures and its file."""
    console = Console(file=sys.stdout)  # the real one, also while a user's code is kept from printing

    destination = Destination.parse(out)
    with console.status("starting") as status:
        path = export(
            destination, replace(options, on_progress=status.update, on_finding=partial(_show_finding, console))
        )
    console.print(parity_table(read_card(path)))
    console.print(printable(f"wrote {path} ({path.stat().st_size:,} bytes)"), soft_wrap=True, markup=False)
