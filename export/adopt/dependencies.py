"""Which inputs of a graph its values depend on."""

from collections.abc import Mapping
from functools import cached_property

from onnx import ModelProto, NodeProto

from export.graphs import subgraphs

_SHAPES = ("Shape", "Size")
"""Nodes that read sizes alone, so that what they give does not depend on values."""


class Dependencies:
    """Which inputs of a model reach a value, by the values that they hold and not by their sizes alone."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model
        defaults = {tensor.name for tensor in model.graph.initializer}
        self._inputs = {value.name for value in model.graph.input} - defaults
        self._found: dict[str, frozenset[str]] = {}

    @cached_property
    def _makers(self) -> Mapping[str, NodeProto]:
        return {name: node for node in self._model.graph.node for name in node.output if name}

    def of(self, name: str) -> frozenset[str]:
        """Return the inputs that a value depends on."""
        waiting, seen, reached = [name], {name}, set()
        while waiting:
            value = waiting.pop()
            if value in self._inputs:
                reached.add(value)
            node = self._makers.get(value)
            if node is None or node.op_type in _SHAPES:
                continue
            for read in reads(node):
                if read and read not in seen:
                    seen.add(read)
                    waiting.append(read)
        return frozenset(reached)


def reads(node: NodeProto) -> list[str]:
    """Return the values that a node reads, those that the graphs inside it take from outside included."""
    names = list(node.input)
    for graph in subgraphs(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own |= {name for one in graph.node for name in one.output}
        inside = [name for one in graph.node for name in reads(one)] + [value.name for value in graph.output]
        names += [name for name in inside if name not in own]
    return names
