from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import ModelProto, helper
from torch import Tensor

from export import ParityError, export_network
from export.arena_graph import build_arena_graph
from export.errors import ForeignRowError
from export.lower import LOWERINGS, CellInput, CellLowerings, CellOutput, GraphBuilder, Lowering
from export.lower.native import gate_rows, native_node
from export.verify import verify
from models.cells import CELLS, Cell
from models.cells.gru import GRUResetAfter, GRUResetBefore
from models.cells.lstm import LSTM
from models.network import Network
from tests.export.networks import SCALERS, make_network

COMPARISONS = {"whole_sequence", "one_step_at_a_time", "random_chunks", "ragged_batch", "initial_state"}


def verify_network(network: Network) -> dict[str, float]:
    return verify(network, build_arena_graph(network).SerializeToString()).errors


# whole cells, trained, saved, exported and served, go through tests/benchmarks/test_cells.py
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "gru_reset_before", "gru_reset_after", "mut3"])
def test_onnxruntime_computes_what_torch_computes(cell: str) -> None:
    """Whole, step by step, in chunks, in ragged batches, and from a non-zero state, within 1e-5 of the scale."""
    errors = verify_network(make_network(cell))
    assert set(errors) == COMPARISONS
    assert max(errors.values()) < 5e-6


@pytest.mark.parametrize("fields", [SCALERS, {"vocabulary": 7}, {"num_layers": 1, "hidden_size": 1}])
def test_scalers_embeddings_and_small_sizes_agree(fields: dict[str, Any]) -> None:
    """Scalers and embeddings are verified with the cells."""
    assert max(verify_network(make_network(**fields)).values()) < (3e-5 if fields is SCALERS else 1e-5)


def test_the_figures_depend_on_the_seed_alone() -> None:
    """Verifying twice gives the same figures."""
    assert verify_network(make_network()) == verify_network(make_network())


def lstm_with_torchs_rows(graph: GraphBuilder, cell: LSTM, cell_input: CellInput) -> CellOutput:
    w, r, b = gate_rows(cell.gates, "ifgo")
    return native_node(graph, "LSTM", cell_input, (w, r, b, torch.zeros_like(b)), cell.hidden_size)


def lstm_with_swapped_states(graph: GraphBuilder, cell: LSTM, cell_input: CellInput) -> CellOutput:
    w, r, b = gate_rows(cell.gates, "iofg")
    swapped = CellInput(cell_input.x, cell_input.lengths, cell_input.states[::-1])
    return native_node(graph, "LSTM", swapped, (w, r, b, torch.zeros_like(b)), cell.hidden_size)


def lstm_without_lengths(graph: GraphBuilder, cell: LSTM, cell_input: CellInput) -> CellOutput:
    w, r, b = gate_rows(cell.gates, "iofg")
    blind = CellInput(cell_input.x, "", cell_input.states)
    return native_node(graph, "LSTM", blind, (w, r, b, torch.zeros_like(b)), cell.hidden_size)


def gru_after(
    graph: GraphBuilder, cell: GRUResetAfter, cell_input: CellInput, names: str, lbr: int, sign: float
) -> CellOutput:
    w, r, b = gate_rows(cell.gates, names)
    signs = torch.ones_like(b)
    signs[: cell.hidden_size] = sign
    bias = cell.full_recurrent_bias()
    weights: tuple[Tensor, Tensor, Tensor, Tensor] = (w * signs[:, None], r * signs[:, None], b * signs, bias)
    return native_node(graph, "GRU", cell_input, weights, cell.hidden_size, linear_before_reset=lbr)


def gru_with_swapped_gates(graph: GraphBuilder, cell: GRUResetAfter, cell_input: CellInput) -> CellOutput:
    return gru_after(graph, cell, cell_input, "rzg", 1, 1.0)


def gru_with_negated_update(graph: GraphBuilder, cell: GRUResetAfter, cell_input: CellInput) -> CellOutput:
    return gru_after(graph, cell, cell_input, "zrg", 1, -1.0)


def gru_after_as_before(graph: GraphBuilder, cell: GRUResetAfter, cell_input: CellInput) -> CellOutput:
    return gru_after(graph, cell, cell_input, "zrg", 0, 1.0)


def gru_before_as_after(graph: GraphBuilder, cell: GRUResetBefore, cell_input: CellInput) -> CellOutput:
    pairs = zip(gate_rows(cell.gates, "zr"), gate_rows(cell.candidate, "g"), strict=True)
    w, r, b = (torch.cat(pair) for pair in pairs)
    weights = (w, r, b, torch.zeros_like(b))
    return native_node(graph, "GRU", cell_input, weights, cell.hidden_size, linear_before_reset=1)


@pytest.mark.parametrize(
    ("name", "wrong", "comparison"),
    [
        ("lstm", lstm_with_torchs_rows, "whole_sequence"),
        ("lstm", lstm_with_swapped_states, "one_step_at_a_time"),
        ("lstm", lstm_without_lengths, "ragged_batch"),
        ("gru_reset_after", gru_with_swapped_gates, "whole_sequence"),
        ("gru_reset_after", gru_with_negated_update, "whole_sequence"),
        ("gru_reset_after", gru_after_as_before, "whole_sequence"),
        ("gru_reset_before", gru_before_as_after, "whole_sequence"),
    ],
)
def test_a_wrong_lowering_is_caught_and_leaves_nothing(
    name: str,
    wrong: Callable[[GraphBuilder, Cell, CellInput], CellOutput],
    comparison: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Permuted gates, a negated update gate, the other GRU, or ignored lengths fail by far, and by name."""
    monkeypatch.setitem(LOWERINGS, CELLS[name], CellLowerings.same(Lowering("LSTM", wrong)))
    with pytest.raises(ParityError, match=comparison) as caught:
        export_network(make_network(name), tmp_path / "artifacts", "demo", 1)
    assert caught.value.comparison == comparison
    assert caught.value.error > 1000 * caught.value.tolerance
    assert not list(tmp_path.iterdir())


def write_elsewhere(model: ModelProto) -> None:
    """Write a row to slot 0 after all others."""
    (scatter,) = (node for node in model.graph.node if "arena_out.layer0.h" in node.output)
    zero = helper.make_tensor("nowhere", 7, [1, 1, 1], [0])
    model.graph.initializer.append(zero)
    arena, indices, rows = scatter.input
    model.graph.node.insert(0, helper.make_node("Constant", [], ["first"], value_ints=[0]))
    at = list(model.graph.node).index(scatter)
    model.graph.node.insert(at, helper.make_node("Gather", [rows, "first"], ["row"], axis=1))
    model.graph.node.insert(at + 1, helper.make_node("Concat", [rows, "row"], ["more_rows"], axis=1))
    model.graph.node.insert(at + 2, helper.make_node("Concat", [indices, "nowhere"], ["more_slots"], axis=1))
    scatter.input[:] = [arena, "more_slots", "more_rows"]


def test_a_run_that_writes_a_foreign_row_is_caught() -> None:
    """A graph that writes slot 0, or any row it was not told to, is refused."""
    network = make_network(num_layers=1)
    model = build_arena_graph(network)
    write_elsewhere(model)
    with pytest.raises(ForeignRowError, match=r"slots \[0\] of arena\.layer0\.h"):
        verify(network, model.SerializeToString())
