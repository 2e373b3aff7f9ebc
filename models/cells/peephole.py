"""LSTMs with peepholes, by which the gates read the cell state (Gers & Schmidhuber 2000): diagonal or full matrices."""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, OnnxOperators, State, vector_states
from models.cells.gates import Gates, weight
from models.cells.lstm import GATE_NAMES, GatedLSTM, LSTMOptions

_DESCRIPTION = "The gates that have a peephole: letters of i, f, o."


class PeepholeOptions(CellOptions):
    """Choose which gates have a peephole."""

    peepholes: str = Field(default="ifo", description=_DESCRIPTION)


class ForgetPeepholeOptions(LSTMOptions):
    """Choose which gates have a peephole, and set the initial bias of the forget gate."""

    peepholes: str = Field(default="ifo", description=_DESCRIPTION)


class DiagonalPeepholes(GatedLSTM):
    """Base class of LSTMs whose options name the gates with a peephole, in `peephole`, `coupled` and `greff`.

    Raises:
        ValueError: A gate is named twice, does not exist in this cell or is coupled to another; or no gate is named.
    """

    onnx = OnnxOperators("LSTM", "Scan")
    Options: ClassVar[type[PeepholeOptions | ForgetPeepholeOptions]] = ForgetPeepholeOptions
    options: PeepholeOptions | ForgetPeepholeOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        name, chosen = type(self).__name__, self.peeping()
        if not chosen:
            raise ValueError(f"{name} needs a peephole on at least one gate: name its gates in peepholes")
        for gate in chosen:
            if gate not in GATE_NAMES:
                raise ValueError(f"{name}: peepholes must be letters of i, f and o, got {gate!r}")
            if gate in self.removed:
                raise ValueError(f"{name} has no {GATE_NAMES[gate]} gate: remove {gate!r} from peepholes")
            if gate in self.coupled:
                raise ValueError(f"{name}: the {GATE_NAMES[gate]} gate is coupled and cannot have a peephole")
        if len(set(chosen)) != len(chosen):
            raise ValueError(f"{name}: a gate is named twice in peepholes {chosen!r}")

    def peeping(self) -> str:
        return self.options.peepholes


class PeepholeLSTM(DiagonalPeepholes):
    """LSTM with diagonal peepholes; with all three it is V, the reference variant of Greff et al. 2015.

    i, f = σ(W x + R h' + b + p c');  g = tanh(W x + R h' + b);  c = f c' + i g;  o = σ(W x + R h' + b + p c);
    h = o tanh(c)
    """

    source = "Gers & Schmidhuber 2000; V of Greff et al. 2015"


class FullPeepholeLSTM(Cell):
    """LSTM whose peepholes are full matrices, as in σ(W · [c, h', x] + b).

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
