import onnx
import pytest
from onnx import ModelProto, helper

from export.arena_graph import build_arena_graph
from export.errors import ArenaCopiedError
from export.structure import check_arenas_stay
from tests.export.networks import make_network


def lstm_graph() -> tuple[ModelProto, list[str]]:
    network = make_network(num_layers=1)
    return build_arena_graph(network), [spec.name for spec in network.states]


def test_a_second_reader_of_an_arena_is_refused() -> None:
    """A graph that reads a whole arena anywhere else is no artefact."""
    model, states = lstm_graph()
    model.graph.node.append(helper.make_node("ReduceSum", ["arena.layer0.h"], ["total"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("total", onnx.TensorProto.FLOAT, []))
    with pytest.raises(ArenaCopiedError, match=r"arena\.layer0\.h must feed.*ReduceSum"):
        check_arenas_stay(model.SerializeToString(), states)


def test_an_arena_that_is_copied_after_the_scatter_is_refused() -> None:
    """A graph that computes arena_out from a copy is refused, though its address would not change."""
    model, states = lstm_graph()
    (scatter,) = (node for node in model.graph.node if "arena_out.layer0.c" in node.output)
    scatter.output[0] = "scattered"
    model.graph.node.append(helper.make_node("Neg", ["scattered"], ["arena_out.layer0.c"]))
    with pytest.raises(ArenaCopiedError, match=r"arena_out\.layer0\.c comes from Neg"):
        check_arenas_stay(model.SerializeToString(), states)


def test_a_state_without_an_arena_is_refused() -> None:
    """A state that the graph does not carry is noticed."""
    model, _ = lstm_graph()
    with pytest.raises(ArenaCopiedError, match="feeds nothing"):
        check_arenas_stay(model.SerializeToString(), ["layer9.h"])
