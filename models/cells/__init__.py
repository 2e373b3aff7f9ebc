"""The recurrent cells, one family a file, and the one table that names them."""

from models.cells.base import Cell, CellOptions, State
from models.cells.gru import GRUResetAfter, GRUResetBefore
from models.cells.lstm import LSTM
from models.cells.rnn import ReluRNN, TanhRNN

CELLS: dict[str, type[Cell]] = {
    "rnn_tanh": TanhRNN,
    "rnn_relu": ReluRNN,
    "lstm": LSTM,
    "gru_reset_before": GRUResetBefore,
    "gru_reset_after": GRUResetAfter,
}

__all__ = ["CELLS", "Cell", "CellOptions", "State"]
