"""The command `python -m export adopt MODEL.onnx --out artifacts/NAME/VERSION`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.adopt.pipeline import adopt_model
from export.adopt.wishes import Wishes
from export.artefact import read_card
from export.errors import ExportError
from export.precision import choose
from export.tables import parity_table

REFUSED = 1


def adopt(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file with its states as inputs and outputs.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Where to: …/NAME/VERSION.", metavar="FOLDER", show_default=False)],
    state: Annotated[
        list[str] | None, typer.Option(metavar="IN=OUT", help="OUT is fed back to IN; IN= is no state.")
    ] = None,
    batch_axis: Annotated[list[str] | None, typer.Option(metavar="NAME:AXIS", help="Which axis is the batch.")] = None,
    constant: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An input that never changes.")
    ] = None,
    step: Annotated[
        list[str] | None, typer.Option(metavar="NAME=SIZE", help="One step's new values: 512, or 4x80.")
    ] = None,
    overlap: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:SAMPLES", help="Each step is preceded by the last SAMPLES of the one before."),
    ] = None,
    initial: Annotated[
        Path | None, typer.Option(metavar="FILE", help="States before the first step: .npz or .json.")
    ] = None,
    description: Annotated[str, typer.Option(help="A sentence for the card.")] = "",
    max_batch: Annotated[int, typer.Option(min=1, help="The most sequences the service runs together.")] = 256,
    dtype: Annotated[str, typer.Option(help="float16 halves weights and states, for CUDA.")] = "float32",
    quantize: Annotated[str, typer.Option(metavar="int8", help="int8: smaller, less exact, one row at a time.")] = "",
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=1, help="The largest difference allowed, of the scale.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a version that exists.")] = False,
) -> None:
    """Adopt an ONNX file that somebody else exported: find its states, build the served graph, verify it.

    Exit status 1: the file cannot be adopted; a sentence says what and where, and nothing is written.
    """
    console = Console()
    out = out.absolute()
    try:
        wishes = Wishes.parse(state or (), batch_axis or (), constant or (), overlap or (), step or (), initial)
        with console.status("reading") as status:
            path = adopt_model(
                model,
                out.parent.parent,
                out.parent.name,
                int(out.name) if out.name.isdecimal() else 0,
                wishes=wishes,
                description=description,
                max_batch=max_batch,
                tolerance=tolerance,
                precision=choose(dtype, quantize),
                force=force,
                on_progress=status.update,
                on_finding=lambda finding: console.print(finding, soft_wrap=True, markup=False, highlight=False),
            )
    except (ExportError, OSError, MemoryError) as exc:
        print(f"not adopted: {exc}", file=sys.stderr)
        raise typer.Exit(REFUSED) from exc
    console.print(parity_table(read_card(path).parity, "the original and the artefact"))
    console.print(f"wrote {path} ({path.stat().st_size:,} bytes)", soft_wrap=True, markup=False)
