"""Inputs that tell recurrent layers how many steps there are: the number of steps itself, which nobody need send."""

from collections.abc import Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from export.adopt.options import AdoptOptions
from export.adopt.origins import PASSING, SEQUENCE_LENS, find_step_counts, is_recurrent
from export.graphs import all_graphs


def compute_step_counts(model: ModelProto, options: AdoptOptions) -> list[str]:
    """Remove the inputs that only count steps, in place; return a sentence for each.

    A layer without lengths runs all steps that it is given. Where something else reads the lengths too, they are
    computed from the shape of what the layer is given. Inputs that the user gives a value, and those whose length
    decides what reaches the layer, are left as they are.
    """
    graph = model.graph
    inputs = {value.name: value for value in graph.input}
    findings = []
    for name in sorted(find_step_counts(model)):
        if name not in inputs or name in options.constants or name in options.states:
            continue
        value = inputs[name]
        aliases, others = _readers(graph, name)
        layers = [node for node in graph.node if _lengths_of(node) in aliases]
        computed: list[NodeProto] = []
        if others:
            data = layers[0].input[0]
            rank = len(value.type.tensor_type.shape.dim)
            if rank != 1 or name in _ancestors(graph, data):
                continue
            computed = _count_nodes(graph, data, name, value.type.tensor_type.elem_type)
        for node in layers:
            node.input[SEQUENCE_LENS] = ""
        if not others:
            _drop(graph, [node for node in graph.node if aliases & set(node.output)])
        graph.input.remove(value)
        _insert_after(graph, computed, layers[0].input[0])
        findings.append(f"input {name} is the number of steps: it is counted, and clients do not send it")
    return findings


def _lengths_of(node: NodeProto) -> str:
    return node.input[SEQUENCE_LENS] if is_recurrent(node) and len(node.input) > SEQUENCE_LENS else ""


def _readers(graph: GraphProto, name: str) -> tuple[set[str], bool]:
    """Return the names under which a value is passed on, and whether anything but layers' lengths reads it."""
    aliases, others = {name}, False
    for node in graph.node:  # in order of computation
        if not aliases & set(node.input):
            continue
        if node.op_type in PASSING and node.input[0] in aliases:
            aliases |= set(node.output)
        elif _lengths_of(node) not in aliases or sum(one in aliases for one in node.input) > 1:
            others = True
    inner = [node for owner in all_graphs(graph) if owner is not graph for node in owner.node]
    others |= any(aliases & set(node.input) for node in inner)
    return aliases, others or any(output.name in aliases for output in graph.output)


def _ancestors(graph: GraphProto, name: str) -> set[str]:
    """Return every value that a value is computed from, and itself."""
    makers = {output: node for node in graph.node for output in node.output}
    found, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += makers[one].input if one in makers else []
    return found


def _count_nodes(graph: GraphProto, data: str, name: str, element_type: int) -> list[NodeProto]:
    """Return nodes that compute lengths, (batch,), from a layer's data, (time, batch, features)."""
    zero, one = f"{name}/first_axis", f"{name}/second_axis"
    graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), zero))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), one))
    return [
        helper.make_node("Shape", [data], [f"{name}/shape"]),
        helper.make_node("Gather", [f"{name}/shape", zero], [f"{name}/steps"]),
        helper.make_node("Gather", [f"{name}/shape", one], [f"{name}/rows"]),
        helper.make_node("Expand", [f"{name}/steps", f"{name}/rows"], [f"{name}/lengths"]),
        helper.make_node("Cast", [f"{name}/lengths"], [name], to=element_type),
    ]


def _drop(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    for node in list(nodes):
        graph.node.remove(node)


def _insert_after(graph: GraphProto, nodes: list[NodeProto], name: str) -> None:
    """Insert nodes behind the one that computes a value."""
    at = next((index + 1 for index, node in enumerate(graph.node) if name in node.output), 0)
    for node in reversed(nodes):
        graph.node.insert(at, node)
