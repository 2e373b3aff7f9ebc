"""The LSTM as an ONNX LSTM node."""

import torch

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput
from export.lower.native import in_order, native_node
from models.cells.lstm import LSTM


def lower(graph: GraphBuilder, cell: LSTM, cell_input: CellInput) -> CellOutput:
    """Lower to one LSTM node, whose rows stand in the order input, output, forget, cell."""
    w, r, b = in_order(cell.gates, "iofg")
    return native_node(graph, "LSTM", cell_input, (w, r, b, torch.zeros_like(b)), cell.hidden_size)
