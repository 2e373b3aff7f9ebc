"""Cells whose recurrence is elementwise: all products are taken for the whole chunk at once, outside the Scan.

A native node could compute them with a diagonal or empty R, but at batch 32 it takes two and a half times as long,
and CUDA's kernels do not take the activations it needs.
"""

from export.lower.contract import CellLowerings
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, concat, sigmoid, tanh
from models.cells.base import Cell
from models.cells.independent import IndRNN
from models.cells.minimal import MinGRU, MinLSTM


def project_min_gru(cell: MinGRU, x: Value) -> Value:
    """Return [1 − z, z g], from which a step is two operations."""
    z, g = (x @ cell.W.T + cell.b).split(cell.hidden_size, cell.hidden_size)
    z = sigmoid(z)
    return concat(1.0 - z, z * g)


def project_min_lstm(cell: MinLSTM, x: Value) -> Value:
    """Return [f / (f + i), i / (f + i) g], with f / (f + i) = σ(log f − log i)."""
    gates, g = (x @ cell.W.T + cell.b).split(2 * cell.hidden_size, cell.hidden_size)
    # −log σ(a) = max(−a, 0) + log(1 + exp(−|a|)); onnxruntime's own Softplus takes four times as long at batch 64
    logs = gates.op("Neg").op("Relu") + (gates.op("Abs").op("Neg").op("Exp") + 1.0).op("Log")
    f, i = logs.split(cell.hidden_size, cell.hidden_size)
    keep = sigmoid(i - f)
    return concat(keep, (1.0 - keep) * g)


def step_minimal(cell: MinGRU | MinLSTM, x: Value, state: States) -> tuple[Value, States]:
    """h = keep h' + written."""
    (h,) = state
    keep, written = x.split(cell.hidden_size, cell.hidden_size)
    h = keep * h + written
    return h, (h,)


def project_independent(cell: IndRNN, x: Value) -> Value:
    """Return W x + b."""
    return x @ cell.W.T + cell.b


def step_independent(cell: IndRNN, x: Value, state: States) -> tuple[Value, States]:
    """h = act(W x + b + u h')."""
    (h,) = state
    a = x + h * cell.u
    h = a.op("Relu") if cell.options.activation == "relu" else tanh(a)
    return h, (h,)


LOWERINGS: dict[type[Cell], CellLowerings] = {
    MinGRU: CellLowerings.same(scan_lowering(step_minimal, project_min_gru)),
    MinLSTM: CellLowerings.same(scan_lowering(step_minimal, project_min_lstm)),
    IndRNN: CellLowerings.same(scan_lowering(step_independent, project_independent)),
}
