"""The simple recurrent networks as ONNX RNN nodes; relu also as a step, since CUDA's kernel knows tanh alone."""

from functools import partial

import torch

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellLowerings, CellOutput, Lowering
from export.lower.native import gate_rows, native_node
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, gates_of
from models.cells.base import Cell
from models.cells.rnn import ReluRNN, TanhRNN


def lower(graph: GraphBuilder, cell: TanhRNN | ReluRNN, cell_input: CellInput, activation: str) -> CellOutput:
    """Lower to one RNN node."""
    w, r, b = gate_rows(cell.gates, "h")
    weights = (w, r, b, torch.zeros_like(b))
    return native_node(graph, "RNN", cell_input, weights, cell.hidden_size, activations=[activation])


def step_relu(cell: ReluRNN, x: Value, state: States) -> tuple[Value, States]:
    """h = max(0, W x + R h' + b)."""
    (h,) = state
    h = gates_of(cell.gates, "h", x, h).op("Relu")
    return h, (h,)


LOWERINGS: dict[type[Cell], CellLowerings] = {
    TanhRNN: CellLowerings.same(Lowering("RNN", partial(lower, activation="Tanh"))),
    ReluRNN: CellLowerings(cpu=Lowering("RNN", partial(lower, activation="Relu")), cuda=scan_lowering(step_relu)),
}
