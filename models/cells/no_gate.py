"""The LSTM without one of its gates (Jozefowicz, Zaremba & Sutskever 2015)."""

from models.cells.lstm import GatedLSTM, LSTMOptions

_SOURCE = "Jozefowicz, Zaremba & Sutskever 2015, LSTM-"


class NoInputGateLSTM(GatedLSTM):
    """f, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + g;  h = o tanh(c)."""

    source = _SOURCE + "i"
    removed = "i"
    Options = LSTMOptions


class NoForgetGateLSTM(GatedLSTM):
    """i, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = c' + i g;  h = o tanh(c)."""

    source = _SOURCE + "f"
    removed = "f"


class NoOutputGateLSTM(GatedLSTM):
    """i, f = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + i g;  h = tanh(c)."""

    source = _SOURCE + "o"
    removed = "o"
    Options = LSTMOptions
