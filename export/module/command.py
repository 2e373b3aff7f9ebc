"""The command `python -m export module PACKAGE.MODULE:FACTORY --example SHAPE --out artifacts/NAME/VERSION`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.artefact import read_card
from export.errors import ExportError
from export.module.example import Example
from export.module.loading import load_weights, make_module
from export.module.pipeline import export_module
from export.precision import choose
from export.tables import parity_table

REFUSED = 1


def module(
    factory: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:FACTORY", help="What makes the module.")],
    example: Annotated[
        list[str], typer.Option(metavar="SHAPE", help="BATCHxTIMExFEATURES of each input, 1x20:int64:1000 for ids.")
    ],
    out: Annotated[Path, typer.Option(help="Where to: …/NAME/VERSION.", metavar="FOLDER", show_default=False)],
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="A state_dict: .pt or .safetensors.")] = None,
    time_first: Annotated[bool, typer.Option("--time-first", help="SHAPE is TIMExBATCHxFEATURES.")] = False,
    description: Annotated[str, typer.Option(help="A sentence for the card.")] = "",
    max_batch: Annotated[int, typer.Option(min=1, help="The most sequences the service runs together.")] = 256,
    dtype: Annotated[str, typer.Option(help="float16 halves weights and states, for CUDA.")] = "float32",
    quantize: Annotated[str, typer.Option(metavar="int8", help="int8: smaller, less exact, one row at a time.")] = "",
    tolerance: Annotated[
        float | None, typer.Option(min=0, max=1, help="The largest difference allowed, of the scale.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a version that exists.")] = False,
) -> None:
    """Export your own torch module that contains nn.LSTM, nn.GRU, nn.RNN or their cells, and verify it.

    Exit status 1: it cannot be exported; a sentence says what and where, and nothing is written.
    """
    console = Console()
    out = out.absolute()
    try:
        examples = [Example.parse(text, time_first=time_first) for text in example]
        made = make_module(factory)
        if weights is not None:
            load_weights(made, weights)
        with console.status("tracing") as status:
            path = export_module(
                made,
                examples,
                out.parent.parent,
                out.parent.name,
                int(out.name) if out.name.isdecimal() else 0,
                description=description,
                max_batch=max_batch,
                tolerance=tolerance,
                precision=choose(dtype, quantize),
                force=force,
                on_progress=status.update,
                on_finding=lambda finding: console.print(finding, soft_wrap=True, markup=False, highlight=False),
            )
    except (ExportError, OSError, MemoryError) as exc:
        print(f"not exported: {exc}", file=sys.stderr)
        raise typer.Exit(REFUSED) from exc
    console.print(parity_table(read_card(path).parity))
    console.print(f"wrote {path} ({path.stat().st_size:,} bytes)", soft_wrap=True, markup=False)
