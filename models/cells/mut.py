"""The three cells found by a search over ten thousand architectures (Jozefowicz et al. 2015, section 4).

MUT1 and MUT2 add the input itself to a vector of the state's width, so their input must have that width.
"""

from typing import Any

import torch
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, OnnxOperators, State, vector_states
from models.cells.gates import Gates, weight

_SOURCE = "Jozefowicz, Zaremba & Sutskever 2015, "


class _Mutation(Cell):
    """Base class of the three cells: h = z g + (1 − z) h', as in a GRU."""

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("h", self.hidden_size)


class MUT1(_Mutation):
    """z = σ(W_z x + b);  r = σ(W_r x + R_r h' + b);  g = tanh(R_h (r h') + tanh(x) + b);  h = z g + (1 − z) h'."""

    source = _SOURCE + "MUT1"
    onnx = OnnxOperators("GRU", "Scan")
    square = True

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.W_z = weight(hidden_size, input_size, hidden_size=hidden_size)
        self.b_z = weight(hidden_size, hidden_size=hidden_size)
        self.reset = Gates("r", input_size, hidden_size)
        self.R_h = weight(hidden_size, hidden_size, hidden_size=hidden_size)
        self.b_h = weight(hidden_size, hidden_size=hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        z = torch.sigmoid(x @ self.W_z.T + self.b_z)
        (r,) = self.reset(x, h)
        g = torch.tanh((torch.sigmoid(r) * h) @ self.R_h.T + torch.tanh(x) + self.b_h)
        h = z * g + (1.0 - z) * h
        return h, (h,)


class MUT2(_Mutation):
    """z = σ(W_z x + R_z h' + b);  r = σ(x + R_r h' + b);  g = tanh(R_h (r h') + W_h x + b);  h = z g + (1 − z) h'."""

    source = _SOURCE + "MUT2"
    onnx = OnnxOperators("GRU", "Scan")
    square = True

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.update = Gates("z", input_size, hidden_size)
        self.R_r = weight(hidden_size, hidden_size, hidden_size=hidden_size)
        self.b_r = weight(hidden_size, hidden_size=hidden_size)
        self.candidate = Gates("g", input_size, hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        (z,) = self.update(x, h)
        r = torch.sigmoid(x + h @ self.R_r.T + self.b_r)
        (g,) = self.candidate(x, r * h)
        z = torch.sigmoid(z)
        h = z * torch.tanh(g) + (1.0 - z) * h
        return h, (h,)


class MUT3(_Mutation):
    """z = σ(W x + R tanh(h') + b);  r = σ(W x + R h' + b);  g = tanh(R (r h') + W x + b);  h = z g + (1 − z) h'."""

    source = _SOURCE + "MUT3"

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.update = Gates("z", input_size, hidden_size)
        self.reset = Gates("r", input_size, hidden_size)
        self.candidate = Gates("g", input_size, hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        (z,) = self.update(x, torch.tanh(h))
        (r,) = self.reset(x, h)
        (g,) = self.candidate(x, torch.sigmoid(r) * h)
        z = torch.sigmoid(z)
        h = z * torch.tanh(g) + (1.0 - z) * h
        return h, (h,)
