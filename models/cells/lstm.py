"""The LSTM, and the base class of its variants."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, OnnxOperators, State, vector_states
from models.cells.gates import Gates, weight

GATE_NAMES = {"i": "input", "f": "forget", "o": "output"}


class LSTMOptions(CellOptions):
    """Set the initial bias of the forget gate; with 1 the cell state is kept at first (Jozefowicz et al. 2015, 2.2)."""

    forget_bias: float = Field(default=1.0, allow_inf_nan=False)


class GatedLSTM(Cell):
    """Base class of the LSTM and those variants that change its gates, peepholes or activation functions.

    i, f, o = σ(W x + R h' + b + p c̃);  g = act(W x + R h' + b);  c = f c' + i g;  h = o act(c)

    A gate in `removed` is always 1. A gate in `coupled` is one minus the gate it is mapped to. A gate in `peeping()`
    has a peephole, a diagonal p that multiplies the cell state: c' for i and f, the new c for o.
    """

    onnx = OnnxOperators("LSTM", "LSTM")
    removed: ClassVar[str] = ""
    coupled: ClassVar[Mapping[str, str]] = {}

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        # torch's order of rows, so that its fused kernel takes the weights of the plain LSTM unchanged
        names = [name for name in "ifgo" if name not in self.removed and name not in self.coupled]
        self.gates = Gates(names, input_size, hidden_size)
        if self.peeping():
            self.P = weight(len(self.peeping()), hidden_size, hidden_size=hidden_size)
        if isinstance(self.options, LSTMOptions):
            with torch.no_grad():
                self.gates.b[self.gates.rows("f")] = self.options.forget_bias

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("hc", self.hidden_size)

    def peeping(self) -> str:
        """Return the gates that have a peephole, in the order of the rows of P."""
        return ""

    def activate_candidate(self, a: Tensor) -> Tensor:
        """Return the activation of the candidate, (batch, hidden)."""
        return torch.tanh(a)

    def activate_cell_state(self, c: Tensor) -> Tensor:
        """Return the activation of the cell state, which the output gate multiplies, (batch, hidden)."""
        return torch.tanh(c)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        a = dict(zip(self.gates.names, self.gates(x, h), strict=True))
        i, f = self._gate("i", a, c), self._gate("f", a, c)
        c = f * c + i * self.activate_candidate(a["g"])
        h = self._gate("o", a, c) * self.activate_cell_state(c)
        return h, (h, c)

    def _gate(self, name: str, a: Mapping[str, Tensor], c: Tensor) -> Tensor:
        if name in self.removed:
            return c.new_ones(())
        if name in self.coupled:
            return 1.0 - self._gate(self.coupled[name], a, c)
        peephole = self.P[self.peeping().index(name)] * c if name in self.peeping() else 0.0
        return torch.sigmoid(a[name] + peephole)


class LSTM(GatedLSTM):
    """i, f, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + i g;  h = o tanh(c)."""

    source = "Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000"
    Options = LSTMOptions
    options: LSTMOptions

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run torch's fused kernel on the same weights: x (time, batch, input) → y (time, batch, hidden), state."""
        gates = self.gates
        weights = [gates.W, gates.R, gates.b, torch.zeros_like(gates.b)]
        carried = [s.unsqueeze(0) for s in state]
        y, h, c = torch.lstm(x, carried, weights, True, 1, 0.0, self.training, False, False)
        return y, (h.squeeze(0), c.squeeze(0))


class OriginalLSTM(GatedLSTM):
    """LSTM of 1997: no forget gate, and scaled logistic functions instead of tanh.

    i, o = σ(W x + R h' + b);  g = 4 σ(W x + R h' + b) − 2;  c = c' + i g;  h = o (2 σ(c) − 1)
    """

    source = "Hochreiter & Schmidhuber 1997, section 4 and appendix A.1"
    removed = "f"

    def activate_candidate(self, a: Tensor) -> Tensor:
        """Return 4 σ(a) − 2, between −2 and 2, (batch, hidden)."""
        return 4.0 * torch.sigmoid(a) - 2.0

    def activate_cell_state(self, c: Tensor) -> Tensor:
        """Return 2 σ(c) − 1, between −1 and 1, (batch, hidden)."""
        return 2.0 * torch.sigmoid(c) - 1.0
