"""The LSTM with a projection of its output to fewer values (Sak, Senior & Beaufays 2014)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, OnnxOperators, State, vector_states
from models.cells.gates import Gates, weight
from models.cells.lstm import LSTMOptions


class ProjectionOptions(LSTMOptions):
    """Set the width of the projected output; the default is half of the hidden size."""

    projection: int | None = Field(default=None, ge=1)


class ProjectionLSTM(Cell):
    """Project the output to fewer values, which are fed back and given to the layer above.

    i, f, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + i g;  m = o tanh(c);  h = V m

    The state is m, from which h' = V m' follows: an ONNX LSTM node with R V instead of R computes the same steps.

    Raises:
        ValueError: The projection is not narrower than the hidden state.
    """

    source = "Sak, Senior & Beaufays 2014 (arXiv 1402.1128), without peepholes; torch.nn.LSTM(proj_size)"
    onnx = OnnxOperators("LSTM", "LSTM")
    Options = ProjectionOptions
    options: ProjectionOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.projection = self.options.projection or hidden_size // 2
        if not 1 <= self.projection < hidden_size:
            raise ValueError(
                f"a projection must be narrower than the hidden state: {self.projection} does not fit {hidden_size}"
            )
        self.gates = Gates("ifgo", input_size, hidden_size, self.projection)
        self.V = weight(self.projection, hidden_size, hidden_size=hidden_size)
        with torch.no_grad():
            self.gates.b[self.gates.rows("f")] = self.options.forget_bias

    @property
    def output_size(self) -> int:
        return self.projection

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("mc", self.hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        m, c = state
        i, f, g, o = self.gates(x, m @ self.V.T)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        m = torch.sigmoid(o) * torch.tanh(c)
        return m @ self.V.T, (m, c)
