"""The gated recurrent unit in its two forms: the reset gate before the recurrent product, or after it."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell, State
from models.cells.gates import Gates


class GRUResetBefore(Cell):
    """Reset the state, then multiply it (Cho et al. 2014, equations 5 to 8).

    z, r = σ(W x + R h' + b);  g = tanh(W x + R (r h') + b);  h = z h' + (1 − z) g
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.gates = Gates("zr", input_size, hidden_size)
        self.candidate = Gates("g", input_size, hidden_size)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (StateSpec(name="h", shape=(self.hidden_size,)),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        z, r = (torch.sigmoid(a) for a in self.gates(x, h))
        (g,) = self.candidate(x, r * h)
        h = z * h + (1.0 - z) * torch.tanh(g)
        return h, (h,)


class GRUResetAfter(Cell):
    """Multiply the state, then reset the product: the form of cuDNN and of `torch.nn.GRU`.

    r, z = σ(W x + R h' + b);  g = tanh(W x + b + r (R h' + b_R));  h = z h' + (1 − z) g
    """

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        # torch's own order of rows, so that its fused kernel takes these weights as they stand
        self.gates = Gates("rzg", input_size, hidden_size)
        bound = 1.0 / math.sqrt(hidden_size)
        self.recurrent_bias = nn.Parameter(torch.empty(hidden_size).uniform_(-bound, bound))

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (StateSpec(name="h", shape=(self.hidden_size,)),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        x_r, x_z, x_g = self.gates.of_input(x)
        h_r, h_z, h_g = self.gates.of_state(h)
        r = torch.sigmoid(x_r + h_r)
        z = torch.sigmoid(x_z + h_z)
        g = torch.tanh(x_g + r * (h_g + self.recurrent_bias))
        h = z * h + (1.0 - z) * g
        return h, (h,)

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run torch's fused kernel on the same weights."""
        (h,) = state
        weights = [self.gates.W, self.gates.R, self.gates.b, self.full_recurrent_bias()]
        y, h = torch.gru(x, h.unsqueeze(0), weights, True, 1, 0.0, self.training, False, False)
        return y, (h.squeeze(0),)

    def full_recurrent_bias(self) -> Tensor:
        """Return the recurrent bias of all gates, (3 · hidden,): the candidate's own, and zero for r and z."""
        nothing = self.recurrent_bias.new_zeros(2 * self.hidden_size)
        return torch.cat([nothing, self.recurrent_bias])
