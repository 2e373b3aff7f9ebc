"""The simple recurrent network (Elman 1990)."""

from typing import Any

import torch
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, OnnxOperators, State, vector_states
from models.cells.gates import Gates


class _SimpleRNN(Cell):
    """Base class of simple recurrent cells: one affine map of input and previous output, then an activation."""

    source = "Elman 1990"
    onnx = OnnxOperators("RNN", "RNN")

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.gates = Gates("h", input_size, hidden_size)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("h", self.hidden_size)

    def _flat_weights(self) -> list[Tensor]:
        gates = self.gates
        return [gates.W, gates.R, gates.b, torch.zeros_like(gates.b)]


class TanhRNN(_SimpleRNN):
    """h = tanh(W x + R h' + b)."""

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        (a,) = self.gates(x, h)
        h = torch.tanh(a)
        return h, (h,)

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run torch's fused kernel on the same weights: x (time, batch, input) → y (time, batch, hidden), state."""
        (h,) = state
        y, h = torch.rnn_tanh(x, h.unsqueeze(0), self._flat_weights(), True, 1, 0.0, self.training, False, False)
        return y, (h.squeeze(0),)


class ReluRNN(_SimpleRNN):
    """h = max(0, W x + R h' + b)."""

    source = "Le, Jaitly & Hinton 2015; torch.nn.RNN"
    onnx = OnnxOperators("RNN", "Scan")

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        (a,) = self.gates(x, h)
        h = torch.relu(a)
        return h, (h,)

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run torch's fused kernel on the same weights: x (time, batch, input) → y (time, batch, hidden), state."""
        (h,) = state
        y, h = torch.rnn_relu(x, h.unsqueeze(0), self._flat_weights(), True, 1, 0.0, self.training, False, False)
        return y, (h.squeeze(0),)
