"""Nodes that compute with quantised numbers, whose errors add up in a state."""

from onnx import ModelProto

from export.graphs import all_graphs


def quantised_operators(model: ModelProto) -> list[str]:
    """Return the operators of a model that quantise, or compute with integers in the place of real numbers."""
    graphs = [*all_graphs(model.graph), *model.functions]
    found = {node.op_type for graph in graphs for node in graph.node}
    return sorted(name for name in found if "Quant" in name or "QLinear" in name or "Integer" in name)
