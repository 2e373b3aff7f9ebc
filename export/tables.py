"""The tables in which the command line shows a card."""

from rich.markup import escape
from rich.table import Table

from export.sentences import printable
from models.card import ModelCard

_COMPARED = {"adopted": "the original and the artefact", "chained": "the stages one after another and the artefact"}


def parity_table(card: ModelCard) -> Table:
    """Return a table of an artefact's comparisons with what it was made from."""
    parity = card.parity
    title = _COMPARED.get(card.cell, "torch and onnxruntime")
    caption = f"of the spread, over up to {parity.steps} steps" if parity.steps else None
    if parity.float32:
        caption = f"{caption}; float32 itself: {parity.float32:.0e}"
    table = Table("comparison", "largest difference", "tolerance", title=title, caption=caption)
    for comparison, error in parity.errors.items():
        table.add_row(comparison, f"{error:.2e}", f"{parity.tolerance:.0e}")
    return table


def card_table(card: ModelCard) -> Table:
    """Return a table of everything else on a card."""
    table = Table(title=f"{card.name} {card.version}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in card.model_dump(mode="json", exclude={"name", "version", "parity"}).items():
        lines = value if isinstance(value, list) else [value]
        table.add_row(key, escape("\n".join(map(printable, lines))))
    return table
