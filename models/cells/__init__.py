"""The recurrent cells, one family per file, and the table CELLS of their names."""

import re

from models.cells.attention import AttentionLSTM, MemoryAttentionLSTM
from models.cells.base import Cell, CellOptions, State
from models.cells.bidirectional import Bidirectional
from models.cells.clockwork import ClockworkRNN
from models.cells.coupled import CIFG, CoupledLSTM
from models.cells.depth_gated import DepthGatedLSTM
from models.cells.greff import FGR, NFG, NIAF, NIG, NOAF, NOG
from models.cells.grid import GridLSTM
from models.cells.gru import GRUResetAfter, GRUResetAfterZWrites, GRUResetBefore, GRUResetBeforeZWrites
from models.cells.independent import IndRNN
from models.cells.layer_norm import LayerNormLSTM
from models.cells.lstm import LSTM, OriginalLSTM
from models.cells.minimal import MinGRU, MinLSTM
from models.cells.mut import MUT1, MUT2, MUT3
from models.cells.no_gate import NoForgetGateLSTM, NoInputGateLSTM, NoOutputGateLSTM
from models.cells.peephole import FullPeepholeLSTM, PeepholeLSTM
from models.cells.projection import ProjectionLSTM
from models.cells.rnn import ReluRNN, TanhRNN

CELLS: dict[str, type[Cell]] = {
    "rnn_tanh": TanhRNN,
    "rnn_relu": ReluRNN,
    "lstm": LSTM,
    "lstm_1997": OriginalLSTM,
    "lstm_no_input_gate": NoInputGateLSTM,
    "lstm_no_forget_gate": NoForgetGateLSTM,
    "lstm_no_output_gate": NoOutputGateLSTM,
    "peephole_lstm": PeepholeLSTM,
    "full_peephole_lstm": FullPeepholeLSTM,
    "coupled_lstm": CoupledLSTM,
    "greff_cifg": CIFG,
    "greff_nig": NIG,
    "greff_nfg": NFG,
    "greff_nog": NOG,
    "greff_niaf": NIAF,
    "greff_noaf": NOAF,
    "greff_fgr": FGR,
    "gru_reset_before": GRUResetBefore,
    "gru_reset_before_z_writes": GRUResetBeforeZWrites,
    "gru_reset_after": GRUResetAfter,
    "gru_reset_after_z_writes": GRUResetAfterZWrites,
    "mut1": MUT1,
    "mut2": MUT2,
    "mut3": MUT3,
    "depth_gated_lstm": DepthGatedLSTM,
    "clockwork_rnn": ClockworkRNN,
    "grid_lstm": GridLSTM,
    "attention_lstm": AttentionLSTM,
    "memory_attention_lstm": MemoryAttentionLSTM,
    "min_gru": MinGRU,
    "min_lstm": MinLSTM,
    "ind_rnn": IndRNN,
    "layer_norm_lstm": LayerNormLSTM,
    "projection_lstm": ProjectionLSTM,
}

PAPER_NAMES: dict[str, tuple[str, dict[str, object]]] = {
    "LSTM-b (Jozefowicz et al. 2015)": ("lstm", {"forget_bias": 1.0}),
    "NP, no peepholes (Greff et al. 2015)": ("lstm", {"forget_bias": 0.0}),
    "GRU without biases (Olah 2015)": ("gru_reset_before_z_writes", {"bias": False}),
    "V, vanilla (Greff et al. 2015)": ("peephole_lstm", {"forget_bias": 0.0}),
}
"""Name of a variant in a paper → the cell and the options that give it."""


def register_cell(name: str, cell: type[Cell]) -> None:
    """Add a user-defined cell to the table CELLS, where networks, checkpoints and the export find it by name.

    The export needs nothing else: it traces `forward` through torch and runs the traced step inside a Scan. The
    requirements on such a cell are in docs/cells.md.

    Raises:
        ValueError: Another cell has the name, the name is not valid, or the class is not a subclass of Cell.
    """
    if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9_]*", name)):
        raise ValueError(
            f"{name!r} cannot be a cell's name: expected lower-case letters, digits and '_', starting with a letter"
        )
    if not (isinstance(cell, type) and issubclass(cell, Cell)):
        raise ValueError(f"{cell!r} is not a subclass of models.cells.Cell")
    if CELLS.setdefault(name, cell) is not cell:
        raise ValueError(f"the name {name!r} is taken by {CELLS[name].__name__}")


__all__ = ["CELLS", "PAPER_NAMES", "Bidirectional", "Cell", "CellOptions", "State", "register_cell"]
