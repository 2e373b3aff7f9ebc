"""MUT1 and MUT2 as GRU nodes with rewritten weights, MUT3 as a step; on CUDA, whose GRU resets after, all as steps."""

import torch

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellLowerings, CellOutput, Lowering
from export.lower.gru import gru_node, negated
from export.lower.native import gate_rows
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, affine, concat, gates_of, sigmoid, tanh
from models.cells.base import Cell
from models.cells.mut import MUT1, MUT2, MUT3


def lower_mut1(graph: GraphBuilder, cell: MUT1, cell_input: CellInput) -> CellOutput:
    """Lower to one GRU node that reads [x, tanh x]: z writes and sees x alone, the candidate takes tanh x as it is."""
    size = cell.hidden_size
    x = Value(graph, cell_input.x)
    nothing, same = torch.zeros(size, size), torch.eye(size)
    w_r, r_r, b_r = gate_rows(cell.reset, "r")
    z = (torch.cat([cell.W_z, nothing], 1), nothing, cell.b_z)
    r = (torch.cat([w_r, nothing], 1), r_r, b_r)
    g = (torch.cat([nothing, same], 1), cell.R_h, cell.b_h)
    both = CellInput(concat(x, tanh(x)).name, cell_input.lengths, cell_input.states)
    return gru_node(graph, both, negated(z), r, g)


def lower_mut2(graph: GraphBuilder, cell: MUT2, cell_input: CellInput) -> CellOutput:
    """Lower to one GRU node whose reset gate takes x as it is; z writes."""
    r = (torch.eye(cell.hidden_size), cell.R_r, cell.b_r)
    return gru_node(graph, cell_input, negated(gate_rows(cell.update, "z")), r, gate_rows(cell.candidate, "g"))


def step_mut1(cell: MUT1, x: Value, state: States) -> tuple[Value, States]:
    """z = σ(W_z x + b);  r = σ(W_r x + R_r h' + b);  g = tanh(R_h (r h') + tanh(x) + b);  h = h' + z (g − h')."""
    (h,) = state
    z = sigmoid(affine([(x, cell.W_z)], cell.b_z))
    r = sigmoid(gates_of(cell.reset, "r", x, h))
    g = tanh(affine([(r * h, cell.R_h)], cell.b_h) + tanh(x))
    h = h + z * (g - h)
    return h, (h,)


def step_mut2(cell: MUT2, x: Value, state: States) -> tuple[Value, States]:
    """z = σ(W_z x + R_z h' + b);  r = σ(x + R_r h' + b);  g = tanh(R_h (r h') + W_h x + b);  h = h' + z (g − h')."""
    (h,) = state
    z = sigmoid(gates_of(cell.update, "z", x, h))
    r = sigmoid(affine([(h, cell.R_r)], cell.b_r) + x)
    g = tanh(gates_of(cell.candidate, "g", x, r * h))
    h = h + z * (g - h)
    return h, (h,)


def step_mut3(cell: MUT3, x: Value, state: States) -> tuple[Value, States]:
    """z = σ(W x + R tanh(h') + b);  r = σ(W x + R h' + b);  g = tanh(R (r h') + W x + b);  h = h' + z (g − h')."""
    (h,) = state
    z = sigmoid(gates_of(cell.update, "z", x, tanh(h)))
    r = sigmoid(gates_of(cell.reset, "r", x, h))
    g = tanh(gates_of(cell.candidate, "g", x, r * h))
    h = h + z * (g - h)
    return h, (h,)


LOWERINGS: dict[type[Cell], CellLowerings] = {
    MUT1: CellLowerings(cpu=Lowering("GRU", lower_mut1), cuda=scan_lowering(step_mut1)),
    MUT2: CellLowerings(cpu=Lowering("GRU", lower_mut2), cuda=scan_lowering(step_mut2)),
    MUT3: CellLowerings.same(scan_lowering(step_mut3)),
}
