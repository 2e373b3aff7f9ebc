"""A bidirectional layer: one cell runs over the sequence forwards, one backwards (Schuster & Paliwal 1997)."""

import torch
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, State


class Bidirectional(Cell):
    """Run one cell forwards and another backwards, and concatenate their outputs.

    y_t = [forward y_t, backward y_t]: outputs depend on later inputs, so the layer reads whole sequences and cannot
    run one step at a time. The given state of the backward cell is its state before the last step of the sequence,
    where that cell starts.
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
        """Run over a sequence of one step: x (batch, input) → y (batch, both outputs), next state."""
        y, state = self.sequence(x.unsqueeze(0), state)
        return y.squeeze(0), state

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        forward_state, backward_state = self.split(state)
        y, forward_state = self.onward.sequence(x, forward_state)
        y_backward, backward_state = self.backward.sequence(x.flip(0), backward_state)
        return torch.cat([y, y_backward.flip(0)], -1), (*forward_state, *backward_state)

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return a random state of each cell, the forward one first, each tensor (batch, *shape)."""
        return (*self.onward.random_state(batch, generator), *self.backward.random_state(batch, generator))
