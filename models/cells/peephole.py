"""LSTMs whose gates see the memory itself (Gers & Schmidhuber 2000): through a diagonal, or through a full matrix."""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, OnnxForms, State, vector_states
from models.cells.gates import Gates, weight
from models.cells.lstm import GATE_WORDS, GatedLSTM, LSTMOptions

_DESCRIPTION = "The gates that see the memory: letters of i, f, o."


class PeepholeOptions(CellOptions):
    """Choose which gates see the memory."""

    peepholes: str = Field(default="ifo", description=_DESCRIPTION)


class ForgetPeepholeOptions(LSTMOptions):
    """Choose which gates see the memory, and where the forget gate's training starts."""

    peepholes: str = Field(default="ifo", description=_DESCRIPTION)


class DiagonalPeepholes(GatedLSTM):
    """An LSTM whose options name the gates with a peephole; families of it stand in `peephole`, `coupled`, `greff`.

    Raises:
        ValueError: A peephole is named twice, or for a gate that is not there; or there is none at all.
    """

    onnx = OnnxForms("LSTM", "Scan")
    Options: ClassVar[type[PeepholeOptions | ForgetPeepholeOptions]] = ForgetPeepholeOptions
    options: PeepholeOptions | ForgetPeepholeOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        name, wanted = type(self).__name__, self.peeping()
        if not wanted:
            raise ValueError(f"{name} without any peephole is a plainer cell: name some of its gates in peepholes")
        for gate in wanted:
            if gate not in GATE_WORDS:
                raise ValueError(f"{name}: peepholes are letters of i, f and o, and {gate!r} is none of them")
            if gate in self.removed:
                raise ValueError(f"{name} has no {GATE_WORDS[gate]} gate that a peephole could stand on")
            if gate in self.coupled:
                raise ValueError(f"{name}: the {GATE_WORDS[gate]} gate is coupled and has no peephole of its own")
        if len(set(wanted)) != len(wanted):
            raise ValueError(f"{name}: a gate stands twice in peepholes {wanted!r}")

    def peeping(self) -> str:
        return self.options.peepholes


class PeepholeLSTM(DiagonalPeepholes):
    """See the memory through a diagonal; with all three peepholes this is V, the reference form of Greff et al. 2015.

    i, f = σ(W x + R h' + b + p c');  g = tanh(W x + R h' + b);  c = f c' + i g;  o = σ(W x + R h' + b + p c);
    h = o tanh(c)
    """

    source = "Gers & Schmidhuber 2000; V of Greff et al. 2015"


class FullPeepholeLSTM(Cell):
    """Let the gates see the memory through full matrices, as in σ(W · [c, h', x] + b).

    i, f = σ(W x + R h' + C c' + b);  g = tanh(W x + R h' + b);  c = f c' + i g;  o = σ(W x + R h' + C c + b);
    h = o tanh(c)
    """

    source = "Olah 2015, Understanding LSTM Networks"
    Options = LSTMOptions
    options: LSTMOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.gates = Gates("ifgo", input_size, hidden_size)
        self.C = weight(3 * hidden_size, hidden_size, hidden_size=hidden_size)  # rows i, f, o
        with torch.no_grad():
            self.gates.b[self.gates.rows("f")] = self.options.forget_bias

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return vector_states("hc", self.hidden_size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c = state
        i, f, g, o = self.gates(x, h)
        c_i, c_f, c_o = self.C.chunk(3)
        i, f = torch.sigmoid(i + c @ c_i.T), torch.sigmoid(f + c @ c_f.T)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + c @ c_o.T) * torch.tanh(c)
        return h, (h, c)
