"""Values of a graph as things to calculate with, so that a cell's step reads like its equations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from export.lower.builder import GraphBuilder
from export.lower.native import gate_rows
from models.cells.gates import Gates


@dataclass(frozen=True, slots=True)
class Value:
    """Name a value of a graph under construction; arithmetic adds the nodes."""

    graph: GraphBuilder
    name: str

    def __add__(self, other: "Value | Tensor | float") -> "Value":
        return self.op("Add", other)

    def __sub__(self, other: "Value | Tensor | float") -> "Value":
        return self.op("Sub", other)

    def __mul__(self, other: "Value | Tensor | float") -> "Value":
        return self.op("Mul", other)

    def __rmul__(self, other: "Tensor | float") -> "Value":
        return self.op("Mul", other)

    def __rsub__(self, other: "Tensor | float") -> "Value":
        return self.constant(other).op("Sub", self)

    def __matmul__(self, other: "Value | Tensor") -> "Value":
        return self.op("MatMul", other)

    def constant(self, value: "Tensor | Sequence[int] | float", dtype: str = "float32") -> "Value":
        """Return a constant of the same graph."""
        return Value(self.graph, self.graph.constant(value, dtype))

    def op(self, op: str, *others: "Value | Tensor | float", **attributes: Any) -> "Value":
        """Return the one output of a node that reads this value first."""
        names = [(other if isinstance(other, Value) else self.constant(other)).name for other in others]
        return Value(self.graph, self.graph.node(op, [self.name, *names], **attributes))

    def split(self, *sizes: int) -> list["Value"]:
        """Return the parts of the last axis."""
        names = [self.graph.fresh("part") for _ in sizes]
        lengths = self.graph.constant(sizes, "int64", hint="sizes")
        self.graph.nodes("Split", [self.name, lengths], names, axis=-1)
        return [Value(self.graph, name) for name in names]

    def unsqueeze(self, *axes: int) -> "Value":
        """Return the value with axes of length one inserted at these positions."""
        return Value(self.graph, self.graph.node("Unsqueeze", [self.name, self._axes(axes)]))

    def squeeze(self, *axes: int) -> "Value":
        """Return the value without these axes of length one."""
        return Value(self.graph, self.graph.node("Squeeze", [self.name, self._axes(axes)]))

    def _axes(self, axes: Sequence[int]) -> str:
        return self.graph.constant(axes, "int64", hint="axes")


def sigmoid(a: Value) -> Value:
    """Return σ(a)."""
    return a.op("Sigmoid")


def tanh(a: Value) -> Value:
    """Return tanh(a)."""
    return a.op("Tanh")


def concat(*values: Value, axis: int = -1) -> Value:
    """Return the values side by side."""
    first, *others = values
    return first.op("Concat", *others, axis=axis)


def affine(weights: Sequence[tuple[Value, Tensor]], bias: Tensor) -> Value:
    """Return Σ W v + b of values (batch, width) with weights (rows, width), as one product."""
    values = [value for value, _ in weights]
    joined = concat(*values) if len(values) > 1 else values[0]
    matrix = torch.cat([matrix for _, matrix in weights], 1).T
    return joined.op("Gemm", matrix, bias)


def gates_of(gates: Gates, names: str, x: Value, h: Value, *more: tuple[Value, Tensor]) -> Value:
    """Return W x + R h + b, the gates' blocks as `names` lists them; `more` are further values and their weights."""
    w, r, b = gate_rows(gates, names)
    return affine([(x, w), (h, r), *more], b)
