"""LSTMs that are one ONNX LSTM node once their weights are rewritten.

A gate that is missing is a gate of weight zero and bias 20: onnxruntime's float32 sigmoid is exactly 1 from 17.4 up.
A coupled gate is the one it is coupled to with its sign changed, since 1 − σ(a) = σ(−a). CUDA's kernel takes neither
peepholes nor other activations, so with those the step goes there as a Scan.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellLowerings, CellOutput, Lowering
from export.lower.native import gate_rows, native_node
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, gates_of, sigmoid, tanh
from models.cells.base import Cell
from models.cells.coupled import CIFG, CoupledLSTM
from models.cells.greff import NFG, NIAF, NIG, NOAF, NOG
from models.cells.lstm import LSTM, GatedLSTM, OriginalLSTM
from models.cells.no_gate import NoForgetGateLSTM, NoInputGateLSTM, NoOutputGateLSTM
from models.cells.peephole import PeepholeLSTM

SATURATED = 20.0
ROWS = "iofg"
"""The gates of the blocks in W, R and B, first to last; in P they are i, o, f."""

PEEPHOLE_ROWS = "iof"


def lower(
    graph: GraphBuilder, cell: GatedLSTM, cell_input: CellInput, candidate: str = "Tanh", memory: str = "Tanh"
) -> CellOutput:
    """Lower to one LSTM node; `candidate` and `memory` name the activations at its input and output."""
    w, r, b = lstm_weights(cell)
    attributes: dict[str, Any] = {}
    if (candidate, memory) != ("Tanh", "Tanh"):
        # an Affine whose alpha is not written has alpha 0 in onnxruntime, not the 1 of ONNX
        attributes = {
            "activations": ["Sigmoid", candidate, memory],
            "activation_alpha": [1.0],
            "activation_beta": [0.0],
        }
    peepholes = torch.cat([_peephole(cell, name) for name in PEEPHOLE_ROWS]) if cell.peeping() else None
    weights = (w, r, b, torch.zeros_like(b))
    return native_node(graph, "LSTM", cell_input, weights, cell.hidden_size, peepholes=peepholes, **attributes)


def lower_original(graph: GraphBuilder, cell: OriginalLSTM, cell_input: CellInput) -> CellOutput:
    """Lower the LSTM of 1997 to one plain LSTM node that carries half of its memory.

    4 σ(a) − 2 = 2 tanh(a / 2) and 2 σ(c) − 1 = tanh(c / 2): with c / 2 instead of c both are the tanh the node has.
    Halving and doubling are exact. The scaled activations of ONNX do the same at two to three times the cost.
    """
    halves = torch.ones(4 * cell.hidden_size, 1)
    halves[3 * cell.hidden_size :] = 0.5
    w, r, b = lstm_weights(cell)
    weights = (w * halves, r * halves, b * halves[:, 0], torch.zeros_like(b))
    h, c = cell_input.states
    half = (Value(graph, c) * 0.5).name
    output = native_node(
        graph, "LSTM", CellInput(cell_input.x, cell_input.lengths, (h, half)), weights, cell.hidden_size
    )
    h, half = output.states
    return CellOutput(output.y, (h, (Value(graph, half) * 2.0).name))


def lstm_weights(cell: GatedLSTM) -> tuple[Tensor, Tensor, Tensor]:
    """Return W, R and b with a block for each gate of ONNX's LSTM, missing and coupled ones made up."""
    blocks = []
    for name in ROWS:
        if name in cell.removed:
            w, r, b = (torch.zeros_like(part) for part in gate_rows(cell.gates, "g"))
            b = torch.full_like(b, SATURATED)
        elif name in cell.coupled:
            w, r, b = (-part for part in gate_rows(cell.gates, cell.coupled[name]))
        else:
            w, r, b = gate_rows(cell.gates, name)
        blocks.append((w, r, b))
    w, r, b = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return w, r, b


def _peephole(cell: GatedLSTM, name: str) -> Tensor:
    """Return a gate's peephole; a gate without one has weights of zero."""
    source = cell.coupled.get(name, name)
    sign = -1.0 if name in cell.coupled else 1.0
    if source in cell.peeping():
        return sign * cell.P[cell.peeping().index(source)]
    return torch.zeros(cell.hidden_size)


def step(
    cell: GatedLSTM,
    x: Value,
    state: States,
    candidate: Callable[[Value], Value] = tanh,
    memory: Callable[[Value], Value] = tanh,
) -> tuple[Value, States]:
    """i, f, o = σ(W x + R h' + b + p c̃);  g = squash(…);  c = f c' + i g;  h = o squash(c)."""
    h, c = state
    size = cell.hidden_size
    names = "".join(cell.gates.names)
    a = dict(zip(names, gates_of(cell.gates, names, x, h).split(*[size] * len(names)), strict=True))

    def gate(name: str, c: Value) -> Value:
        if name in cell.coupled:
            return 1.0 - gate(cell.coupled[name], c)
        seen = c * cell.P[cell.peeping().index(name)] + a[name] if name in cell.peeping() else a[name]
        return sigmoid(seen)

    kept = c if "f" in cell.removed else gate("f", c) * c
    written = candidate(a["g"]) if "i" in cell.removed else gate("i", c) * candidate(a["g"])
    c = kept + written
    h = memory(c) if "o" in cell.removed else gate("o", c) * memory(c)
    return h, (h, c)


def as_it_is(a: Value) -> Value:
    """Return the value itself."""
    return a


_NATIVE = Lowering("LSTM", lower)
_WITH_PEEPHOLES = CellLowerings(cpu=_NATIVE, cuda=scan_lowering(step))

LOWERINGS: dict[type[Cell], CellLowerings] = {
    LSTM: CellLowerings.same(_NATIVE),
    OriginalLSTM: CellLowerings.same(Lowering("LSTM", lower_original)),
    NoInputGateLSTM: CellLowerings.same(_NATIVE),
    NoForgetGateLSTM: CellLowerings.same(_NATIVE),
    NoOutputGateLSTM: CellLowerings.same(_NATIVE),
    CoupledLSTM: CellLowerings.same(_NATIVE),
    PeepholeLSTM: _WITH_PEEPHOLES,
    CIFG: _WITH_PEEPHOLES,
    NIG: _WITH_PEEPHOLES,
    NFG: _WITH_PEEPHOLES,
    NOG: _WITH_PEEPHOLES,
    NIAF: CellLowerings(
        cpu=Lowering("LSTM", partial(lower, candidate="Affine")), cuda=scan_lowering(partial(step, candidate=as_it_is))
    ),
    NOAF: CellLowerings(
        cpu=Lowering("LSTM", partial(lower, memory="Affine")), cuda=scan_lowering(partial(step, memory=as_it_is))
    ),
}
