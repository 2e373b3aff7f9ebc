"""What a lowering takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
