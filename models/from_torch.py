"""Load the weights of torch's nn.RNN, nn.LSTM and nn.GRU into stacks and networks."""

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

# value of torch's `RNNBase.mode` → name of the cell with the same equations
_CELL_OF_MODE = {"RNN_TANH": "rnn_tanh", "RNN_RELU": "rnn_relu", "LSTM": "lstm", "GRU": "gru_reset_after"}


class NotLoadableError(ValueError):
    """No cell computes what the torch module computes, or the module's weights do not fit the stack."""


def stack_from_torch(module: nn.RNNBase) -> Stack:
    """Return a stack, in eval mode, with the outputs of a unidirectional nn.RNN, nn.LSTM or nn.GRU without projection.

    Raises:
        NotLoadableError: The module is bidirectional, has a projection, or is of another class.
    """
    cell = CELLS[_cell_name(module)]
    widths = [module.input_size] + [module.hidden_size] * (module.num_layers - 1)
    stack = Stack([cell(width, module.hidden_size) for width in widths])
    load_torch_weights(stack, module.state_dict())
    return stack.eval()


def network_from_torch(module: nn.RNNBase, head: nn.Linear, **config: Any) -> Network:
    """Return a network, in eval mode, that applies `head` to the outputs of `module`.

    The keyword arguments are further fields of NetworkConfig: scalers, feature names, units.

    Raises:
        NotLoadableError: The module is bidirectional, has a projection, or is of another class; or the head's
            in_features differ from the module's hidden_size.
        pydantic.ValidationError: The configuration is inconsistent.
    """
    if head.in_features != module.hidden_size:
        raise NotLoadableError(f"the head reads {head.in_features} values, the module outputs {module.hidden_size}")
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

    torch has two biases for each gate, which are added up; only for the candidate of a GRU are both kept.

    Raises:
        NotLoadableError: A weight is missing, is unexpected or has another shape, or torch has no such cell.
    """
    remaining = dict(weights)
    for layer, cell in enumerate(stack.cells):
        load = _LOADERS.get(type(cell))
        if load is None:
            raise NotLoadableError(f"torch has no module that computes {type(cell).__name__}")
        try:
            input_weight = remaining.pop(f"weight_ih_l{layer}")
            recurrent_weight = remaining.pop(f"weight_hh_l{layer}")
        except KeyError as exc:
            raise NotLoadableError(f"the weight {exc.args[0]} is missing") from exc
        zeros = torch.zeros(len(input_weight))
        input_bias = remaining.pop(f"bias_ih_l{layer}", zeros)
        recurrent_bias = remaining.pop(f"bias_hh_l{layer}", zeros)
        with torch.no_grad():
            load(cell, input_weight, recurrent_weight, input_bias, recurrent_bias)
    if remaining:
        raise NotLoadableError(f"the stack has no parameter for these weights: {', '.join(sorted(remaining))}")


def _cell_name(module: nn.RNNBase) -> str:
    if module.mode not in _CELL_OF_MODE:
        raise NotLoadableError(f"no cell here computes torch's {module.mode}")
    if module.bidirectional:
        raise NotLoadableError("a bidirectional module reads later steps: it cannot be served one step at a time")
    if module.proj_size:
        raise NotLoadableError(f"a module with a projection (proj_size={module.proj_size}) cannot be loaded")
    return _CELL_OF_MODE[module.mode]


def _copy(target: Tensor, source: Tensor, name: str) -> None:
    if target.shape != source.shape:
        raise NotLoadableError(f"{name} has the shape {tuple(source.shape)} and should be {tuple(target.shape)}")
    target.copy_(source)


def _copy_bias(target: Tensor, source: Tensor, name: str) -> None:
    if not isinstance(target, nn.Parameter) and source.any():
        raise NotLoadableError(f"the stack's cells have no biases, and {name} is not zero: set the option 'bias'")
    _copy(target, source, name)


def _load_gates(gates: Gates, w: Tensor, r: Tensor, b: Tensor) -> None:
    _copy(gates.W, w, "the input weight")
    _copy(gates.R, r, "the recurrent weight")
    _copy_bias(gates.b, b, "the bias")


def _load_summed_bias(cell: Any, w: Tensor, r: Tensor, b_w: Tensor, b_r: Tensor) -> None:
    _load_gates(cell.gates, w, r, b_w + b_r)


def _load_gru(cell: GRUResetAfter, w: Tensor, r: Tensor, b_w: Tensor, b_r: Tensor) -> None:
    candidate = cell.gates.rows("g")
    bias = b_w + b_r
    bias[candidate] = b_w[candidate]
    _load_gates(cell.gates, w, r, bias)
    _copy_bias(cell.recurrent_bias, b_r[candidate], "the candidate's recurrent bias")


# these cells order their rows as torch does, so the weights are copied unchanged
_LOADERS: dict[type[Cell], Callable[[Any, Tensor, Tensor, Tensor, Tensor], None]] = {
    TanhRNN: _load_summed_bias,
    ReluRNN: _load_summed_bias,
    LSTM: _load_summed_bias,
    GRUResetAfter: _load_gru,
}
