"""The command `python -m export adopt MODEL.onnx --out artifacts/NAME/VERSION`."""

from pathlib import Path
from typing import Annotated

import typer

from export.adopt.pipeline import adopt_model
from export.adopt.wishes import Wishes
from export.commands import Description, Dtype, Force, MaxBatch, Out, Quantize, Tolerance, carry_out, refused
from export.order import Options
from export.place import Place
from export.precision import choose


def adopt(
    model: Annotated[
        Path, typer.Argument(help="An ONNX file with its states as inputs and outputs.", show_default=False)
    ],
    out: Out,
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
    description: Description = "",
    max_batch: MaxBatch = 256,
    dtype: Dtype = "float32",
    quantize: Quantize = "",
    tolerance: Tolerance = None,
    force: Force = False,
) -> None:
    """Adopt an ONNX file that somebody else exported: find its states, build the served graph, verify it.

    Exit status 1: the file cannot be adopted; a sentence says what and where, and nothing is written.
    """
    with refused("not adopted"):
        wishes = Wishes.parse(state or (), batch_axis or (), constant or (), overlap or (), step or (), initial)
        asked = Options(description=description, max_batch=max_batch, tolerance=tolerance, force=force)

        def make(place: Place, options: Options) -> Path:
            return adopt_model(model, place.root, place.name, place.version, wishes=wishes, **options)

        carry_out(out, asked | {"precision": choose(dtype, quantize)}, make)
