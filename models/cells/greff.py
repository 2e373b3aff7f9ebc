"""Variants of the LSTM with peepholes, each with one change (Greff et al. 2015, Search Space Odyssey, section III)."""

from typing import Any

import torch
from torch import Tensor

from models.card import StateSpec
from models.cells.base import OnnxOperators, State, vector_states
from models.cells.gates import weight
from models.cells.peephole import DiagonalPeepholes, ForgetPeepholeOptions, PeepholeOptions

_SOURCE = "Greff et al. 2015, "


class NIGOptions(ForgetPeepholeOptions):
    """Choose which of the two remaining gates have peepholes."""

    peepholes: str = "fo"


class NFGOptions(PeepholeOptions):
    """Choose which of the two remaining gates have peepholes."""

    peepholes: str = "io"


class NOGOptions(ForgetPeepholeOptions):
    """Choose which of the two remaining gates have peepholes."""

    peepholes: str = "if"


class NIG(DiagonalPeepholes):
    """No input gate: f = σ(… + p c');  g = tanh(W x + R h' + b);  c = f c' + g;  o = σ(… + p c);  h = o tanh(c)."""

    source = _SOURCE + "NIG"
    removed = "i"
    Options = NIGOptions


class NFG(DiagonalPeepholes):
    """No forget gate: i = σ(… + p c');  g = tanh(W x + R h' + b);  c = c' + i g;  o = σ(… + p c);  h = o tanh(c)."""

    source = _SOURCE + "NFG"
    removed = "f"
    Options = NFGOptions


class NOG(DiagonalPeepholes):
    """No output gate: i, f = σ(… + p c');  g = tanh(W x + R h' + b);  c = f c' + i g;  h = tanh(c)."""

    source = _SOURCE + "NOG"
    removed = "o"
    Options = NOGOptions


class NIAF(DiagonalPeepholes):
    """No input activation: g = W x + R h' + b;  i, f = σ(… + p c');  c = f c' + i g;  h = σ(… + p c) tanh(c)."""

    source = _SOURCE + "NIAF"

    def activate_candidate(self, a: Tensor) -> Tensor:
        """Return the candidate unchanged, (batch, hidden)."""
        return a


class NOAF(DiagonalPeepholes):
    """No output activation: i, f = σ(… + p c');  g = tanh(W x + R h' + b);  c = f c' + i g;  h = σ(… + p c) c."""

    source = _SOURCE + "NOAF"

    def activate_cell_state(self, c: Tensor) -> Tensor:
        """Return the cell state unchanged, (batch, hidden)."""
        return c


class FGR(DiagonalPeepholes):
    """Full gate recurrence: each gate also reads the values of all three gates at the previous step.

    [i, f, o] = σ(W x + R h' + b + p c̃ + Q [i', f', o']);  g = tanh(W x + R h' + b);  c = f c' + i g;  h = o tanh(c),
    with c̃ = c' for i and f, and c for o
    """

    source = _SOURCE + "FGR"
    onnx = OnnxOperators("Scan", "Scan")

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        # rows i, f, o; columns i', f', o'
        self.Q = weight(3 * hidden_size, 3 * hidden_size, hidden_size=hidden_size)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("hcifo", self.hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c, *gates = state
        a = dict(zip(self.gates.names, self.gates(x, h), strict=True))
        for name, recurrence in zip("ifo", (torch.cat(gates, -1) @ self.Q.T).chunk(3, -1), strict=True):
            a[name] = a[name] + recurrence
        i, f = self._gate("i", a, c), self._gate("f", a, c)
        c = f * c + i * torch.tanh(a["g"])
        o = self._gate("o", a, c)
        h = o * torch.tanh(c)
        return h, (h, c, i, f, o)

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return a random state whose gate values lie between 0 and 1, each tensor (batch, hidden)."""
        h, c, *gates = super().random_state(batch, generator)
        return (h, c, *(gate.abs() for gate in gates))
