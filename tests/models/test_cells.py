import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.cells import CELLS, Cell
from models.cells.gru import GRUResetAfter, GRUResetBefore
from models.cells.lstm import LSTM
from tests.models.oracles import ORACLES

INPUT, HIDDEN, TIME, BATCH = 5, 8, 50, 3


def make_cell(name: str) -> Cell:
    torch.manual_seed(7)
    return CELLS[name](HIDDEN if CELLS[name].square else INPUT, HIDDEN)


def random_run(cell: Cell) -> tuple[Tensor, tuple[Tensor, ...]]:
    torch.manual_seed(11)
    x = torch.randn(TIME, BATCH, cell.input_size)
    return x, cell.random_state(BATCH, torch.Generator().manual_seed(5))


def as_float64(rows: Tensor) -> np.ndarray:
    return np.asarray((rows.double() if rows.is_floating_point() else rows).numpy())


def parameters_of(cell: Cell) -> int:
    return sum(p.numel() for p in cell.parameters())


def test_every_cell_has_an_oracle() -> None:
    """Every cell has an independent implementation with which it is compared."""
    assert set(ORACLES) == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_computes_its_equations(name: str) -> None:
    """A cell agrees over 50 steps, from a non-zero state, with a float64 loop written from the paper."""
    cell = make_cell(name)
    x, state = random_run(cell)
    with torch.no_grad():
        y, after = cell.sequence(x, state)
    wanted_y, wanted = ORACLES[name](cell, x.double().numpy(), [as_float64(rows) for rows in state])
    for found, expected in zip((y, *after), (wanted_y, *wanted), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-6 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("name", CELLS)
def test_the_fast_implementation_equals_the_plain_one(name: str) -> None:
    """`sequence` gives the outputs, states and gradients of a loop over `forward`."""
    cell = make_cell(name)
    x, state = random_run(cell)
    weights = list(cell.parameters())
    y, after = cell.sequence(x, state)
    plain_y, plain_after = Cell.sequence(cell, x, state)
    fast_gradients = torch.autograd.grad(y.sum(), weights)
    plain_gradients = torch.autograd.grad(plain_y.sum(), weights)
    torch.testing.assert_close(y, plain_y, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(after, plain_after, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fast_gradients, plain_gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", CELLS)
def test_every_parameter_matters(name: str) -> None:
    """Each parameter of a cell receives a gradient, so none is unused."""
    cell = make_cell(name)
    x, state = random_run(cell)
    y, _ = cell.sequence(x, state)
    weights = dict(cell.named_parameters())
    gradients = torch.autograd.grad(y.square().sum(), list(weights.values()))
    assert not [name for name, gradient in zip(weights, gradients, strict=True) if not gradient.any()]


@pytest.mark.parametrize("name", CELLS)
def test_chunks_and_single_steps_equal_the_whole_sequence(name: str) -> None:
    """Carrying the state over chunks of any length gives the outputs and state of one run over the whole sequence."""
    cell = make_cell(name)
    x, state = random_run(cell)
    with torch.no_grad():
        whole, after = cell.sequence(x, state)
        for lengths in ([1] * TIME, [7, 1, 20, 22]):
            carried, outputs = state, []
            for chunk in torch.split(x, lengths):
                y, carried = cell.sequence(chunk, carried)
                outputs.append(y)
            torch.testing.assert_close(torch.cat(outputs), whole, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(carried, after, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CELLS)
def test_the_initial_state_is_what_the_cell_declares(name: str) -> None:
    """The initial state has a row for each sequence, in the declared shapes, order and dtypes."""
    cell = make_cell(name)
    rows = cell.initial_state(4)
    assert [tuple(row.shape) for row in rows] == [(4, *spec.shape) for spec in cell.states]
    assert all(str(row.dtype) == f"torch.{spec.dtype}" for row, spec in zip(rows, cell.states, strict=True))
    assert not any(row.any() for row in rows)


@pytest.mark.parametrize(("input_size", "hidden_size"), [(1, 1), (5, 8), (28, 128)])
def test_an_lstm_has_exactly_four_times_the_parameters_of_a_simple_network(input_size: int, hidden_size: int) -> None:
    """Three gates and a candidate take four affine maps where the simple network has one."""
    simple = parameters_of(CELLS["rnn_tanh"](input_size, hidden_size))
    assert simple == hidden_size * (input_size + hidden_size + 1)
    assert parameters_of(CELLS["lstm"](input_size, hidden_size)) == 4 * simple


def test_the_two_grus_have_the_parameters_of_three_gates() -> None:
    """A GRU takes three affine maps, and the reset-after variant one more bias for its candidate."""
    three = 3 * HIDDEN * (INPUT + HIDDEN + 1)
    assert parameters_of(make_cell("gru_reset_before")) == three
    assert parameters_of(make_cell("gru_reset_after")) == three + HIDDEN


def test_the_two_grus_differ() -> None:
    """With the same weights, resetting before and after the product give different outputs."""
    before, after = GRUResetBefore(INPUT, HIDDEN), GRUResetAfter(INPUT, HIDDEN)
    x, state = random_run(before)
    with torch.no_grad():
        w, r, b = (torch.cat([getattr(before.gates, p), getattr(before.candidate, p)]) for p in ("W", "R", "b"))
        rows = torch.cat([torch.arange(HIDDEN, 2 * HIDDEN), torch.arange(HIDDEN), torch.arange(2 * HIDDEN, 3 * HIDDEN)])
        after.gates.W.copy_(w[rows])
        after.gates.R.copy_(r[rows])
        after.gates.b.copy_(b[rows])
        after.recurrent_bias.zero_()
        difference = (before.sequence(x, state)[0] - after.sequence(x, state)[0]).abs().max()
    assert difference > 1e-2


def test_the_forget_bias_is_one_by_default_and_can_be_set() -> None:
    """The initial bias of the forget gate is one by default or as given, and that of the input gate is not."""
    options: dict[str, float]
    for options, expected in (({}, 1.0), ({"forget_bias": -2.5}, -2.5)):
        gates = LSTM(INPUT, HIDDEN, **options).gates
        assert (gates.b[gates.rows("f")] == expected).all()
        assert not (gates.b[gates.rows("i")] == expected).any()


def test_an_option_that_a_cell_does_not_have_is_refused() -> None:
    """An unknown option is an error at construction and is never silently ignored."""
    with pytest.raises(ValidationError, match="forget_bias"):
        CELLS["rnn_tanh"](INPUT, HIDDEN, forget_bias=1.0)
