"""The nodes of a model that may carry something from step to step, or see steps ahead."""

from collections.abc import Collection, Mapping

from onnx import ModelProto, NodeProto

from export.graphs import all_graphs

_OVER_TIME = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM", "Scan", "Loop", "Pad", "CumSum")
_KERNELS = ("Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "MaxPool", "AveragePool")


def nodes_over_time(model: ModelProto) -> list[str]:
    """Return the type and name of each of these nodes."""
    sizes = {tensor.name: tensor.dims for graph in all_graphs(model.graph) for tensor in graph.initializer}
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return [named_node(node) for node in nodes if node.op_type in _OVER_TIME or has_kernel(node, sizes)]


def has_kernel(node: NodeProto, sizes: Mapping[str, Collection[int]]) -> bool:
    """Return whether a node is a convolution or pooling over more than one value; `sizes` are those of weights."""
    kernel = [size for attribute in node.attribute if attribute.name == "kernel_shape" for size in attribute.ints]
    if not kernel and len(node.input) > 1:
        weight = node.input[3 if node.op_type == "QLinearConv" and len(node.input) > 3 else 1]
        kernel = list(sizes.get(weight, ()))[2:]
    return node.op_type in _KERNELS and any(size > 1 for size in kernel)


def named_node(node: NodeProto) -> str:
    """Return a node's type and name, and a recurrent layer's direction where it is not forward."""
    directions = [attribute.s.decode() for attribute in node.attribute if attribute.name == "direction"]
    backward = "".join(f" ({direction})" for direction in directions if direction != "forward")
    return f"{node.op_type} {node.name or ', '.join(node.output)!r}{backward}"
