"""ONNX's own RNN, LSTM and GRU nodes, and weights with their rows as these nodes take them."""

from typing import Any

import torch
from torch import Tensor

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput
from models.cells.gates import Gates


def gate_rows(gates: Gates, names: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return W, R and b with the gates' rows as `names` lists them."""
    rows = torch.cat([torch.arange(gates.b.shape[0])[gates.rows(name)] for name in names])
    return gates.W[rows], gates.R[rows], gates.b[rows]


def native_node(
    graph: GraphBuilder,
    op: str,
    cell_input: CellInput,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    hidden_size: int,
    *,
    peepholes: Tensor | None = None,
    **attributes: Any,
) -> CellOutput:
    """Add one RNN, LSTM or GRU node.

    `weights` are W, R, the input bias and the recurrent bias; `peepholes` are P (3 · hidden,) for i, o, f.
    The node's Y is (time, 1, batch, hidden).
    """
    w, r, b_w, b_r = weights
    inputs = [
        cell_input.x,
        graph.constant(w.unsqueeze(0), hint=f"{op.lower()}_w"),
        graph.constant(r.unsqueeze(0), hint=f"{op.lower()}_r"),
        graph.constant(torch.cat([b_w, b_r]).unsqueeze(0), hint=f"{op.lower()}_b"),
        cell_input.lengths,
        *cell_input.states,
    ]
    if peepholes is not None:
        inputs.append(graph.constant(peepholes.unsqueeze(0), hint="lstm_p"))
    y = graph.fresh(f"{op.lower()}_y")
    after = tuple(graph.fresh(f"{op.lower()}_state") for _ in cell_input.states)
    graph.nodes(op, inputs, [y, *after], hidden_size=hidden_size, **attributes)
    directions = graph.constant([1], "int64", hint="axis")
    return CellOutput(y=graph.node("Squeeze", [y, directions]), states=after)
