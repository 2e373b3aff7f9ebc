"""From cells to ONNX nodes: the fastest exact form of each cell on each target, found by the cell's class.

A cell that stands in no table here (one that `models.cells.register_cell` added) is traced by torch, a step at a time.
"""

from functools import partial

from export.lower import elementwise, gru, lstm, lstm_scan, mut, projection, rnn, structured
from export.lower.bidirectional import lower_bidirectional
from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput, Form, Forms, Lowering, Target
from export.lower.traced import TRACED
from models.cells.base import Cell
from models.cells.bidirectional import Bidirectional

LOWERINGS: dict[type[Cell], Forms] = {
    **rnn.FORMS,
    **lstm.FORMS,
    **lstm_scan.FORMS,
    **projection.FORMS,
    **gru.FORMS,
    **mut.FORMS,
    **elementwise.FORMS,
    **structured.FORMS,
}

__all__ = [
    "LOWERINGS",
    "CellInput",
    "CellOutput",
    "Form",
    "Forms",
    "GraphBuilder",
    "Lowering",
    "Target",
    "forms_of",
    "lower_cell",
]


def forms_of(cell: type[Cell]) -> Forms:
    """Return a cell's forms: those of the table, or else its traced step."""
    return LOWERINGS.get(cell, TRACED)


def lower_cell(graph: GraphBuilder, cell: Cell, cell_input: CellInput, target: Target = "cpu") -> CellOutput:
    """Add the cell's nodes to the graph.

    Raises:
        NoLoweringError: The cell's class is not in the table, and its step cannot be traced.
    """
    if isinstance(cell, Bidirectional):
        return lower_bidirectional(graph, cell, cell_input, partial(lower_cell, target=target))
    return forms_of(type(cell)).on(target).lower(graph, cell, cell_input)
