"""The command `python -m export chain STAGE STAGE --map FROM=TO --out artifacts/NAME/VERSION`."""

from pathlib import Path
from typing import Annotated

import typer

from export.adopt.options import AdoptOptions
from export.chain.pipeline import chain_models
from export.commands import Out, refused, run_export, takes_export_options
from export.destination import Destination
from export.options import ExportOptions


@refused("not chained")
@takes_export_options
def chain(
    stages: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]STAGE...",
            help="An artefact's folder, an ONNX file without state, or MODULE:FUNCTION of torch.",
            show_default=False,
        ),
    ],
    out: Out,
    options: ExportOptions,
    connect: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FROM=TO",
            help="A.y=B.x: output y of A feeds input x of B. NAME=A.x: an input of the chain. "
            "B.y=NAME: an output; B.y=: not served.",
        ),
    ] = None,
    step: Annotated[
        list[str] | None,
        typer.Option(metavar="STAGE.INPUT=SIZE", help="The shape of one step where no stage gives it: 512, or 4x80."),
    ] = None,
) -> None:
    """Chain artefacts into one: outputs feed inputs within each step, and the states of all are carried.

    python -m export chain artifacts/encoder/1 artifacts/decoder/1 --map encoder.y=decoder.x --out artifacts/both/1

    What is computed between them is a stage too, without state: an ONNX file, or a function of torch tensors
    (batch, *step) by argument name that returns a tensor, y, or a dict. An input that no --map names is fed by the
    output of the same name of an earlier stage; else clients send it.

    Exit status 1: they cannot be chained; a sentence says what and where, and nothing is written.
    """
    steps = AdoptOptions.parse(steps=step or ()).steps

    def export(destination: Destination, options: ExportOptions) -> Path:
        root, name, version = destination.root, destination.name, destination.version
        return chain_models(stages, root, name, version, options, maps=connect or (), steps=steps)

    run_export(out, options, export)
