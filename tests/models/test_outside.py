"""Comparison of the cells with other implementations: torch's modules, and torchrecurrent where it has the cell."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchrecurrent
from torch import Tensor, nn

from models.cells import CELLS, Bidirectional, Cell
from models.cells.gates import Gates

INPUT, HIDDEN, TIME, BATCH = 5, 8, 50, 3


def set_gates(gates: Gates, order: str, w: Tensor, r: Tensor, b: Tensor) -> None:
    """Copy weights whose blocks of gates are in another order, given by `order`."""
    for name, *parts in zip(order, w.chunk(len(order)), r.chunk(len(order)), b.chunk(len(order)), strict=True):
        for mine, theirs in zip((gates.W, gates.R, gates.b), parts, strict=True):
            mine[gates.rows(name)] = theirs


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch warns that it is slow
def test_the_projection_lstm_equals_torchs() -> None:
    """nn.LSTM with proj_size gives the same outputs and cell state, from the initial state."""
    torch.manual_seed(3)
    theirs = nn.LSTM(INPUT, HIDDEN, proj_size=3)
    cell = CELLS["projection_lstm"](INPUT, HIDDEN, projection=3)
    x = torch.randn(TIME, BATCH, INPUT)
    with torch.no_grad():
        w, r, b_w, b_r, v = (parameter for _, parameter in theirs.named_parameters())
        set_gates(cell.gates, "ifgo", w, r, b_w + b_r)  # type: ignore[arg-type]
        cell.V.copy_(v)  # type: ignore[operator]
        wanted, (h, c) = theirs(x)
        y, (m, cell_state) = cell.sequence(x, cell.initial_state(BATCH))
        torch.testing.assert_close(y, wanted, atol=1e-6, rtol=0)
        torch.testing.assert_close(cell_state, c[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(m @ cell.V.T, h[0], atol=1e-6, rtol=0)  # type: ignore[operator]


@pytest.mark.parametrize(("name", "module"), [("lstm", nn.LSTM), ("gru_reset_after", nn.GRU)])
def test_a_bidirectional_layer_equals_torchs(name: str, module: Callable[..., Any]) -> None:
    """torch's bidirectional modules give the same concatenated outputs, from non-zero states of both directions."""
    torch.manual_seed(3)
    theirs = module(INPUT, HIDDEN, bidirectional=True)
    cell = Bidirectional(CELLS[name](INPUT, HIDDEN), CELLS[name](INPUT, HIDDEN))
    order = "ifgo" if name == "lstm" else "rzg"
    with torch.no_grad():
        for mine, suffix in ((cell.onward, ""), (cell.backward, "_reverse")):
            w, r, b_w, b_r = (
                getattr(theirs, f"{kind}_l0{suffix}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            bias = b_w + b_r
            if name != "lstm":
                bias[2 * HIDDEN :] = b_w[2 * HIDDEN :]
                mine.recurrent_bias.copy_(b_r[2 * HIDDEN :])  # type: ignore[operator]
            set_gates(mine.gates, order, w, r, bias)  # type: ignore[arg-type]
        x = torch.randn(TIME, BATCH, INPUT)
        state = cell.random_state(BATCH, torch.Generator().manual_seed(1))
        count = len(state) // 2
        stacked = [torch.stack(pair) for pair in zip(state[:count], state[count:], strict=True)]
        wanted, _ = theirs(x, tuple(stacked) if name == "lstm" else stacked[0])
        y, _ = cell.sequence(x, state)
    torch.testing.assert_close(y, wanted, atol=1e-6, rtol=0)


def copy_gates(mine: Cell, theirs: Any) -> None:
    """Copy the four blocks of an LSTM, whose order there is i, f, g, o."""
    set_gates(mine.gates, "ifgo", theirs.weight_ih, theirs.weight_hh, theirs.bias_ih + theirs.bias_hh)  # type: ignore[arg-type]


def peephole_lstm(mine: Any, theirs: Any) -> None:
    copy_gates(mine, theirs)
    mine.P.copy_(theirs.weight_ph.view(3, -1))


def no_forget_gate(mine: Any, theirs: Any) -> None:
    set_gates(mine.gates, "igo", theirs.weight_ih, theirs.weight_hh, theirs.bias_ih + theirs.bias_hh)


def independent(mine: Any, theirs: Any) -> None:
    for target, source in ((mine.W, theirs.weight_ih), (mine.u, theirs.vector_u), (mine.b, theirs.bias_ih)):
        target.copy_(source)
    mine.b += theirs.bias_hh


def mut1(mine: Any, theirs: Any) -> None:
    """torchrecurrent has tanh(W x + b) where the paper has tanh(x): with W = 1 and b = 0 they are equal."""
    w_z, w_r, w_x = theirs.weight_ih.chunk(3)
    b_z, b_r, b_x = theirs.bias_ih.chunk(3)
    w_x.copy_(torch.eye(len(w_x)))
    b_x.zero_()
    r_r, r_h = theirs.weight_hh.chunk(2)
    c_r, c_h = theirs.bias_hh.chunk(2)
    mine.W_z.copy_(w_z)
    mine.b_z.copy_(b_z)
    set_gates(mine.reset, "r", w_r, r_r, b_r + c_r)
    mine.R_h.copy_(r_h)
    mine.b_h.copy_(c_h)


def mut2(mine: Any, theirs: Any) -> None:
    """torchrecurrent has W x in the reset gate where the paper has x: with W = 1 they are equal."""
    (w_z, w_r, w_h), (r_z, r_r, r_h) = theirs.weight_ih.chunk(3), theirs.weight_hh.chunk(3)
    b_z, b_r, b_h = (theirs.bias_ih + theirs.bias_hh).chunk(3)
    w_r.copy_(torch.eye(len(w_r)))
    set_gates(mine.update, "z", w_z, r_z, b_z)
    mine.R_r.copy_(r_r)
    mine.b_r.copy_(b_r)
    set_gates(mine.candidate, "g", w_h, r_h, b_h)


def mut3(mine: Any, theirs: Any) -> None:
    bias = theirs.bias_ih + theirs.bias_hh
    for k, (gates, name) in enumerate(((mine.update, "z"), (mine.reset, "r"), (mine.candidate, "g"))):
        set_gates(gates, name, *(part.chunk(3)[k] for part in (theirs.weight_ih, theirs.weight_hh, bias)))


@pytest.mark.parametrize(
    ("name", "module", "options", "copy"),
    [
        ("peephole_lstm", "PeepholeLSTM", {}, peephole_lstm),
        ("lstm_no_forget_gate", "OriginalLSTM", {}, no_forget_gate),
        ("ind_rnn", "IndRNN", {"activation": "tanh"}, independent),
        ("mut1", "MUT1", {}, mut1),
        ("mut2", "MUT2", {}, mut2),
        ("mut3", "MUT3", {}, mut3),
    ],
)
def test_a_cell_equals_torchrecurrents(
    name: str, module: str, options: dict[str, Any], copy: Callable[[Any, Any], None]
) -> None:
    """With the same weights, 50 steps from a non-zero state differ by at most 2e-6 times the scale."""
    torch.manual_seed(3)
    cell = CELLS[name](HIDDEN, HIDDEN, **options)
    theirs = getattr(torchrecurrent, module + "Cell")(HIDDEN, HIDDEN)
    x = torch.randn(TIME, BATCH, HIDDEN)
    state = cell.random_state(BATCH, torch.Generator().manual_seed(1))
    with torch.no_grad():
        copy(cell, theirs)
        y, after = cell.sequence(x, state)
        carried: Any = state if len(state) > 1 else state[0]
        outputs = []
        for step in x:
            carried = theirs(step, carried)
            outputs.append(carried[0] if len(state) > 1 else carried)
    wanted = torch.stack(outputs)
    last = carried if len(state) > 1 else (carried,)
    for mine, other in zip((y, *after), (wanted, *last), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6 * max(1.0, float(other.abs().max())), rtol=0)
