"""The four GRUs as ONNX GRU nodes, whose rows are update, reset, candidate, and whose z keeps the old state.

A z that writes is a z that keeps with its weights negated. CUDA's kernel resets after the product only, so the
others are lowered to a step there.
"""

import torch
from torch import Tensor

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellLowerings, CellOutput, Lowering
from export.lower.native import gate_rows, native_node
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, gates_of, sigmoid, tanh
from models.cells.base import Cell
from models.cells.gates import Gates
from models.cells.gru import GRUResetAfter, GRUResetAfterZWrites, GRUResetBefore, GRUResetBeforeZWrites

Block = tuple[Tensor, Tensor, Tensor]
"""W, R and b of one gate."""


def lower_reset_before(graph: GraphBuilder, cell: GRUResetBefore, cell_input: CellInput) -> CellOutput:
    """Lower to one GRU node that resets the state before the recurrent product; z keeps."""
    z, r = gate_rows(cell.gates, "z"), gate_rows(cell.gates, "r")
    return gru_node(graph, cell_input, z, r, gate_rows(cell.candidate, "g"))


def lower_reset_before_z_writes(graph: GraphBuilder, cell: GRUResetBeforeZWrites, cell_input: CellInput) -> CellOutput:
    """Lower to one GRU node with the update gate's weights negated."""
    z, r = negated(gate_rows(cell.gates, "z")), gate_rows(cell.gates, "r")
    return gru_node(graph, cell_input, z, r, gate_rows(cell.candidate, "g"))


def lower_reset_after(graph: GraphBuilder, cell: GRUResetAfter, cell_input: CellInput) -> CellOutput:
    """Lower to one GRU node that resets the recurrent product, with the candidate's own recurrent bias."""
    w, r, b = cell.keeping_weights()
    rows = torch.cat([torch.arange(len(b))[cell.gates.rows(name)] for name in "zrg"])
    weights = (w[rows], r[rows], b[rows], cell.full_recurrent_bias())
    return native_node(graph, "GRU", cell_input, weights, cell.hidden_size, linear_before_reset=1)


def gru_node(graph: GraphBuilder, cell_input: CellInput, z: Block, r: Block, g: Block) -> CellOutput:
    """Add one GRU node that resets before the product, from the three gates' weights."""
    w_all, r_all, b_all = (torch.cat(parts) for parts in zip(z, r, g, strict=True))
    weights = (w_all, r_all, b_all, torch.zeros_like(b_all))
    return native_node(graph, "GRU", cell_input, weights, len(b_all) // 3, linear_before_reset=0)


def negated(block: Block) -> Block:
    """Return the weights of one minus the gate."""
    w, r, b = block
    return -w, -r, -b


def step_reset_before(cell: GRUResetBefore, x: Value, state: States) -> tuple[Value, States]:
    """z, r = σ(W x + R h' + b);  g = tanh(W x + R (r h') + b);  h = g + z (h' − g)."""
    (h,) = state
    z, g = _gates_and_candidate(cell.gates, cell.candidate, x, h)
    h = g + z * (h - g)
    return h, (h,)


def step_reset_before_z_writes(cell: GRUResetBeforeZWrites, x: Value, state: States) -> tuple[Value, States]:
    """z, r = σ(W x + R h' + b);  g = tanh(W x + R (r h') + b);  h = h' + z (g − h')."""
    (h,) = state
    z, g = _gates_and_candidate(cell.gates, cell.candidate, x, h)
    h = h + z * (g - h)
    return h, (h,)


def _gates_and_candidate(gates: Gates, candidate: Gates, x: Value, h: Value) -> tuple[Value, Value]:
    size = gates.hidden_size
    z, r = sigmoid(gates_of(gates, "zr", x, h)).split(size, size)
    return z, tanh(gates_of(candidate, "g", x, r * h))


LOWERINGS: dict[type[Cell], CellLowerings] = {
    GRUResetBefore: CellLowerings(cpu=Lowering("GRU", lower_reset_before), cuda=scan_lowering(step_reset_before)),
    GRUResetBeforeZWrites: CellLowerings(
        cpu=Lowering("GRU", lower_reset_before_z_writes), cuda=scan_lowering(step_reset_before_z_writes)
    ),
    GRUResetAfter: CellLowerings.same(Lowering("GRU", lower_reset_after)),
    GRUResetAfterZWrites: CellLowerings.same(Lowering("GRU", lower_reset_after)),
}
