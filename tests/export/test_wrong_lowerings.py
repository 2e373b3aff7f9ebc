"""Lowerings with the mistakes that are easily made in them fail the verification, by far."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.cells.suite import small_network
from export.arena_graph import build_arena_graph
from export.errors import ParityError
from export.lower import LOWERINGS, CellInput, CellLowerings, CellOutput, GraphBuilder, Lowering, lstm, scan
from export.lower.elementwise import project_min_gru
from export.lower.gru import gru_node, lower_reset_before
from export.lower.lstm_scan import step_full_peephole
from export.lower.native import gate_rows, native_node
from export.lower.scan import States, lower_step
from export.lower.structured import step_clockwork
from export.lower.value import Value
from export.verify import verify
from models.cells import CELLS


def gates_as_torch_lists_them(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    w, r, b = gate_rows(cell.gates, "ifgo")
    return native_node(graph, "LSTM", given, (w, r, b, torch.zeros_like(b)), cell.hidden_size)


def peepholes_as_gates_are_listed(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    """P as i, f, o, where ONNX has i, o, f."""
    w, r, b = lstm.lstm_weights(cell)
    weights = (w, r, b, torch.zeros_like(b))
    return native_node(graph, "LSTM", given, weights, cell.hidden_size, peepholes=cell.P.flatten())


def coupled_gate_as_it_is(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    w, r, b = (torch.cat(parts) for parts in zip(*(gate_rows(cell.gates, name) for name in "fofg"), strict=True))
    return native_node(graph, "LSTM", given, (w, r, b, torch.zeros_like(b)), cell.hidden_size)


def update_gate_of_mut_as_it_is(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    reset = (torch.eye(cell.hidden_size), cell.R_r, cell.b_r)
    return gru_node(graph, given, gate_rows(cell.update, "z"), reset, gate_rows(cell.candidate, "g"))


def projection_left_out(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    """The recurrent weights folded with the projection of another cell."""
    w, r, b = gate_rows(cell.gates, "iofg")
    weights = (w, r @ cell.V.flip(0), b, torch.zeros_like(b))
    output = native_node(graph, "LSTM", given, weights, cell.hidden_size)
    return CellOutput((Value(graph, output.y) @ cell.V.T).name, output.states)


def output_gate_sees_the_old_memory(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    def step(cell: Any, x: Value, state: States) -> tuple[Value, States]:
        y, (h, _) = step_full_peephole(cell, x, state)
        return y, (h, state[1])

    return lower_step(graph, cell, given, step)


def clock_that_stands(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    def step(cell: Any, x: Value, state: States) -> tuple[Value, States]:
        y, (h, _) = step_clockwork(cell, x, state)
        return y, (h, state[1])

    return lower_step(graph, cell, given, step)


def update_written_twice(graph: GraphBuilder, cell: Any, given: CellInput) -> CellOutput:
    def step(cell: Any, x: Value, state: States) -> tuple[Value, States]:
        written, keep = x.split(cell.hidden_size, cell.hidden_size)
        h = keep * state[0] + written
        return h, (h,)

    return lower_step(graph, cell, given, step, project_min_gru)


WRONG: list[tuple[str, Callable[..., CellOutput]]] = [
    ("lstm", gates_as_torch_lists_them),
    ("peephole_lstm", peepholes_as_gates_are_listed),
    ("coupled_lstm", coupled_gate_as_it_is),
    ("gru_reset_before_z_writes", lower_reset_before),
    ("mut2", update_gate_of_mut_as_it_is),
    ("projection_lstm", projection_left_out),
    ("full_peephole_lstm", output_gate_sees_the_old_memory),
    ("clockwork_rnn", clock_that_stands),
    ("min_gru", update_written_twice),
]


@pytest.mark.parametrize(("cell", "wrong"), WRONG)
def test_a_wrong_lowering_fails(cell: str, wrong: Callable[..., CellOutput], monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates or peepholes permuted, a gate not negated, a state not carried: each is found."""
    monkeypatch.setitem(LOWERINGS, CELLS[cell], CellLowerings.same(Lowering("LSTM", wrong)))
    network = small_network(cell)
    with pytest.raises(ParityError) as caught:
        verify(network, build_arena_graph(network).SerializeToString())
    assert caught.value.error > 100 * caught.value.tolerance


def test_a_scan_that_runs_past_a_sequences_end_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that does not keep the state of a row that has ended is found in a batch of other lengths."""
    monkeypatch.setattr(scan, "_hold", lambda goes_on, spec, new, old: new.op("Identity"))
    network = small_network("mut3")
    with pytest.raises(ParityError, match="ragged_batch"):
        verify(network, build_arena_graph(network).SerializeToString())
