"""The affine part of a cell's gates, W x + R h + b, with a block of rows for each gate."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def weight(*shape: int, hidden_size: int) -> nn.Parameter:
    """Return a parameter with initial values drawn uniformly from ±1/√hidden_size, as in torch."""
    bound = 1.0 / math.sqrt(hidden_size)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def bias_or_zeros(module: nn.Module, name: str, rows: int, hidden_size: int, *, bias: bool) -> None:
    """Give a module a bias (rows,) under this name: a parameter, or else zeros that are not trained and not saved."""
    if bias:
        module.register_parameter(name, weight(rows, hidden_size=hidden_size))
    else:
        module.register_buffer(name, torch.zeros(rows), persistent=False)


class Gates(nn.Module):
    """Hold the weights of several gates, stacked in the order of `names`, with one bias for each gate.

    Shapes: W (gates · hidden, input), R (gates · hidden, recurrent), b (gates · hidden). `recurrent` is the width of
    the recurrent input h: `recurrent_size`, or the hidden size if that is 0. Without `bias`, b is zero for good: it is
    not trained and not saved.
    """

    b: Tensor

    def __init__(
        self, names: Sequence[str], input_size: int, hidden_size: int, recurrent_size: int = 0, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.names = tuple(names)
        self.hidden_size = hidden_size
        rows = len(self.names) * hidden_size
        self.W = weight(rows, input_size, hidden_size=hidden_size)
        self.R = weight(rows, recurrent_size or hidden_size, hidden_size=hidden_size)
        bias_or_zeros(self, "b", rows, hidden_size, bias=bias)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Return W x + R h + b for each gate, each (batch, hidden), in the order of `names`."""
        return (x @ self.W.T + h @ self.R.T + self.b).chunk(len(self.names), -1)

    def of_input(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return W x + b for each gate, each (batch, hidden), in the order of `names`."""
        return (x @ self.W.T + self.b).chunk(len(self.names), -1)

    def of_state(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return R h for each gate, each (batch, hidden), in the order of `names`."""
        return (h @ self.R.T).chunk(len(self.names), -1)

    def rows(self, name: str) -> slice:
        """Return the rows of the named gate in W, R and b.

        Raises:
            ValueError: There is no gate of this name.
        """
        start = self.names.index(name) * self.hidden_size
        return slice(start, start + self.hidden_size)
