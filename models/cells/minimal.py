"""Cells whose gates depend on the input alone (Feng et al. 2024, Were RNNs All We Needed?)."""

from typing import Any

import torch
from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell, State, vector_states
from models.cells.gates import weight

_SOURCE = "Feng et al. 2024 (arXiv 2410.01201), "


class _Minimal(Cell):
    """Base class of cells whose next state is a weighted mean of the state and a candidate."""

    blocks: int

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.W = weight(self.blocks * hidden_size, input_size, hidden_size=hidden_size)
        self.b = weight(self.blocks * hidden_size, hidden_size=hidden_size)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("h", self.hidden_size)


class MinGRU(_Minimal):
    """z = σ(W_z x + b);  h = (1 − z) h' + z (W_h x + b)."""

    source = _SOURCE + "minGRU"
    blocks = 2  # z, h

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        z, g = (x @ self.W.T + self.b).chunk(2, -1)
        z = torch.sigmoid(z)
        h = (1.0 - z) * h + z * g
        return h, (h,)


class MinLSTM(_Minimal):
    """f, i = σ(W x + b);  h = f / (f + i) h' + i / (f + i) (W_h x + b).

    f / (f + i) is computed as σ(log f − log i), which is finite even when both gates are zero in float32.
    """

    source = _SOURCE + "minLSTM"
    blocks = 3  # f, i, h

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        f, i, g = (x @ self.W.T + self.b).chunk(3, -1)
        keep = torch.sigmoid(nn.functional.softplus(-i) - nn.functional.softplus(-f))
        h = keep * h + (1.0 - keep) * g
        return h, (h,)
