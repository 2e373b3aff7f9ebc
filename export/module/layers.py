"""The recurrent layers of torch as cells of models.cells, one for each of their layers, maybe with a projection."""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from export.lower import CellInput, GraphBuilder, lower_cell, lowerings_of
from export.module.errors import NotStreamableError
from models.cells import CELLS
from models.cells.base import Cell
from models.from_torch import NotLoadableError, load_torch_weights
from models.stack import Stack

_CELLS_OF_MODE = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru_reset_after"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer in time: a cell, and torch's projection of an LSTM's output to a smaller `h`.

    With a projection the cell carries m = o tanh(c) instead of h = W_hr m, and its recurrent weight is R W_hr.
    """

    cell: Cell
    projection: Tensor | None = None

    @property
    def width(self) -> int:
        """Return the width of y."""
        return self.cell.output_size if self.projection is None else len(self.projection)

    def run(self, x: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Advance: x (time, batch, input), states (batch, hidden) → y (time, batch, output) and states after."""
        y, after = self.cell.sequence(x, tuple(states))
        return (y if self.projection is None else y @ self.projection.T, *after)

    def lower(self, graph: GraphBuilder, x: str, states: Sequence[str]) -> tuple[str, ...]:
        """Add the layer's nodes; the same names as `run` has tensors."""
        axis = graph.constant([0], "int64", hint="axis")
        ready = tuple(graph.node("Unsqueeze", [state, axis]) for state in states)
        # native nodes need no lengths where all rows have the same; a Scan does
        native = lowerings_of(type(self.cell)).cpu.op != "Scan"
        found = lower_cell(graph, self.cell, CellInput(x, "" if native else _full_lengths(graph, x), ready))
        y = found.y
        if self.projection is not None:
            y = graph.node("MatMul", [y, graph.constant(self.projection.T, hint="projection")])
        return (y, *(graph.node("Squeeze", [state, axis]) for state in found.states))

    def initial(self, rows: Sequence[Tensor]) -> list[np.ndarray]:
        """Return the carried states for torch's own, each (batch, width) → (batch, hidden).

        Raises:
            NotStreamableError: The projection cannot give such a state.
        """
        found = [row.detach() for row in rows]
        if self.projection is not None and found:
            h, weight = found[0], self.projection.detach()
            found[0] = torch.zeros(len(h), weight.shape[1])
            if h.abs().max() > 0:
                found[0] = (torch.linalg.pinv(weight.double()) @ h.double().T).T.float()
                if not torch.allclose(found[0] @ weight.T, h, atol=1e-6):
                    raise NotStreamableError("an initial state lies outside of what the projection can give")
        return [row.numpy() for row in found]


def _full_lengths(graph: GraphBuilder, x: str) -> str:
    """Add nodes that give the number of steps of x for each row, int32 (batch,)."""
    sizes = graph.node("Cast", [graph.node("Shape", [x])], to=TensorProto.INT32)
    time = graph.node("Gather", [sizes, graph.constant([0], "int64", hint="place")], axis=0)
    batch = graph.node("Shape", [x], start=1, end=2)
    return graph.node("Expand", [time, batch])


def is_recurrent(module: nn.Module) -> bool:
    """Return whether a module is a recurrent layer or a cell."""
    return isinstance(module, nn.RNNBase | nn.RNNCellBase | Cell)


def layers_of(path: str, module: nn.Module) -> list[Layer]:
    """Return the layers of an nn.RNN, nn.LSTM, nn.GRU, one of their cells, or a cell of models.cells.

    Raises:
        NotStreamableError: It is bidirectional, or no cell of models.cells computes the same.
    """
    if isinstance(module, Cell):
        return [Layer(copy.deepcopy(module).requires_grad_(False))]
    weights = dict(module.state_dict())
    _check_plain(path, module, weights)
    if isinstance(module, nn.RNNCellBase):
        weights = {f"{name}_l0": tensor for name, tensor in weights.items()}
        return [_layer(path, _name_of_cell(path, module), module.input_size, module.hidden_size, weights, 0)]
    assert isinstance(module, nn.RNNBase)
    if module.bidirectional:
        raise NotStreamableError(f"{path} is bidirectional: it reads the future and cannot be served a step at a time")
    width = module.proj_size or module.hidden_size
    return [
        _layer(
            path, _CELLS_OF_MODE[module.mode], width if layer else module.input_size, module.hidden_size, weights, layer
        )
        for layer in range(module.num_layers)
    ]


def _check_plain(path: str, module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Refuse a layer whose weights are not torch's own, but computed from others at each run."""
    names = r"(weight|bias)_(ih|hh|hr)" + ("" if isinstance(module, nn.RNNCellBase) else r"_l\d+(_reverse)?")
    if foreign := [name for name in weights if not re.fullmatch(names, name)]:
        raise NotStreamableError(
            f"{path} holds {foreign[0]!r}, which is no weight of torch's own: where weight_norm or another "
            "parametrization put it there, the factory must call remove_weight_norm or remove_parametrizations"
        )


def _name_of_cell(path: str, module: nn.RNNCellBase) -> str:
    if isinstance(module, nn.LSTMCell):
        return "lstm"
    if isinstance(module, nn.GRUCell):
        return "gru_reset_after"
    if isinstance(module, nn.RNNCell):
        return f"rnn_{module.nonlinearity}"
    raise NotStreamableError(f"{path} is a {type(module).__name__}, which no cell here computes")


def _layer(path: str, name: str, width: int, hidden: int, weights: dict[str, Tensor], layer: int) -> Layer:
    mine = {key.removesuffix(f"_l{layer}") + "_l0": t for key, t in weights.items() if key.endswith(f"_l{layer}")}
    projection = mine.pop("weight_hr_l0", None)  # (proj_size, hidden)
    if projection is not None:
        mine["weight_hh_l0"] = mine["weight_hh_l0"] @ projection
    cell = CELLS[name](width, hidden)
    try:
        load_torch_weights(Stack([cell]), mine)
    except NotLoadableError as exc:
        raise NotStreamableError(f"{path}: {exc}") from exc
    return Layer(cell.eval().requires_grad_(False), projection)
