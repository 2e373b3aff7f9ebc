"""The simple recurrent networks as ONNX RNN nodes."""

import torch

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput
from export.lower.native import in_order, native_node
from models.cells.rnn import ReluRNN, TanhRNN


def lower_tanh(graph: GraphBuilder, cell: TanhRNN, cell_input: CellInput) -> CellOutput:
    """Lower to one RNN node."""
    w, r, b = in_order(cell.gates, "h")
    weights = (w, r, b, torch.zeros_like(b))
    return native_node(graph, "RNN", cell_input, weights, cell.hidden_size, activations=["Tanh"])


def lower_relu(graph: GraphBuilder, cell: ReluRNN, cell_input: CellInput) -> CellOutput:
    """Lower to one RNN node."""
    w, r, b = in_order(cell.gates, "h")
    weights = (w, r, b, torch.zeros_like(b))
    return native_node(graph, "RNN", cell_input, weights, cell.hidden_size, activations=["Relu"])
