"""The foreign nodes, made ready to stand inside a graph of ours: a modern opset, and names that meet no other."""

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto, helper, numpy_helper

from export.adopt.errors import NotServableError
from export.adopt.plan import Array
from export.graphs import rename_values
from export.sentences import foreign_error

PREFIX = "model/"  # names that clients see hold no slash, so nothing made here meets them
_OLDEST_OPSET = 11  # ScatterND came with it; from here on all nodes made here have one form


def modern(model: ModelProto) -> ModelProto:
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not opsets or opsets[0] >= _OLDEST_OPSET:
        found = ModelProto()
        found.CopyFrom(model)
        if not opsets:
            found.opset_import.append(helper.make_opsetid("", _OLDEST_OPSET))
        return found
    try:
        return onnx.version_converter.convert_version(_with_inputs_alone(model), _OLDEST_OPSET)
    except Exception as exc:  # the converter raises whatever its C++ part does
        raise NotServableError(
            f"the model is of opset {opsets[0]}, and onnx cannot convert it to {_OLDEST_OPSET}: {foreign_error(exc)}"
        ) from exc


def _with_inputs_alone(model: ModelProto) -> ModelProto:
    """Return the model with its IR raised to one that need not list its weights among the inputs."""
    found = ModelProto()
    found.CopyFrom(model)
    found.ir_version = max(found.ir_version, 4)
    return found


def renamed(graph: GraphProto, constants: Mapping[str, Array]) -> GraphProto:
    """Return a copy in which no name meets one made here, constants are weights, and no shape is declared."""
    found = GraphProto()
    found.CopyFrom(graph)
    rename_values(found, lambda name: PREFIX + name if name else "")
    for name, value in constants.items():
        found.initializer.append(numpy_helper.from_array(value, PREFIX + name))
    return found
