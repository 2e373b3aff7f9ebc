"""Two cells over one sequence, one of them from its end (Schuster & Paliwal 1997)."""

import torch
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, State


class Bidirectional(Cell):
    """Run one cell forwards, another backwards, and give both outputs side by side.

    y_t = [forward y_t, backward y_t]: what comes later changes what came before, so this reads whole sequences and
    cannot stream. The backward state is the one after the sequence's last step, where that cell begins.
    """

    source = "Schuster & Paliwal 1997"
    streams = False

    def __init__(self, onward: Cell, backward: Cell) -> None:
        super().__init__(onward.input_size, onward.hidden_size)
        self.onward, self.backward = onward, backward

    @property
    def output_size(self) -> int:
        return self.onward.output_size + self.backward.output_size

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return tuple(
            spec.model_copy(update={"name": f"{direction}.{spec.name}"})
            for direction, cell in (("forward", self.onward), ("backward", self.backward))
            for spec in cell.states
        )

    def split(self, state: State) -> tuple[State, State]:
        """Return the states of the forward and of the backward cell."""
        count = len(self.onward.states)
        return state[:count], state[count:]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over a sequence of one step."""
        y, state = self.sequence(x.unsqueeze(0), state)
        return y.squeeze(0), state

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        before, behind = self.split(state)
        y, before = self.onward.sequence(x, before)
        y_back, behind = self.backward.sequence(x.flip(0), behind)
        return torch.cat([y, y_back.flip(0)], -1), (*before, *behind)

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return a random state of each cell."""
        return (*self.onward.random_state(batch, generator), *self.backward.random_state(batch, generator))
