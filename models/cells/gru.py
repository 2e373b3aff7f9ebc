"""The gated recurrent unit in four variants.

The reset gate is applied before or after the recurrent product, and the update gate z multiplies either the old state
(z keeps) or the candidate (z writes). The two conventions for z differ in the sign of z's weights: a checkpoint of one
gives wrong outputs in the other, so both are available.
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, OnnxOperators, State, vector_states
from models.cells.gates import Gates, bias_or_zeros


class GRUOptions(CellOptions):
    """Choose whether the gates and the candidate have biases."""

    bias: bool = Field(default=True, description="Whether gates and candidate have biases.")


class GRUResetBefore(Cell):
    """GRU with the reset gate before the recurrent product; z multiplies the old state.

    z, r = σ(W x + R h' + b);  g = tanh(W x + R (r h') + b);  h = z h' + (1 − z) g
    """

    source = "Cho et al. 2014, equations 5 to 8"
    onnx = OnnxOperators("GRU", "Scan")
    Options = GRUOptions
    options: GRUOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.gates = Gates("zr", input_size, hidden_size, bias=self.options.bias)
        self.candidate = Gates("g", input_size, hidden_size, bias=self.options.bias)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("h", self.hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        z, r = (torch.sigmoid(a) for a in self.gates(x, h))
        (g,) = self.candidate(x, r * h)
        h = self.merge(z, h, torch.tanh(g))
        return h, (h,)

    def merge(self, z: Tensor, h: Tensor, g: Tensor) -> Tensor:
        """Return z h' + (1 − z) g, (batch, hidden)."""
        return z * h + (1.0 - z) * g


class GRUResetBeforeZWrites(GRUResetBefore):
    """GRU with the reset gate before the recurrent product; z multiplies the candidate.

    z, r = σ(W x + R h' + b);  g = tanh(W x + R (r h') + b);  h = (1 − z) h' + z g

    Without biases this is Olah's GRU: z, r = σ(W · [h', x]);  g = tanh(W · [r h', x]).
    """

    source = "Chung et al. 2014; Olah 2015"

    def merge(self, z: Tensor, h: Tensor, g: Tensor) -> Tensor:
        """Return (1 − z) h' + z g, (batch, hidden)."""
        return (1.0 - z) * h + z * g


class GRUResetAfter(Cell):
    """GRU with the reset gate after the recurrent product, as in cuDNN and `torch.nn.GRU`; z multiplies the old state.

    r, z = σ(W x + R h' + b);  g = tanh(W x + b + r (R h' + b_R));  h = z h' + (1 − z) g
    """

    source = "cuDNN; torch.nn.GRU"
    onnx = OnnxOperators("GRU", "GRU")
    Options = GRUOptions
    options: GRUOptions
    recurrent_bias: Tensor

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        # torch's order of rows, so that its fused kernel takes these weights unchanged
        self.gates = Gates("rzg", input_size, hidden_size, bias=self.options.bias)
        bias_or_zeros(self, "recurrent_bias", hidden_size, hidden_size, bias=self.options.bias)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("h", self.hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state
        x_r, x_z, x_g = self.gates.of_input(x)
        h_r, h_z, h_g = self.gates.of_state(h)
        r = torch.sigmoid(x_r + h_r)
        z = torch.sigmoid(x_z + h_z)
        g = torch.tanh(x_g + r * (h_g + self.recurrent_bias))
        h = self.merge(z, h, g)
        return h, (h,)

    def merge(self, z: Tensor, h: Tensor, g: Tensor) -> Tensor:
        """Return z h' + (1 − z) g, (batch, hidden)."""
        return z * h + (1.0 - z) * g

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run torch's fused kernel on the same weights: x (time, batch, input) → y (time, batch, hidden), state."""
        (h,) = state
        w, r, b = self.keeping_weights()
        y, h = torch.gru(
            x, h.unsqueeze(0), [w, r, b, self.full_recurrent_bias()], True, 1, 0.0, self.training, False, False
        )
        return y, (h.squeeze(0),)

    def keeping_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return W, R and b by which a GRU whose z multiplies the old state computes the outputs of this cell."""
        return self.gates.W, self.gates.R, self.gates.b

    def full_recurrent_bias(self) -> Tensor:
        """Return the recurrent bias of all gates, (3 · hidden,): zero for r and z, then that of the candidate."""
        zeros = self.recurrent_bias.new_zeros(2 * self.hidden_size)
        return torch.cat([zeros, self.recurrent_bias])


class GRUResetAfterZWrites(GRUResetAfter):
    """GRU with the reset gate after the recurrent product; z multiplies the candidate.

    r, z = σ(W x + R h' + b);  g = tanh(W x + b + r (R h' + b_R));  h = (1 − z) h' + z g
    """

    source = "Chung et al. 2014, reset gate after the product as in cuDNN"

    def merge(self, z: Tensor, h: Tensor, g: Tensor) -> Tensor:
        """Return (1 − z) h' + z g, (batch, hidden)."""
        return (1.0 - z) * h + z * g

    def keeping_weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return W, R and b with the rows of z negated: 1 − σ(a) is σ(−a)."""
        gates = self.gates
        signs = torch.ones_like(gates.b)
        signs[gates.rows("z")] = -1.0
        return gates.W * signs[:, None], gates.R * signs[:, None], gates.b * signs
