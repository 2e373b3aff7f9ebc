"""Functions over ONNX graphs and the graphs inside them."""

from collections.abc import Callable, Iterator

from onnx import AttributeProto, GraphProto, NodeProto


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs in a node's attributes, as If, Loop and Scan have them."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and every graph inside it."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def rename_values(graph: GraphProto, new: Callable[[str], str]) -> None:
    """Rename every value and node in a graph and all graphs inside it; declared shapes between them are dropped."""
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for value in [*graph.input, *graph.output]:
        value.name = new(value.name)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)
    for node in graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        node.name = new(node.name)
        for inner in subgraphs(node):
            rename_values(inner, new)
