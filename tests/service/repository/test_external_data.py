"""A tensor whose values are outside the file is found wherever an ONNX file can contain one."""

import onnx
import pytest
from onnx import TensorProto, helper

from service.repository.external_data import WireError, has_external_data


def tensor(external: bool) -> TensorProto:
    made = helper.make_tensor("weights", TensorProto.FLOAT, [1], [1.0])
    if external:
        made.data_location = TensorProto.EXTERNAL
    return made


def model_with(initializer: TensorProto, constant: TensorProto) -> bytes:
    """Write a model with one tensor as an initializer, and one in a graph that is an attribute of a node."""
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=constant)], "inner", [], [])
    node = helper.make_node("If", ["condition"], ["out"], then_branch=inner, else_branch=inner)
    graph = helper.make_graph([node], "graph", [], [], [initializer])
    return bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(("initializer", "constant"), [(False, False), (True, False), (False, True)])
def test_external_data_is_found(initializer: bool, constant: bool) -> None:
    """External data is found in the graph and in the graphs inside its nodes."""
    assert has_external_data(model_with(tensor(initializer), tensor(constant))) == (initializer or constant)


def test_a_location_alone_is_external_data() -> None:
    """A tensor that names a file has external data, whatever its data_location says."""
    named = tensor(external=False)
    named.external_data.append(onnx.StringStringEntryProto(key="location", value="elsewhere"))
    assert has_external_data(model_with(named, tensor(external=False)))


def test_truncated_bytes_are_refused() -> None:
    """A file that ends within a field raises WireError."""
    data = model_with(tensor(external=False), tensor(external=False))
    with pytest.raises(WireError):
        has_external_data(data[:-1])
