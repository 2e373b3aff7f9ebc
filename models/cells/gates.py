"""The affine part of a cell's gates: W x + R h + b, a block of rows for each gate."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Gates(nn.Module):
    """Hold the weights of several gates, stacked in the order of `names`, one bias a gate.

    Shapes: W (gates · hidden, input), R (gates · hidden, hidden), b (gates · hidden). Initial values are uniform in
    ±1/√hidden, as in torch.
    """

    def __init__(self, names: Sequence[str], input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.hidden_size = hidden_size
        rows = len(self.names) * hidden_size
        bound = 1.0 / math.sqrt(hidden_size)
        self.W = nn.Parameter(torch.empty(rows, input_size).uniform_(-bound, bound))
        self.R = nn.Parameter(torch.empty(rows, hidden_size).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Return W x + R h + b of each gate, (batch, hidden) each, in the order of `names`."""
        return (x @ self.W.T + h @ self.R.T + self.b).chunk(len(self.names), -1)

    def of_input(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return W x + b of each gate alone."""
        return (x @ self.W.T + self.b).chunk(len(self.names), -1)

    def of_state(self, h: Tensor) -> tuple[Tensor, ...]:
        """Return R h of each gate alone."""
        return (h @ self.R.T).chunk(len(self.names), -1)

    def rows(self, name: str) -> slice:
        """Return where the named gate's rows stand in W, R and b."""
        start = self.names.index(name) * self.hidden_size
        return slice(start, start + self.hidden_size)
