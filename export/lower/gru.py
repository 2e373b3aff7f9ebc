"""The two forms of the GRU as ONNX GRU nodes, whose rows stand in the order update, reset, candidate."""

import torch

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput
from export.lower.native import in_order, native_node
from models.cells.gru import GRUResetAfter, GRUResetBefore


def lower_reset_before(graph: GraphBuilder, cell: GRUResetBefore, cell_input: CellInput) -> CellOutput:
    """Lower to one GRU node that resets the state before the recurrent product."""
    gates, candidate = in_order(cell.gates, "zr"), in_order(cell.candidate, "g")
    w, r, b = (torch.cat(pair) for pair in zip(gates, candidate, strict=True))
    weights = (w, r, b, torch.zeros_like(b))
    return native_node(graph, "GRU", cell_input, weights, cell.hidden_size, linear_before_reset=0)


def lower_reset_after(graph: GraphBuilder, cell: GRUResetAfter, cell_input: CellInput) -> CellOutput:
    """Lower to one GRU node that resets the recurrent product, with the candidate's own recurrent bias."""
    w, r, b = in_order(cell.gates, "zrg")
    weights = (w, r, b, cell.full_recurrent_bias())
    return native_node(graph, "GRU", cell_input, weights, cell.hidden_size, linear_before_reset=1)
