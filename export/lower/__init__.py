"""From cells to ONNX nodes: the fastest exact lowering of each cell on each target, found by the cell's class.

A cell that is in no table here (one that `models.cells.register_cell` added) is traced by torch, a step at a time.
"""

from functools import partial

from export.lower import elementwise, gru, lstm, lstm_scan, mut, projection, rnn, structured
from export.lower.bidirectional import lower_bidirectional
from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellLowerings, CellOutput, LowerFunction, Lowering, Target
from export.lower.traced import TRACED
from models.cells.base import Cell
from models.cells.bidirectional import Bidirectional

LOWERINGS: dict[type[Cell], CellLowerings] = {
    **rnn.LOWERINGS,
    **lstm.LOWERINGS,
    **lstm_scan.LOWERINGS,
    **projection.LOWERINGS,
    **gru.LOWERINGS,
    **mut.LOWERINGS,
    **elementwise.LOWERINGS,
    **structured.LOWERINGS,
}

__all__ = [
    "LOWERINGS",
    "CellInput",
    "CellLowerings",
    "CellOutput",
    "GraphBuilder",
    "LowerFunction",
    "Lowering",
    "Target",
    "lower_cell",
    "lowerings_of",
]


def lowerings_of(cell: type[Cell]) -> CellLowerings:
    """Return a cell's lowerings: those of the table, or else its traced step."""
    return LOWERINGS.get(cell, TRACED)


def lower_cell(graph: GraphBuilder, cell: Cell, cell_input: CellInput, target: Target = "cpu") -> CellOutput:
    """Add the cell's nodes to the graph.

    Raises:
        NoLoweringError: The cell's class is not in the table, and its step cannot be traced.
    """
    if isinstance(cell, Bidirectional):
        return lower_bidirectional(graph, cell, cell_input, partial(lower_cell, target=target))
    return lowerings_of(type(cell)).on(target).lower(graph, cell, cell_input)
