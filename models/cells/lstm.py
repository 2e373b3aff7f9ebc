"""Long short-term memory with a forget gate (Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000)."""

from typing import Any

import torch
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, State
from models.cells.gates import Gates


class LSTMOptions(CellOptions):
    """Choose where training starts: a forget bias of 1 keeps the memory open (Jozefowicz et al. 2015, section 2.2)."""

    forget_bias: float = 1.0


class LSTM(Cell):
    """Write to, keep and read a memory cell through three gates.

    i, f, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + i g;  h = o tanh(c)
    """

    Options = LSTMOptions
    options: LSTMOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        # torch's own order of rows, so that its fused kernel takes these weights as they stand
        self.gates = Gates("ifgo", input_size, hidden_size)
        with torch.no_grad():
            self.gates.b[self.gates.rows("f")] = self.options.forget_bias

    @property
    def states(self) -> tuple[StateSpec, ...]:
        shape = (self.hidden_size,)
        return StateSpec(name="h", shape=shape), StateSpec(name="c", shape=shape)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        i, f, g, o = self.gates(x, h)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c)

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run torch's fused kernel on the same weights."""
        gates = self.gates
        weights = [gates.W, gates.R, gates.b, torch.zeros_like(gates.b)]
        carried = [s.unsqueeze(0) for s in state]
        y, h, c = torch.lstm(x, carried, weights, True, 1, 0.0, self.training, False, False)
        return y, (h.squeeze(0), c.squeeze(0))
