"""Keeps onnxruntime from swapping a Cast with a Transpose before a MatMul, which can end the process at load.

MatMul has no float16 kernel on a CPU, so onnxruntime puts a Cast before it. Where that Cast follows a Transpose, its
MatmulTransposeFusion swaps the two; where it then cannot fuse, as with a weight of fewer axes, it leaves nodes without
a schema, and the NchwcTransformer reads through the missing pointer (onnxruntime 1.31, x86-64).
"""

from collections.abc import Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner

from export.graphs import all_graphs


def guard_transposes(model: ModelProto) -> ModelProto:
    """Return the model with a Max of one value, which changes nothing, before each MatMul that may follow a Cast.

    The fusion does not look past a Max, and no optimiser moves a Transpose past one. It is put before operands that are
    computed in float16, or cast, in the graphs that have a Transpose, after functions are inlined. A model without any
    is returned unchanged.
    """
    guarded: ModelProto = inliner.inline_local_functions(model) if model.functions else _copy(model)
    halves = _has_halves(guarded)
    changed = [_guard(graph, halves) for graph in all_graphs(guarded.graph)]
    return guarded if any(changed) else model


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _guard(graph: GraphProto, halves: bool) -> bool:
    if all(node.op_type != "Transpose" for node in graph.node):
        return False
    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[NodeProto] = []
    guarded: set[str] = set()
    for node in graph.node:
        if node.op_type == "MatMul":
            for index, name in enumerate(node.input):
                if name not in makers or makers[name].op_type == "Max" or not (halves or _is_cast(name, makers)):
                    continue
                if name not in guarded:
                    nodes.append(helper.make_node("Max", [name], [f"{name}/held"]))
                    guarded.add(name)
                node.input[index] = f"{name}/held"
        nodes.append(node)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return bool(guarded)


def _is_cast(name: str, makers: Mapping[str, NodeProto]) -> bool:
    """Return whether a value comes from a Cast, directly or by Identity nodes, which onnxruntime removes."""
    while name in makers and makers[name].op_type == "Identity":
        name = makers[name].input[0]
    return name in makers and makers[name].op_type in ("Cast", "CastLike")


def _has_halves(model: ModelProto) -> bool:
    """Return whether any input, constant or cast of a model is float16."""
    half = TensorProto.FLOAT16
    return any(
        any(value.type.tensor_type.elem_type == half for value in graph.input)
        or any(tensor.data_type == half for tensor in graph.initializer)
        or any(
            attribute.t.data_type == half or (attribute.name in ("to", "dtype") and attribute.i == half)
            for node in graph.node
            for attribute in node.attribute
        )
        for graph in all_graphs(model.graph)
    )
