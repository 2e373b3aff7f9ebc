"""A graph that does not update its arena in place, or writes to other rows, is refused when it is loaded."""

import onnx
import pytest
from onnx import helper

from service.errors import ArtefactRefused
from tests.service.repository.conftest import Rewrite, load


def test_a_graph_that_copies_its_arena_is_refused(
    rewrite: Rewrite,
) -> None:
    """A graph that copies its arena at every step is refused, as its steps take longer on a large arena."""

    def copy_arena(model: onnx.ModelProto) -> None:
        scatter = next(node for node in model.graph.node if node.op_type == "ScatterND")
        twice = helper.make_node("Mul", [scatter.input[0], "two"], ["doubled"], "double")
        half = helper.make_node("Div", ["doubled", "two"], ["copied"], "halve")
        model.graph.initializer.append(helper.make_tensor("two", onnx.TensorProto.FLOAT, [1], [2]))
        at = list(model.graph.node).index(scatter)
        scatter.input[0] = "copied"
        model.graph.node.insert(at, half)
        model.graph.node.insert(at, twice)

    with pytest.raises(ArtefactRefused, match="copies its arena"):
        load(rewrite(copy_arena))


def test_a_graph_that_changes_other_rows_is_refused(
    rewrite: Rewrite,
) -> None:
    """A graph whose step changes other rows is refused."""

    def shift(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(helper.make_tensor("two", onnx.TensorProto.INT64, [1], [2]))
        model.graph.node.insert(0, helper.make_node("Add", ["write_slots", "two"], ["elsewhere"], "shift"))
        for node in list(model.graph.node)[1:]:
            for index, name in enumerate(node.input):
                if name == "write_slots":
                    node.input[index] = "elsewhere"

    with pytest.raises(ArtefactRefused, match="not to write"):
        load(rewrite(shift))
