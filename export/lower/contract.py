"""What a lowering takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from export.lower.builder import GraphBuilder


@dataclass(frozen=True, slots=True)
class CellInput:
    """Name the values a cell reads in the graph.

    x (time, batch, input); lengths int32 (batch,), the true length of each sequence; states in the cell's order, each
    (1, batch, *shape): the leading axis is the directions of ONNX's native nodes, and costs the others nothing.
    """

    x: str
    lengths: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CellOutput:
    """Name the values a cell leaves in the graph: y (time, batch, output), and states (1, batch, *shape) after it."""

    y: str
    states: tuple[str, ...]


Lowering = Callable[[GraphBuilder, Any, CellInput], CellOutput]

Target = Literal["cpu", "cuda"]
"""The kind of device whose kernels a graph is made for; either graph runs on both, at another speed."""


@dataclass(frozen=True, slots=True)
class Form:
    """Name the recurrent operator that a lowering ends in, and do it."""

    op: Literal["RNN", "LSTM", "GRU", "Scan"]
    lower: Lowering


@dataclass(frozen=True, slots=True)
class Forms:
    """Hold a cell's fastest exact form on each target."""

    cpu: Form
    cuda: Form

    @classmethod
    def alike(cls, form: Form) -> Self:
        """Return the same form for every target."""
        return cls(form, form)

    def on(self, target: Target) -> Form:
        """Return the form for a target."""
        return {"cpu": self.cpu, "cuda": self.cuda}[target]
