"""Recurrent layers rewritten to what onnxruntime and a stream take: time first, and no lengths of sequences."""

from collections.abc import Collection

from onnx import ModelProto, NodeProto, helper

from export.adopt.carried import attribute, described, set_name
from export.adopt.origins import find_step_counts
from export.graphs import all_graphs, subgraphs

_LAYERS = ("LSTM", "GRU", "RNN")
_LENGTHS = 4
_TO_TIME_FIRST = [1, 0, 2]
_Y_TO_BATCH_FIRST = [2, 0, 1, 3]


def plain_layers(model: ModelProto, named: Collection[str] = ()) -> tuple[ModelProto, tuple[str, ...]]:
    """Return a model whose layers have the time first and read no lengths from an input, and what was changed.

    Every step that a client sends counts, so an input of lengths is the number of steps at all times. Those that the
    user has `named` in an option stay.
    """
    lengths = _removable_lengths(model) - set(named)
    batch_first = [n for n in model.graph.node if n.op_type in _LAYERS and attribute(n, "layout", 0) == 1]
    if not lengths and not batch_first:
        return model, ()
    changed = ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    findings = [f"input {name}: the number of steps, which is that of the steps sent" for name in sorted(lengths)]
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type in _LAYERS and len(node.input) > _LENGTHS and node.input[_LENGTHS] in lengths:
            node.input[_LENGTHS] = ""
        if node.op_type in _LAYERS and attribute(node, "layout", 0) == 1:
            findings.append(f"{described(node)} has the batch first (layout 1): it is rewritten with the time first")
            nodes += _time_first(node)
        else:
            nodes.append(node)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [value for value in graph.input if value.name not in lengths]
    del graph.input[:]
    graph.input.extend(kept)
    return changed, tuple(findings)


def _removable_lengths(model: ModelProto) -> set[str]:
    """Return the inputs that only tell layers how many steps there are."""
    names = {value.name for value in model.graph.input} & find_step_counts(model)
    if any(list(subgraphs(node)) for graph in all_graphs(model.graph) for node in graph.node):
        return set()
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name in names and not (node.op_type in _LAYERS and at == _LENGTHS):
                names.discard(name)
    return names - {value.name for value in model.graph.output}


def _time_first(node: NodeProto) -> list[NodeProto]:
    before: list[NodeProto] = []
    after: list[NodeProto] = []
    name = node.name = node.name or next(filter(None, node.output))
    for at in (0, 5, 6):
        if at < len(node.input) and node.input[at]:
            turned = f"{name}/time_first/in{at}"
            before.append(helper.make_node("Transpose", [node.input[at]], [turned], perm=_TO_TIME_FIRST))
            set_name(node.input, at, turned)
    for at, output in enumerate(node.output):
        if output:
            turned = f"{name}/time_first/out{at}"
            perm = _TO_TIME_FIRST if at else _Y_TO_BATCH_FIRST
            after.append(helper.make_node("Transpose", [turned], [output], perm=perm))
            node.output[at] = turned
    kept = [one for one in node.attribute if one.name != "layout"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return [*before, node, *after]
