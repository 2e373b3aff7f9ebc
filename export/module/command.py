"""The command `python -m export module PACKAGE.MODULE:FACTORY --example SHAPE --out artifacts/NAME/VERSION`."""

from pathlib import Path
from typing import Annotated

import typer

from export.commands import Out, refused, run_export, takes_export_options
from export.destination import Destination
from export.module.example import Example
from export.module.loading import load_weights, make_module
from export.module.pipeline import export_module
from export.options import ExportOptions


@refused("not exported")
@takes_export_options
def module(
    factory: Annotated[
        str, typer.Argument(metavar="PACKAGE.MODULE:FACTORY", help="A function or class that makes the module.")
    ],
    example: Annotated[
        list[str],
        typer.Option(
            metavar="SHAPE", help="BATCHxTIMExFEATURES of each input, 1x20:int64:1000 for ids; 1x1x4 for single steps."
        ),
    ],
    out: Out,
    options: ExportOptions,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="A state_dict: .pt or .safetensors.")] = None,
    time_first: Annotated[bool, typer.Option("--time-first", help="SHAPE is TIMExBATCHxFEATURES.")] = False,
) -> None:
    """Export your own torch module with nn.LSTM, nn.GRU, nn.RNN, their cells, or a state of its own, and verify it.

    Exit status 1: it cannot be exported; a sentence says what and where, and nothing is written.
    """
    examples = [Example.parse(text, time_first=time_first) for text in example]

    def export(destination: Destination, options: ExportOptions) -> Path:
        made = make_module(factory)
        if weights is not None:
            load_weights(made, weights)
        return export_module(made, examples, destination.root, destination.name, destination.version, options)

    run_export(out, options, export)
