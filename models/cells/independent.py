"""The independently recurrent network (Li et al. 2018): each unit has a recurrent connection to itself alone."""

from typing import Any, Literal

import torch
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, State, vector_states
from models.cells.gates import weight


class IndRNNOptions(CellOptions):
    """Choose the activation function."""

    activation: Literal["relu", "tanh"] = "relu"


class IndRNN(Cell):
    """h = act(W x + u h' + b), with an element-wise vector u instead of a recurrent matrix R."""

    source = "Li et al. 2018 (arXiv 1803.04831)"
    Options = IndRNNOptions
    options: IndRNNOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.W = weight(hidden_size, input_size, hidden_size=hidden_size)
        self.b = weight(hidden_size, hidden_size=hidden_size)
        self.u = weight(hidden_size, hidden_size=1)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("h", self.hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        a = x @ self.W.T + self.u * h + self.b
        h = torch.relu(a) if self.options.activation == "relu" else torch.tanh(a)
        return h, (h,)
