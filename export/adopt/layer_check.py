"""Does onnxruntime compute the recurrent layers of a file as ONNX specifies them? Each is run alone and compared."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from export.adopt.errors import NotServableError
from export.adopt.nodes_over_time import named_node
from export.adopt.origins import is_recurrent
from export.adopt.recurrent_layers import RECURRENT_LAYERS
from export.adopt.specified_layers import NotSpecifiedError, run_layer
from export.figure import Array
from export.graphs import all_graphs, subgraphs
from export.onnx_session import single_threaded

_STEPS, _ROWS, _FEATURES, _HIDDEN = 4, 2, 4, 5
_SIZES = (0.5, 5.0)
"""Sizes of the inputs and states of the runs; they reach beyond a clip of any size as well."""
_LARGEST_CLIP = 1e4
_TOLERANCE = 1e-3
"""The largest difference, of the largest value: onnxruntime approximates tanh and the logistic function."""
_OPSET, _IR_VERSION = 17, 9
_BLOCKS = {"LSTM": 4, "GRU": 3, "RNN": 1}
_SETTINGS = ("activations", "activation_alpha", "activation_beta", "clip", "direction", "input_forget")


def check_layers(model: ModelProto) -> None:
    """Raise unless every LSTM, GRU and RNN node is computed as specified, by runs on random weights of its settings.

    Raises:
        NotServableError: One is not, or the specification does not say what its settings mean.
    """
    for node in _layers(model):
        operator = next(name for name in RECURRENT_LAYERS if node.op_type.endswith(name))
        alone = NodeProto(op_type=operator)
        alone.attribute.extend(one for one in node.attribute if one.name in (*_SETTINGS, "linear_before_reset"))
        has_peepholes = node.op_type == "LSTM" and len(node.input) > 7 and bool(node.input[7])
        if reason := _difference(alone.SerializeToString(deterministic=True), has_peepholes):
            raise NotServableError(f"the {named_node(node)} cannot be computed as ONNX specifies it: {reason}")


def _layers(model: ModelProto) -> Iterator[NodeProto]:
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    for function in model.functions:
        nodes += function.node
        nodes += [
            node
            for owner in function.node
            for inner in subgraphs(owner)
            for graph in all_graphs(inner)
            for node in graph.node
        ]
    return (node for node in nodes if is_recurrent(node))


@lru_cache(maxsize=256)
def _difference(serialized: bytes, has_peepholes: bool) -> str:
    """Return what is wrong with a layer of these settings; nothing where it is right, or onnxruntime refuses it."""
    node = NodeProto.FromString(serialized)
    settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    clip = settings.get("clip", 0.0)
    sizes = [*_SIZES, *([2.0 * clip] if 0 < clip < _LARGEST_CLIP else [])]
    for seed, size in enumerate(sizes):
        inputs = _inputs(node.op_type, settings, size, np.random.default_rng(seed), peepholes=has_peepholes)
        try:
            found = _run(node, inputs)
        except Exception:  # what onnxruntime does not load is told when the whole file is loaded
            return ""
        try:
            expected = run_layer(node, [value for _, value in inputs])
        except NotSpecifiedError as exc:
            return f"it does not say what {exc} means. Write its alpha and beta into the file, or choose another"
        for value, specified in zip(found, expected, strict=True):
            largest = float(np.abs(specified).max())
            if not np.abs(value - specified).max() <= _TOLERANCE * max(largest, 1.0):
                return _reason(node.op_type, settings)
    return ""


def _reason(operator: str, settings: dict[str, object]) -> str:
    if operator == "LSTM" and "clip" in settings:
        return (
            "onnxruntime does not clip the cell state before its activation. Export the layer without clip, or as a "
            "Scan of its steps"
        )
    given = ", ".join(sorted(settings.keys() - {"direction"})) or "its settings"
    return (
        f"onnxruntime gives something else for {given}. Export the layer with others (alpha and beta written out for "
        "each activation that takes them), or as a Scan of its steps"
    )


def _inputs(
    operator: str, settings: dict[str, object], size: float, random: np.random.Generator, *, peepholes: bool
) -> list[tuple[str, Array | None]]:
    """Return a layer's inputs by name, weights included; None for what it leaves out."""
    directions = 2 if settings.get("direction") == b"bidirectional" else 1
    width = _BLOCKS[operator] * _HIDDEN

    def draw(scale: float, *shape: int) -> Array:
        return (scale * random.standard_normal(shape)).astype(np.float32)

    inputs: list[tuple[str, Array | None]] = [
        ("x", draw(size, _STEPS, _ROWS, _FEATURES)),
        ("W", draw(0.3, directions, width, _FEATURES)),
        ("R", draw(0.3, directions, width, _HIDDEN)),
        ("B", draw(0.3, directions, 2 * width)),
        ("", None),
        ("h0", draw(size, directions, _ROWS, _HIDDEN)),
    ]
    if operator == "LSTM":
        inputs.append(("c0", draw(size, directions, _ROWS, _HIDDEN)))
        inputs.append(("P", draw(0.3, directions, 3 * _HIDDEN)) if peepholes else ("", None))
    return inputs


def _run(node: NodeProto, inputs: list[tuple[str, Array | None]]) -> list[Array]:
    layer = NodeProto()
    layer.CopyFrom(node)
    layer.input[:] = [name for name, _ in inputs]
    layer.output[:] = ["y", "h", "c"] if node.op_type == "LSTM" else ["y", "h"]
    layer.attribute.append(helper.make_attribute("hidden_size", _HIDDEN))
    feeds = {name: value for name, value in inputs if value is not None}
    graph = helper.make_graph(
        [layer],
        "layer",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in layer.output],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    return list(single_threaded(model.SerializeToString()).run(None, feeds))
