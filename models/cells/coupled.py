"""LSTMs with coupled input and forget gates: one gate is one minus the other."""

from typing import ClassVar

from models.cells.lstm import GatedLSTM, LSTMOptions
from models.cells.peephole import DiagonalPeepholes, PeepholeOptions


class CoupledLSTM(GatedLSTM):
    """f, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + (1 − f) g;  h = o tanh(c)."""

    source = "Olah 2015, Understanding LSTM Networks"
    coupled: ClassVar = {"i": "f"}
    Options = LSTMOptions


class CIFGOptions(PeepholeOptions):
    """Choose which of the two remaining gates have peepholes."""

    peepholes: str = "io"


class CIFG(DiagonalPeepholes):
    """LSTM with peepholes whose forget gate is one minus the input gate; peepholes on the input and output gates.

    i = σ(W x + R h' + b + p c');  g = tanh(W x + R h' + b);  c = (1 − i) c' + i g;  o = σ(W x + R h' + b + p c);
    h = o tanh(c)
    """

    source = "Greff et al. 2015, CIFG"
    coupled: ClassVar = {"f": "i"}
    Options = CIFGOptions
