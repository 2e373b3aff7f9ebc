"""The command line: `python -m export CHECKPOINT --out artifacts/NAME/VERSION`, and `python -m export show FILE`."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from typer.core import TyperGroup

from export.adopt.command import adopt
from export.artefact import read_card
from export.chain.command import chain
from export.commands import REFUSED, Out, run_export, takes_export_options
from export.destination import Destination
from export.errors import ArenaCopiedError, CoarseFloat32Error, ExportError, ForeignRowError, ParityError
from export.lower import Target
from export.module.command import module
from export.options import ExportOptions
from export.pipeline import export_network
from export.sentences import printable
from export.tables import card_table, parity_table
from models.network import CheckpointError, Network

BAD_INPUT = 2

_DEFAULT = "network"


class _DefaultCommand(TyperGroup):
    """Run the export of a checkpoint where no command is named."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Insert the default command's name where no command is named."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_DefaultCommand,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help=(
        "Turn a trained network into the one file the service loads:"
        " [bold]python -m export CHECKPOINT --out artifacts/NAME/VERSION[/bold]."
    ),
    epilog="All options of an export: [bold]python -m export network --help[/bold].",
    rich_markup_mode="rich",
)
console = Console()


@contextmanager
def _errors_as_sentences() -> Iterator[None]:
    """Turn an error into a sentence on stderr and an exit status."""
    try:
        yield
    except (ParityError, CoarseFloat32Error, ForeignRowError, ArenaCopiedError) as exc:
        print(printable(f"no artefact was written: {exc}"), file=sys.stderr)
        raise typer.Exit(REFUSED) from exc
    except (ExportError, CheckpointError, OSError, MemoryError) as exc:
        print(printable(exc) or "there is not enough memory", file=sys.stderr)
        raise typer.Exit(BAD_INPUT) from exc


@app.command(_DEFAULT)
@_errors_as_sentences()
@takes_export_options
def export_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(help="A .safetensors file that Network.save wrote.", show_default=False)
    ],
    out: Out,
    options: ExportOptions,
    target: Annotated[
        str, typer.Option(help="cpu or cuda: whose kernels the graph is made for. It runs on both, at another speed.")
    ] = "cpu",
    cells: Annotated[
        list[str] | None,
        typer.Option("--import", help="A module that registers cells of your own.", metavar="MODULE"),
    ] = None,
) -> None:
    """Export a checkpoint and verify it (the default: the word may be left out).

    Exit status 1: torch and onnxruntime disagree. Exit status 2: the checkpoint or the folder cannot be used.
    """
    if target not in ("cpu", "cuda"):
        raise typer.BadParameter(f"the target is cpu or cuda, and is {target!r}")
    for module_name in cells or ():
        _import_cells(module_name)

    def export(destination: Destination, options: ExportOptions) -> Path:
        destination.check(force=options.force)
        network = Network.load(checkpoint)
        root, name, version = destination.root, destination.name, destination.version
        return export_network(network, root, name, version, options, target=cast(Target, target))

    run_export(out, options, export)


@app.command()
def show(file: Annotated[Path, typer.Argument(help="An artefact: a model.onnx file.", show_default=False)]) -> None:
    """Check an artefact's checksum and print its card."""
    with _errors_as_sentences():
        card = read_card(file)
    console.print(card_table(card))
    console.print(parity_table(card))


app.command()(adopt)
app.command()(module)
app.command()(chain)


def _import_cells(module: str) -> None:
    """Import a module of the user's from the working folder or from Python's path."""
    sys.path.insert(0, "")
    try:
        importlib.import_module(module)
    except Exception as exc:  # the user's code may raise anything
        raise typer.BadParameter(f"--import {module}: {type(exc).__name__}: {printable(exc)}") from exc
    finally:
        sys.path.remove("")


if __name__ == "__main__":
    app(prog_name="python -m export")
