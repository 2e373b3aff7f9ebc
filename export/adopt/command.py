"""The command `python -m export adopt MODEL.onnx --out artifacts/NAME/VERSION`."""

from pathlib import Path
from typing import Annotated

import typer

from export.adopt.options import AdoptOptions
from export.adopt.pipeline import adopt_model, explain_model
from export.commands import OUT_OPTION, explain_export, refused, run_export, takes_export_options
from export.destination import Destination
from export.options import ExportOptions


@refused("not adopted")
@takes_export_options
def adopt(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file with its states as inputs and outputs.", show_default=False)
    ],
    options: ExportOptions,
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
    frame_by_frame: Annotated[
        bool,
        typer.Option(
            "--frame-by-frame", help="Serve single steps, though the file's run over a whole sequence differs."
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what is found and what would be done, and write nothing.")
    ] = False,
    out: Annotated[Path | None, OUT_OPTION] = None,
) -> None:
    """Adopt an ONNX file that somebody else exported: find its states, build the served graph, verify it.

    With --explain FILE nothing is written, and --out is not needed.

    Exit status 1: the file cannot be adopted; a sentence says what and where, and nothing is written.
    """
    adopt_options = AdoptOptions.parse(
        state or (),
        batch_axis or (),
        constant or (),
        overlap or (),
        step or (),
        initial,
        frame_by_frame=frame_by_frame,
    )
    if explain:
        explain_export(options, lambda options: explain_model(model, options, adopt_options=adopt_options))
        return
    if out is None:
        raise typer.BadParameter("it is needed, unless --explain is given", param_hint="--out")

    def export(destination: Destination, options: ExportOptions) -> Path:
        root, name, version = destination.root, destination.name, destination.version
        return adopt_model(model, root, name, version, options, adopt_options=adopt_options)

    run_export(out, options, export)
