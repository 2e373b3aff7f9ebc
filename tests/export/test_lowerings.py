"""Which ONNX nodes each cell becomes on which target, and that every lowering computes the cell."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import GraphProto, NodeProto, helper

from benchmarks.cells.suite import small_network
from export.arena_graph import build_arena_graph
from export.lower import LOWERINGS, Target
from export.lower.lstm import SATURATED
from export.verify import verify
from models.cells import CELLS
from tests.sweeps import sweep

RECURRENT = {"RNN", "LSTM", "GRU", "Scan"}
TARGETS: tuple[Target, ...] = ("cpu", "cuda")


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """List the nodes of a graph and of all graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def worst(name: str, target: Target = "cpu", **fields: Any) -> float:
    network = small_network(name, **fields)
    model = build_arena_graph(network, target).SerializeToString()
    return max(verify(network, model).errors.values())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_lowered_to_the_node_that_it_declares(cell: str, target: Target) -> None:
    """What `python -m models list` prints is what is in the graph, once a layer, in operators of ONNX itself."""
    model = build_arena_graph(small_network(cell), target)
    onnx.checker.check_model(model, full_check=True)
    found = [node.op_type for node in nodes(model.graph) if node.op_type in RECURRENT]
    assert found == [getattr(CELLS[cell].onnx, target)] * 2
    assert LOWERINGS[CELLS[cell]].on(target).op == found[0]
    assert {opset.domain for opset in model.opset_import} == {""}


@pytest.mark.parametrize("cell", CELLS)
def test_on_cuda_no_native_node_falls_back(cell: str) -> None:
    """For CUDA there is no peephole, no activation of another kind, no coupling and no reset before the product."""
    for node in nodes(build_arena_graph(small_network(cell), "cuda").graph):
        if node.op_type not in RECURRENT - {"Scan"}:
            continue
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert not given.keys() & {"activation_alpha", "activation_beta", "clip", "input_forget", "layout"}
        assert given.get("activations", [b"Tanh"]) == [b"Tanh"]
        assert len(node.input) <= 7, "P"
        if node.op_type == "GRU":
            assert given["linear_before_reset"] == 1


@pytest.mark.parametrize("cell", sweep(name for name, cell in CELLS.items() if cell.onnx.cpu != cell.onnx.cuda))
def test_the_lowering_for_cuda_computes_the_same(cell: str) -> None:
    """Where the lowerings differ, the one for CUDA agrees with torch as well (run on a CPU)."""
    assert worst(cell, "cuda") < 5e-6


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("peepholes", sweep(["i", "f", "o", "if", "oi", "fo", "ofi"], {"o", "fo"}))
def test_any_subset_of_peepholes_is_exact(peepholes: str, target: Target) -> None:
    """Peepholes on any of the gates, named in any sequence, agree with torch."""
    assert worst("peephole_lstm", target, cell_options={"peepholes": peepholes}) < 5e-6


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("greff_nig", {"peepholes": "o"}),
        ("greff_cifg", {"peepholes": "i"}),
        ("greff_fgr", {"peepholes": "f"}),
        ("grid_lstm", {"output": "standard", "blocks": 1}),
        ("attention_lstm", {"window": 1, "attention_size": 3}),
        ("attention_lstm", {"window": 20}),
        ("memory_attention_lstm", {"rows": 1, "row_size": 1, "attention_size": 1}),
        ("memory_attention_lstm", {"rows": 40, "row_size": 5}),
        ("gru_reset_before", {"bias": False}),
        ("gru_reset_before_z_writes", {"bias": False}),
        ("gru_reset_after", {"bias": False}),
        ("gru_reset_after_z_writes", {"bias": False}),
        ("depth_gated_lstm", {"layers": 1}),
        ("depth_gated_lstm", {"layers": 3}),
        ("clockwork_rnn", {"periods": (3, 7)}),
        ("ind_rnn", {"activation": "tanh"}),
        ("projection_lstm", {"projection": 1}),
        ("layer_norm_lstm", {"gain": 0.15}),
    ],
)
def test_options_change_what_is_exported_with_what_is_trained(cell: str, options: dict[str, Any]) -> None:
    """Every choice a cell offers agrees with torch."""
    assert worst(cell, cell_options=options) < 1e-5


@pytest.mark.parametrize("fields", [{"residual": True, "input_size": 8}, {"bidirectional": True}, {"vocabulary": 9}])
@pytest.mark.parametrize("cell", ["lstm", "mut3", "clockwork_rnn"])
def test_native_and_stepped_cells_can_be_stacked(cell: str, fields: dict[str, Any]) -> None:
    """Residual and bidirectional stacks and embeddings agree with torch over native nodes and over Scan."""
    assert worst(cell, **fields) < 5e-6


def test_a_missing_gate_is_open_to_the_last_bit() -> None:
    """onnxruntime's sigmoid of the bias that stands for a missing gate is exactly one, alone and in a wide row."""
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["a"], ["b"])],
        "g",
        [helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in (1, 7, 64):
        assert (session.run(None, {"a": np.full(size, SATURATED, np.float32)})[0] == 1.0).all()


def test_a_lowering_for_an_unknown_target_is_an_error() -> None:
    """An unknown target is never taken for a known one."""
    with pytest.raises(KeyError):
        build_arena_graph(small_network("lstm"), "tpu")  # type: ignore[arg-type]
