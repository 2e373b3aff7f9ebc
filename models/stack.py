"""Cells one above the other, their states named by layer."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell

NamedState = dict[str, Tensor]


class Stack(nn.Module):
    """Run each cell over the outputs of the one below it.

    States are named `layer0.h`, `layer0.c`, `layer1.h`, …; each is (batch, *shape).
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(cells)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Return the cells, lowest first."""
        return tuple(layer for layer in self.layers if isinstance(layer, Cell))

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """Return all carried tensors, lowest layer first."""
        return tuple(
            spec.model_copy(update={"name": state_name(layer, spec.name)})
            for layer, cell in enumerate(self.cells)
            for spec in cell.states
        )

    def initial_state(self, batch: int) -> NamedState:
        """Return the state before the first step."""
        rows = (row for cell in self.cells for row in cell.initial_state(batch))
        return dict(zip((spec.name for spec in self.states), rows, strict=True))

    def forward(self, x: Tensor, state: NamedState) -> tuple[Tensor, NamedState]:
        """Advance over sequences: x (time, batch, input) → y (time, batch, hidden), last state."""
        after: NamedState = {}
        for layer, cell in enumerate(self.cells):
            names = [state_name(layer, spec.name) for spec in cell.states]
            x, rows = cell.sequence(x, tuple(state[name] for name in names))
            after.update(zip(names, rows, strict=True))
        return x, after


def state_name(layer: int, name: str) -> str:
    """Return the name by which a layer's state goes in the stack, the graph and the card."""
    return f"layer{layer}.{name}"
