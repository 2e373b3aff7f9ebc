"""The depth-gated LSTM (Yao et al. 2015): a further gate adds the cell state of the layer below to that of a layer."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell, State, vector_states
from models.cells.gates import Gates, weight
from models.cells.lstm import LSTMOptions


class DepthGatedOptions(LSTMOptions):
    """Set the number of layers inside the cell."""

    layers: int = Field(default=2, ge=1, le=1024)

    @property
    def least_weights(self) -> int:
        return self.layers


class DepthLayer(nn.Module):
    """Hold the weights of one layer: gates, peepholes P (i, f, o), and W_d, w_c and b_d of the depth gate.

    The lowest layer has W_0, by which W_0 x takes the role of the cell state below it; the others have w_l, the
    weights of the depth gate for the cell state of the layer below.
    """

    def __init__(self, width: int, hidden_size: int, lowest: bool, forget_bias: float) -> None:
        super().__init__()
        self.gates = Gates("ifgo", width, hidden_size)
        self.P = weight(3, hidden_size, hidden_size=hidden_size)
        self.W_d = weight(hidden_size, width, hidden_size=hidden_size)
        self.w_c = weight(hidden_size, hidden_size=hidden_size)
        self.b_d = weight(hidden_size, hidden_size=hidden_size)
        if lowest:
            self.W_0 = weight(hidden_size, width, hidden_size=hidden_size)
        else:
            self.w_l = weight(hidden_size, hidden_size=hidden_size)
        with torch.no_grad():
            self.gates.b[self.gates.rows("f")] = forget_bias

    def forward(self, x: Tensor, h: Tensor, c: Tensor, below: Tensor | None) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gates(x, h)
        d = x @ self.W_d.T + self.w_c * c + self.b_d
        if below is None:
            below = x @ self.W_0.T
        else:
            d = d + self.w_l * below
        i, f = torch.sigmoid(i + self.P[0] * c), torch.sigmoid(f + self.P[1] * c)
        c = torch.sigmoid(d) * below + f * c + i * torch.tanh(g)
        return torch.sigmoid(o + self.P[2] * c) * torch.tanh(c), c


class DepthGatedLSTM(Cell):
    """Run several layers in one step, each with a gate d on the cell state of the layer below.

    i, f = σ(W x + R h' + b + p c');  g = tanh(W x + R h' + b);  d = σ(W_d x + w_c c' + w_l c_below + b_d);
    c = d c_below + f c' + i g;  o = σ(W x + R h' + b + p c);  h = o tanh(c);  x is the h of the layer below

    The lowest layer has no cell state below it: as in the authors' code, c_below is W_0 x there, without w_l c_below.
    """

    source = "Yao et al. 2015 (arXiv 1508.03790); layer 1 as in the authors' dynet code"
    Options = DepthGatedOptions
    options: DepthGatedOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        bias = self.options.forget_bias
        self.layers = nn.ModuleList(
            DepthLayer(hidden_size if above else input_size, hidden_size, not above, bias)
            for above in range(self.options.layers)
        )

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return tuple(
            spec.model_copy(update={"name": f"{spec.name}{layer}"})
            for layer in range(self.options.layers)
            for spec in vector_states("hc", self.hidden_size)
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        below: Tensor | None = None
        after: list[Tensor] = []
        for layer, h, c in zip(self.layers, state[::2], state[1::2], strict=True):
            x, below = layer(x, h, c, below)
            after += [x, below]
        return x, tuple(after)
