"""LSTM, GRU and RNN nodes with the batch before the time, which onnxruntime does not run: rewritten with Transposes."""

from collections.abc import Iterator

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, helper

from export.graphs import all_graphs, subgraphs

RECURRENT_LAYERS = ("LSTM", "GRU", "RNN")
_STATES = (5, 6)  # initial_h and, of an LSTM, initial_c


def make_time_major(model: ModelProto) -> list[str]:
    """Rewrite every layer of `layout=1` in place; return a sentence for each.

    With layout 1 X is (batch, time, input), Y (batch, time, directions, hidden) and states (batch, directions, hidden);
    with layout 0 they are (time, batch, …), (time, directions, batch, hidden) and (directions, batch, hidden).
    """
    findings = []
    for owner in _owners(model):
        nodes = []
        for node in owner.node:
            if node.op_type in RECURRENT_LAYERS and not node.domain and _takes_layout(node):
                findings.append(
                    f"the {node.op_type} {node.name or ', '.join(node.output)!r} is of layout 1: transposed"
                )
                nodes += _transposed(node)
            else:
                nodes.append(node)
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del owner.node[:]
        owner.node.extend(copies)
    return findings


def _owners(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    # inner graphs first: a list of nodes is replaced by copies
    yield from reversed(list(all_graphs(model.graph)))
    for function in model.functions:
        for node in function.node:
            for inner in subgraphs(node):
                yield from reversed(list(all_graphs(inner)))
        yield function


def _takes_layout(node: NodeProto) -> bool:
    """Return whether a layer is of layout 1; an attribute of 0 is the default."""
    return any(attribute.name == "layout" and attribute.i == 1 for attribute in node.attribute)


def _transposed(node: NodeProto) -> list[NodeProto]:
    """Return nodes that compute what a layer of layout 1 does, by one of layout 0."""
    hint = next(name for name in node.output if name)
    layer = NodeProto()
    layer.CopyFrom(node)
    layer.name = node.name or hint
    kept = [attribute for attribute in node.attribute if attribute.name != "layout"]
    del layer.attribute[:]
    layer.attribute.extend(kept)
    before, after = [], []
    for index in (0, *_STATES):
        if index < len(node.input) and node.input[index]:
            name = f"{hint}/time_major/in_{index}"
            before.append(helper.make_node("Transpose", [node.input[index]], [name], perm=[1, 0, 2]))
            layer.input[index] = name
    for index, output in enumerate(node.output):
        if output:
            name = f"{hint}/time_major/out_{index}"
            perm = [2, 0, 1, 3] if index == 0 else [1, 0, 2]
            after.append(helper.make_node("Transpose", [name], [output], perm=perm))
            layer.output[index] = name
    return [*before, layer, *after]
