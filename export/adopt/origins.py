"""Which inputs of a model reach certain nodes unchanged but for their shape and dtype."""

from onnx import ModelProto, NodeProto

from export.adopt.recurrent_layers import RECURRENT_LAYERS
from export.graphs import all_graphs

PASSING = ("Cast", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Identity", "Flatten")
"""Operators that change a value in shape or dtype at most."""
_RECURRENT_LAYERS = {"": RECURRENT_LAYERS, "ai.onnx": RECURRENT_LAYERS, "com.microsoft": ("DynamicQuantizeLSTM",)}
SEQUENCE_LENS = 4
"""The input of a recurrent layer that holds the sequences' lengths."""


def is_recurrent(node: NodeProto) -> bool:
    """Return whether a node is a recurrent layer of ONNX's or onnxruntime's."""
    return node.op_type in _RECURRENT_LAYERS.get(node.domain, ())


class _Origins:
    """Traces values back through nodes that pass them on."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
        self._makers = {name: node for node in self.nodes for name in node.output}

    def of(self, name: str) -> str:
        """Return the name of the value that reaches `name`."""
        while name in self._makers and self._makers[name].op_type in PASSING:
            name = self._makers[name].input[0]
        return name


def find_vocabularies(model: ModelProto) -> dict[str, int]:
    """Return input → number of ids, for inputs that select rows of a table in the model."""
    tables = {tensor.name: tensor.dims[0] for g in all_graphs(model.graph) for tensor in g.initializer if tensor.dims}
    origins = _Origins(model)
    found: dict[str, int] = {}
    for node in origins.nodes:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type != "Gather" or axis != 0 or node.input[0] not in tables:
            continue
        name, size = origins.of(node.input[1]), int(tables[node.input[0]])
        found[name] = min(found.get(name, size), size)
    return found


def find_step_counts(model: ModelProto) -> set[str]:
    """Return the inputs that tell LSTM, GRU and RNN nodes how many steps of a sequence there are."""
    origins = _Origins(model)
    return {
        origins.of(node.input[SEQUENCE_LENS])
        for node in model.graph.node
        if is_recurrent(node) and len(node.input) > SEQUENCE_LENS and node.input[SEQUENCE_LENS]
    }
