"""What the commands have in common: their options, where the artefact goes, and what is printed."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.artefact import read_card
from export.errors import ExportError
from export.order import Options
from export.place import Place
from export.sentences import printable
from export.tables import parity_table

REFUSED = 1

Out = Annotated[
    Path,
    typer.Option(help="Where to: artifacts/NAME/VERSION, an integer version.", metavar="FOLDER", show_default=False),
]
Description = Annotated[str, typer.Option(help="A sentence for the card.")]
MaxBatch = Annotated[int, typer.Option(min=1, max=4096, help="The most sequences the service runs together.")]
Dtype = Annotated[str, typer.Option(help="float16 halves weights and states, for CUDA.")]
Quantize = Annotated[str, typer.Option(metavar="int8", help="int8: smaller, less exact, one row at a time.")]
Tolerance = Annotated[float | None, typer.Option(help="The largest difference allowed, of the scale.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a version that exists.")]


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what keeps an artefact from being made into a sentence on stderr, and exit status 1."""
    try:
        yield
    except (ExportError, OSError, MemoryError) as exc:
        print(printable(f"{what}: {str(exc) or 'there is not enough memory'}"), file=sys.stderr)
        raise typer.Exit(REFUSED) from exc


def carry_out(out: Path, options: Options, make: Callable[[Place, Options], Path]) -> None:
    """Make an artefact where --out says, showing what goes on, and print what was found, its figures and its file."""
    console = Console(file=sys.stdout)  # the real one, also while a user's code is kept from printing

    def tell(finding: str) -> None:
        console.print(printable(finding), soft_wrap=True, markup=False, highlight=False)

    place = Place.parse(out)
    with console.status("starting") as status:
        path = make(place, {**options, "on_progress": status.update, "on_finding": tell})
    console.print(parity_table(read_card(path)))
    console.print(printable(f"wrote {path} ({path.stat().st_size:,} bytes)"), soft_wrap=True, markup=False)
