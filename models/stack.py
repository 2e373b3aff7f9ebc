"""A stack of recurrent cells, whose states are named by layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell

NamedState = dict[str, Tensor]


class Stack(nn.Module):
    """Run each cell over the outputs of the layer below; a residual stack adds each layer's input to its output.

    States are named `layer0.h`, `layer0.c`, `layer1.h`, …; each is (batch, *shape).

    Raises:
        ValueError: The stack is residual, and the input and output of a layer differ in width.
    """

    def __init__(self, cells: Sequence[Cell], residual: bool = False) -> None:
        super().__init__()
        for layer, cell in enumerate(cells):
            if residual and cell.input_size != cell.output_size:
                raise ValueError(
                    f"a residual stack adds each layer's input to its output, but layer {layer} reads "
                    f"{cell.input_size} values and outputs {cell.output_size}"
                )
        self.layers = nn.ModuleList(cells)
        self.residual = residual

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return the cells, lowest first."""
        return tuple(layer for layer in self.layers if isinstance(layer, Cell))

    @property
    def streams(self) -> bool:
        """Return whether every cell can run one step at a time."""
        return all(cell.streams for cell in self.cells)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """Return the descriptions of all state tensors, lowest layer first."""
        return tuple(
            spec.model_copy(update={"name": state_name(layer, spec.name)})
            for layer, cell in enumerate(self.cells)
            for spec in cell.states
        )

    def initial_state(self, batch: int) -> NamedState:
        """Return the state before the first step, each tensor (batch, *shape)."""
        rows = (row for cell in self.cells for row in cell.initial_state(batch))
        return dict(zip((spec.name for spec in self.states), rows, strict=True))

    def random_state(self, batch: int, generator: torch.Generator) -> NamedState:
        """Return a random state that could occur in a run, each tensor (batch, *shape)."""
        rows = (row for cell in self.cells for row in cell.random_state(batch, generator))
        return dict(zip((spec.name for spec in self.states), rows, strict=True))

    def forward(self, x: Tensor, state: NamedState) -> tuple[Tensor, NamedState]:
        """Run over sequences: x (time, batch, input) → y (time, batch, output), state after the last step."""
        after: NamedState = {}
        for layer, cell in enumerate(self.cells):
            names = [state_name(layer, spec.name) for spec in cell.states]
            y, rows = cell.sequence(x, tuple(state[name] for name in names))
            x = x + y if self.residual else y
            after.update(zip(names, rows, strict=True))
        return x, after


def state_name(layer: int, name: str) -> str:
    """Return the name of a layer's state in the stack, the graph and the card."""
    return f"layer{layer}.{name}"
