"""LSTMs that forget exactly as much as they write: one gate is one minus the other."""

from typing import ClassVar

from models.cells.lstm import GatedLSTM, LSTMOptions
from models.cells.peephole import DiagonalPeepholes, PeepholeOptions


class CoupledLSTM(GatedLSTM):
    """f, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + (1 − f) g;  h = o tanh(c)."""

    source = "Olah 2015, Understanding LSTM Networks"
    coupled: ClassVar = {"i": "f"}
    Options = LSTMOptions


class CIFGOptions(PeepholeOptions):
    """Choose which of the two gates that are left see the memory."""

    peepholes: str = "io"


class CIFG(DiagonalPeepholes):
    """The input gate leads, and peepholes stay on it and on the output gate.

    i = σ(W x + R h' + b + p c');  g = tanh(W x + R h' + b);  c = (1 − i) c' + i g;  o = σ(W x + R h' + b + p c);
    h = o tanh(c)
    """

    source = "Greff et al. 2015, CIFG"
    coupled: ClassVar = {"f": "i"}
    Options = CIFGOptions
