"""From cells to ONNX nodes: one function a cell, found by the cell's class."""

from export.errors import NoLoweringError
from export.lower import gru, lstm, rnn
from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput, Lowering
from models.cells.base import Cell
from models.cells.gru import GRUResetAfter, GRUResetBefore
from models.cells.lstm import LSTM
from models.cells.rnn import ReluRNN, TanhRNN

LOWERINGS: dict[type[Cell], Lowering] = {
    TanhRNN: rnn.lower_tanh,
    ReluRNN: rnn.lower_relu,
    LSTM: lstm.lower,
    GRUResetBefore: gru.lower_reset_before,
    GRUResetAfter: gru.lower_reset_after,
}

__all__ = ["LOWERINGS", "CellInput", "CellOutput", "GraphBuilder", "lower_cell"]


def lower_cell(graph: GraphBuilder, cell: Cell, cell_input: CellInput) -> CellOutput:
    """Add the cell's nodes to the graph.

    Raises:
        NoLoweringError: The cell's class is not in the table.
    """
    lowering = LOWERINGS.get(type(cell))
    if lowering is None:
        raise NoLoweringError(type(cell))
    return lowering(graph, cell, cell_input)
