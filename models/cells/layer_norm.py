"""The LSTM with layer normalisation (Ba, Kiros & Hinton 2016)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell, State, vector_states
from models.cells.gates import Gates
from models.cells.lstm import LSTMOptions


class LayerNormOptions(LSTMOptions):
    """Set the initial gain of the two normalised products, and the initial forget bias.

    With a gain of 1 the normalised products are large even for a small state, and an untrained cell amplifies rounding
    errors over tens of steps; Cooijmans et al. 2017 recommend 0.1 for normalised gates.
    """

    gain: float = Field(default=0.1, gt=0, allow_inf_nan=False)


class LayerNormLSTM(Cell):
    """Normalise both products and the cell state, each with its own gain and bias.

    i, f, o = σ(LN(W x) + LN(R h') + b);  g = tanh(LN(W x) + LN(R h') + b);  c = f c' + i g;  h = o tanh(LN(c)),
    with one LN over all four blocks of a product
    """

    source = "Ba, Kiros & Hinton 2016 (arXiv 1607.06450)"
    Options = LayerNormOptions
    options: LayerNormOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.gates = Gates("ifgo", input_size, hidden_size)
        self.norm_x = nn.LayerNorm(4 * hidden_size)
        self.norm_h = nn.LayerNorm(4 * hidden_size)
        self.norm_c = nn.LayerNorm(hidden_size)
        with torch.no_grad():
            for norm in (self.norm_x, self.norm_h):
                norm.weight.fill_(self.options.gain)
            self.gates.b[self.gates.rows("f")] = self.options.forget_bias

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("hc", self.hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        a = self.norm_x(x @ self.gates.W.T) + self.norm_h(h @ self.gates.R.T) + self.gates.b
        i, f, g, o = a.chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self.norm_c(c))
        return h, (h, c)
