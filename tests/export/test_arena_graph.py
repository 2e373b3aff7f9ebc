import numpy as np
import onnx
import pytest

from export.arena_graph import build_arena_graph
from export.arena_runner import ArenaRunner
from export.cards import network_card
from export.lower import LOWERINGS
from export.structure import check_arenas_stay
from models.cells import CELLS
from tests.export.networks import SCALERS, make_network
from tests.sweeps import sweep


def signature(values: object) -> dict[str, tuple[int, tuple[str | int, ...]]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in values  # type: ignore[attr-defined]
    }


def test_every_cell_has_a_lowering() -> None:
    """Whatever can be trained can be exported."""
    assert set(LOWERINGS) == set(CELLS.values())
    assert all(lowerings.cpu.op and lowerings.cuda.op for lowerings in LOWERINGS.values())


def test_the_graph_has_the_inputs_and_outputs_of_the_contract() -> None:
    """Names, dtypes and dimensions are those the service binds; opset and IR version are ones it can read."""
    model = build_arena_graph(make_network("lstm", num_layers=1))
    real, integer = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    assert signature(model.graph.input) == {
        "x": (real, ("batch", "time", 2)),
        "lengths": (integer, ("batch",)),
        "read_slots": (integer, ("batch",)),
        "write_slots": (integer, ("batch",)),
        "arena.layer0.h": (real, ("slots", 9)),
        "arena.layer0.c": (real, ("slots", 9)),
    }
    assert signature(model.graph.output) == {
        "y": (real, ("batch", "time", 3)),
        "state.layer0.h": (real, ("batch", 9)),
        "arena_out.layer0.h": (real, ("slots", 9)),
        "state.layer0.c": (real, ("batch", 9)),
        "arena_out.layer0.c": (real, ("slots", 9)),
    }
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]
    assert model.ir_version == 10
    onnx.checker.check_model(model, full_check=True)


def test_token_ids_come_in_as_int64_without_a_feature_axis() -> None:
    """A network with a vocabulary takes ids (batch, time)."""
    model = build_arena_graph(make_network(vocabulary=7))
    assert signature(model.graph.input)["x"] == (onnx.TensorProto.INT64, ("batch", "time"))


def test_no_weight_is_kept_twice_or_outside_the_file() -> None:
    """Equal constants are shared and everything lies in the graph itself."""
    tensors = build_arena_graph(make_network(**SCALERS)).graph.initializer
    contents = [(tensor.data_type, tuple(tensor.dims), tensor.raw_data) for tensor in tensors]
    assert len(set(contents)) == len(contents)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in tensors)


def test_a_step_costs_few_nodes() -> None:
    """One LSTM layer behind its arena, with scaler and head, is at most 17 nodes."""
    assert len(build_arena_graph(make_network(num_layers=1, **SCALERS)).graph.node) <= 17


@pytest.mark.parametrize("cell", sweep(CELLS))
def test_an_arena_of_100_000_slots_is_not_copied(cell: str) -> None:
    """In the optimised graph an arena feeds only Gather and ScatterND, and a run changes the rows it writes alone."""
    network = make_network(cell, num_layers=1)
    model = build_arena_graph(network).SerializeToString()
    check_arenas_stay(model, [spec.name for spec in network.states])

    runner = ArenaRunner(model, network_card(network, "m", 1), slots=100_000)
    before = runner.snapshot()
    read, write = np.array([0, 70_000, 5]), np.array([99_999, 2, 31_007])
    x = np.ones((3, 1, network.config.input_size), np.float32)
    outputs = runner.run({"x": x}, read, write)
    for name, arena in runner.arenas.items():
        np.testing.assert_array_equal(arena[write], outputs[f"state.{name}"])
        others = np.setdiff1d(np.arange(100_000), write)
        np.testing.assert_array_equal(arena[others], before[name][others])
