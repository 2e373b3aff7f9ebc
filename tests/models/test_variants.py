"""The table of cells: no variant duplicates another, and each has the number of parameters its equations imply."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch

from models.__main__ import main
from models.cells import CELLS, PAPER_NAMES, Cell
from models.cells.lstm import LSTM
from models.network import Network, NetworkConfig

ROOT = Path(__file__).resolve().parents[2]
INPUT, HIDDEN = 8, 16


def made(name: str) -> Cell:
    torch.manual_seed(5)
    return CELLS[name](HIDDEN if CELLS[name].square else INPUT, HIDDEN)


def shapes(cell: Cell) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in cell.named_parameters()}


def pairs_with_equal_shapes() -> list[tuple[str, str]]:
    """Return the pairs of cells whose weights have the same names and shapes."""
    return [pair for pair in combinations(CELLS, 2) if shapes(made(pair[0])) == shapes(made(pair[1]))]


@pytest.mark.parametrize(("one", "other"), pairs_with_equal_shapes())
def test_no_variant_duplicates_another(one: str, other: str) -> None:
    """Two cells whose weights have the same names and shapes give different outputs with the same weights."""
    first, second = made(one), made(other)
    second.load_state_dict(first.state_dict())
    state = first.random_state(3, torch.Generator().manual_seed(1))
    x = torch.randn(20, 3, first.input_size)
    with torch.no_grad():
        assert (first.sequence(x, state)[0] - second.sequence(x, state)[0]).abs().max() > 1e-2


def test_each_cell_is_a_class_of_its_own() -> None:
    """No class is in the table twice, and every cell states its source and its equations."""
    assert len(set(CELLS.values())) == len(CELLS)
    for cell in CELLS.values():
        assert cell.source
        assert "=" in (cell.__doc__ or "")


# number of parameters with one bias for each gate; i is the input size, h the hidden size
COUNTS: dict[str, Callable[[int, int], int]] = {
    "rnn_tanh": lambda i, h: h * (i + h + 1),
    "lstm": lambda i, h: 4 * h * (i + h + 1),
    "lstm_1997": lambda i, h: 3 * h * (i + h + 1),
    "lstm_no_input_gate": lambda i, h: 3 * h * (i + h + 1),
    "peephole_lstm": lambda i, h: 4 * h * (i + h + 1) + 3 * h,
    "full_peephole_lstm": lambda i, h: 3 * h * (2 * h + i) + h * (h + i) + 4 * h,
    "coupled_lstm": lambda i, h: 3 * h * (i + h + 1),
    "greff_cifg": lambda i, h: 3 * h * (i + h + 1) + 2 * h,
    "greff_nig": lambda i, h: 3 * h * (i + h + 1) + 2 * h,
    "greff_noaf": lambda i, h: 4 * h * (i + h + 1) + 3 * h,
    "greff_fgr": lambda i, h: 4 * h * (i + h + 1) + 3 * h + 9 * h * h,
    "gru_reset_before": lambda i, h: 3 * h * (i + h + 1),
    "gru_reset_after": lambda i, h: 3 * h * (i + h + 1) + h,
    "mut1": lambda _, h: 4 * h * h + 3 * h,
    "mut2": lambda _, h: 5 * h * h + 3 * h,
    "mut3": lambda i, h: 3 * h * (i + h + 1),
    "depth_gated_lstm": lambda i, h: (
        4 * h * (i + h + 1) + 3 * h + 2 * h * i + 2 * h + 4 * h * (2 * h + 1) + 3 * h + h * h + 3 * h
    ),
    "clockwork_rnn": lambda i, h: h * i + h + h * h * 5 // 8,
    "grid_lstm": lambda i, h: 2 * (16 * h * h + 8 * h) + 2 * h * i,
    "attention_lstm": lambda i, h: 32 * (2 * h + i) + 32 + 4 * h * (h + i + 1),
    "memory_attention_lstm": lambda i, h: 32 * (32 + h) + 2 * 32 + 4 * h * (h + i + 32 + 1),
    "min_gru": lambda i, h: 2 * h * (i + 1),
    "min_lstm": lambda i, h: 3 * h * (i + 1),
    "ind_rnn": lambda i, h: h * i + 2 * h,
    "layer_norm_lstm": lambda i, h: 4 * h * (i + h + 1) + 18 * h,
    "projection_lstm": lambda i, h: 4 * h * (i + h // 2 + 1) + h * h // 2,
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_cell_has_the_parameters_of_its_equations(name: str) -> None:
    """The number of parameters is the one that follows from the equations and the input and hidden size."""
    assert sum(parameter.numel() for parameter in made(name).parameters()) == COUNTS[name](INPUT, HIDDEN)


@pytest.mark.parametrize("paper", PAPER_NAMES)
def test_a_variant_named_in_a_paper_can_be_built(paper: str) -> None:
    """The cell and options of every name in PAPER_NAMES build a network."""
    cell, options = PAPER_NAMES[paper]
    Network(NetworkConfig(cell=cell, input_size=3, hidden_size=8, output_size=1, cell_options=options))


def test_the_base_class_of_the_variants_computes_an_lstm() -> None:
    """The equations that the variants share, without any change, give the outputs of torch's fused LSTM."""
    cell = LSTM(INPUT, HIDDEN)
    state = cell.random_state(3, torch.Generator().manual_seed(1))
    x = torch.randn(9, 3, INPUT)
    torch.testing.assert_close(Cell.sequence(cell, x, state), cell.sequence(x, state), atol=1e-6, rtol=1e-5)


def test_the_list_has_a_line_for_each_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m models list` prints each cell's family, states, operators and source, and what does not stream."""
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, cell in CELLS.items():
        (line,) = (line for line in lines if line.replace("│", " ").split()[:1] == [name])
        for part in (cell.family(), made(name).states[-1].name, "yes", cell.onnx.cpu, cell.onnx.cuda, cell.source[:30]):
            assert part in line
    assert any("bidirectional" in line and " no " in line for line in lines)
    assert main(["lost"]) == 2
    assert main(["--help"]) == 0


def test_the_guide_has_every_cell() -> None:
    """The tables in docs/cells.md list exactly the cells, and the text names every composition and paper name."""
    text = (ROOT / "docs" / "cells.md").read_text()
    rows = [line.split("|")[1].strip().strip("`") for line in text.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(CELLS)
    for word in (*(name.split(" (")[0] for name in PAPER_NAMES), "residual", "bidirectional", "register_cell"):
        assert word in text
