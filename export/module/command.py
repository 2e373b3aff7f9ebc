"""The command `python -m export module PACKAGE.MODULE:FACTORY --example SHAPE --out artifacts/NAME/VERSION`."""

from pathlib import Path
from typing import Annotated

import typer

from export.commands import Description, Dtype, Force, MaxBatch, Out, Quantize, Tolerance, carry_out, refused
from export.module.example import Example
from export.module.loading import load_weights, make_module
from export.module.pipeline import export_module
from export.order import Options
from export.place import Place
from export.precision import choose


def module(
    factory: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:FACTORY", help="What makes the module.")],
    example: Annotated[
        list[str], typer.Option(metavar="SHAPE", help="BATCHxTIMExFEATURES of each input, 1x20:int64:1000 for ids.")
    ],
    out: Out,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="A state_dict: .pt or .safetensors.")] = None,
    time_first: Annotated[bool, typer.Option("--time-first", help="SHAPE is TIMExBATCHxFEATURES.")] = False,
    description: Description = "",
    max_batch: MaxBatch = 256,
    dtype: Dtype = "float32",
    quantize: Quantize = "",
    tolerance: Tolerance = None,
    force: Force = False,
) -> None:
    """Export your own torch module that contains nn.LSTM, nn.GRU, nn.RNN or their cells, and verify it.

    Exit status 1: it cannot be exported; a sentence says what and where, and nothing is written.
    """
    with refused("not exported"):
        examples = [Example.parse(text, time_first=time_first) for text in example]
        asked = Options(description=description, max_batch=max_batch, tolerance=tolerance, force=force)

        def make(place: Place, options: Options) -> Path:
            made = make_module(factory)
            if weights is not None:
                load_weights(made, weights)
            return export_module(made, examples, place.root, place.name, place.version, **options)

        carry_out(out, asked | {"precision": choose(dtype, quantize)}, make)
