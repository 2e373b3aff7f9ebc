"""Take over the weights of torch's own nn.RNN, nn.LSTM and nn.GRU."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.cells import CELLS
from models.cells.base import Cell
from models.cells.gates import Gates
from models.cells.gru import GRUResetAfter
from models.cells.lstm import LSTM
from models.cells.rnn import ReluRNN, TanhRNN
from models.config import NetworkConfig
from models.network import Network
from models.stack import Stack

# torch's name for the arithmetic of a module → our name for the cell
_CELL_OF_MODE = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru_reset_after"}


class NotLoadableError(ValueError):
    """The torch module computes something that no cell here computes, or its weights do not fit."""


def stack_from_torch(module: nn.RNNBase) -> Stack:
    """Return a stack with the same outputs as a unidirectional nn.RNN, nn.LSTM or nn.GRU without projection.

    Raises:
        NotLoadableError: The module is bidirectional, projects its output, or is of another kind.
    """
    cell = CELLS[_cell_name(module)]
    widths = [module.input_size] + [module.hidden_size] * (module.num_layers - 1)
    stack = Stack([cell(width, module.hidden_size) for width in widths])
    load_torch_weights(stack, module.state_dict())
    return stack.eval()


def network_from_torch(module: nn.RNNBase, head: nn.Linear, **config: Any) -> Network:
    """Return the network that runs `head` on the outputs of `module`.

    Keywords are further fields of NetworkConfig: scalers, names, units.

    Raises:
        NotLoadableError: See `stack_from_torch`; or the head does not fit the module.
    """
    if head.in_features != module.hidden_size:
        raise NotLoadableError(f"the head reads {head.in_features} values, the module gives {module.hidden_size}")
    network = Network(
        NetworkConfig(
            cell=_cell_name(module),
            input_size=module.input_size,
            hidden_size=module.hidden_size,
            output_size=head.out_features,
            num_layers=module.num_layers,
            **config,
        )
    )
    load_torch_weights(network.stack, module.state_dict())
    with torch.no_grad():
        network.head.weight.copy_(head.weight)
        network.head.bias.copy_(torch.zeros_like(network.head.bias) if head.bias is None else head.bias)
    return network.eval()


def load_torch_weights(stack: Stack, weights: Mapping[str, Tensor]) -> None:
    """Copy the state_dict of an nn.RNN, nn.LSTM or nn.GRU into a stack of the same sizes.

    torch keeps two biases a gate, of which only the sum matters; the candidate of a GRU is the exception.

    Raises:
        NotLoadableError: A weight is missing, left over, or of another shape, or the cell is not one of torch's.
    """
    left = dict(weights)
    for layer, cell in enumerate(stack.cells):
        load = _LOADERS.get(type(cell))
        if load is None:
            raise NotLoadableError(f"torch has no module that computes {type(cell).__name__}")
        try:
            input_weight = left.pop(f"weight_ih_l{layer}")
            recurrent_weight = left.pop(f"weight_hh_l{layer}")
        except KeyError as exc:
            raise NotLoadableError(f"there is no weight called {exc.args[0]}") from exc
        nothing = torch.zeros(len(input_weight))
        input_bias = left.pop(f"bias_ih_l{layer}", nothing)
        recurrent_bias = left.pop(f"bias_hh_l{layer}", nothing)
        with torch.no_grad():
            load(cell, input_weight, recurrent_weight, input_bias, recurrent_bias)
    if left:
        raise NotLoadableError(f"these weights have no place in the stack: {', '.join(sorted(left))}")


def _cell_name(module: nn.RNNBase) -> str:
    if module.mode not in _CELL_OF_MODE:
        raise NotLoadableError(f"no cell here computes torch's {module.mode}")
    if module.bidirectional:
        raise NotLoadableError("a bidirectional module reads the future: it cannot be served a step at a time")
    if module.proj_size:
        raise NotLoadableError(f"a module with a projection (proj_size={module.proj_size}) cannot be loaded")
    return _CELL_OF_MODE[module.mode]


def _copy(target: Tensor, source: Tensor, name: str) -> None:
    if target.shape != source.shape:
        raise NotLoadableError(f"{name} is {tuple(source.shape)} and should be {tuple(target.shape)}")
    target.copy_(source)


def _load_gates(gates: Gates, w: Tensor, r: Tensor, b: Tensor) -> None:
    _copy(gates.W, w, "the input weight")
    _copy(gates.R, r, "the recurrent weight")
    _copy(gates.b, b, "the bias")


def _load_plain(cell: Any, w: Tensor, r: Tensor, b_w: Tensor, b_r: Tensor) -> None:
    _load_gates(cell.gates, w, r, b_w + b_r)


def _load_gru(cell: GRUResetAfter, w: Tensor, r: Tensor, b_w: Tensor, b_r: Tensor) -> None:
    candidate = cell.gates.rows("g")
    bias = b_w + b_r
    bias[candidate] = b_w[candidate]
    _load_gates(cell.gates, w, r, bias)
    _copy(cell.recurrent_bias, b_r[candidate], "the candidate's recurrent bias")


# the rows of these cells stand in torch's own order, so the weights are copied as they are
_LOADERS: dict[type[Cell], Callable[[Any, Tensor, Tensor, Tensor, Tensor], None]] = {
    TanhRNN: _load_plain,
    ReluRNN: _load_plain,
    LSTM: _load_plain,
    GRUResetAfter: _load_gru,
}
