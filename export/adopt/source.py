"""The foreign nodes, prepared for the served graph: a modern opset, and names that collide with no other."""

from collections.abc import Mapping

import onnx
from onnx import GraphProto, ModelProto, helper, numpy_helper

from export.adopt.errors import NotServableError
from export.figure import Array
from export.graphs import rename_values
from export.sentences import foreign_error

PREFIX = "model/"  # names that clients see hold no slash, so nothing made here collides with them
_OLDEST_OPSET = 11  # the first with ScatterND, and with all nodes made here as they are written


def modern(model: ModelProto) -> ModelProto:
    """Return a copy of a model, converted where its opset is too old.

    Raises:
        NotServableError: onnx cannot convert it.
    """
    opsets = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if not opsets or opsets[0] >= _OLDEST_OPSET:
        found = ModelProto()
        found.CopyFrom(model)
        if not opsets:
            found.opset_import.append(helper.make_opsetid("", _OLDEST_OPSET))
        return found
    try:
        return onnx.version_converter.convert_version(_with_inputs_alone(model), _OLDEST_OPSET)
    except Exception as exc:  # the converter raises many types
        raise NotServableError(
            f"the model is of opset {opsets[0]}, and onnx cannot convert it to {_OLDEST_OPSET}: {foreign_error(exc)}"
        ) from exc


def _with_inputs_alone(model: ModelProto) -> ModelProto:
    """Return the model with an IR version that need not list its weights among the inputs."""
    found = ModelProto()
    found.CopyFrom(model)
    found.ir_version = max(found.ir_version, 4)
    return found


def renamed(graph: GraphProto, constants: Mapping[str, Array]) -> GraphProto:
    """Return a copy whose names collide with none made here, with constants as weights, and without declared shapes."""
    found = GraphProto()
    found.CopyFrom(graph)
    rename_values(found, lambda name: PREFIX + name if name else "")
    for name, value in constants.items():
        found.initializer.append(numpy_helper.from_array(value, PREFIX + name))
    return found
