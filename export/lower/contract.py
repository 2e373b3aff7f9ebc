"""The types of a lowering: what it reads, what it returns, and which one a cell has on each target."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from export.lower.builder import GraphBuilder


@dataclass(frozen=True, slots=True)
class CellInput:
    """Name the values a cell reads in the graph.

    x (time, batch, input); lengths int32 (batch,), the true length of each sequence; states as the cell lists them,
    each (1, batch, *shape): the leading axis is the directions of ONNX's native nodes, and costs the others nothing.
    """

    x: str
    lengths: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CellOutput:
    """Name the values a cell leaves in the graph: y (time, batch, output), and states (1, batch, *shape) after it."""

    y: str
    states: tuple[str, ...]


LowerFunction = Callable[[GraphBuilder, Any, CellInput], CellOutput]
"""Adds a cell's nodes to a graph: (graph, cell, input) → output."""

Target = Literal["cpu", "cuda"]
"""The kind of device whose kernels a graph is made for; either graph runs on both, at another speed."""


@dataclass(frozen=True, slots=True)
class Lowering:
    """Name the recurrent ONNX operator that a cell becomes, and hold the function that adds its nodes."""

    op: Literal["RNN", "LSTM", "GRU", "Scan"]
    lower: LowerFunction


@dataclass(frozen=True, slots=True)
class CellLowerings:
    """Hold a cell's fastest exact lowering for each target."""

    cpu: Lowering
    cuda: Lowering

    @classmethod
    def same(cls, lowering: Lowering) -> Self:
        """Return the same lowering for every target."""
        return cls(lowering, lowering)

    def on(self, target: Target) -> Lowering:
        """Return the lowering for a target."""
        return {"cpu": self.cpu, "cuda": self.cuda}[target]
