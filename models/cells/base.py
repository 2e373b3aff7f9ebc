"""The contract that every cell keeps: one time step in, one time step out, and the state carried between them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models.card import StateSpec

State = tuple[Tensor, ...]


class CellOptions(BaseModel):
    """Hold what can be chosen for a cell besides its sizes; a cell with choices of its own extends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(nn.Module, ABC):
    """Carry a state through time, one step a call.

    A new cell names its states in `states` and writes its equations in `forward`. It overrides `sequence` only where a
    fast form exists that shares its parameters, and `initial_state` never: initial values stand in `states`.

    Raises:
        ValueError: The options are not of this cell's kind (pydantic says which and why).
    """

    Options: ClassVar[type[CellOptions]] = CellOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.options = self.Options(**options)

    @property
    def output_size(self) -> int:
        """Return the width of what a step gives to the layer above."""
        return self.hidden_size

    @property
    @abstractmethod
    def states(self) -> tuple[StateSpec, ...]:
        """Return each carried tensor's name, dtype, shape without the batch axis, and initial value, in state order."""

    @property
    def state_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return each carried tensor's shape without the batch axis, by name."""
        return {spec.name: spec.shape for spec in self.states}

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance one time step: x (batch, input) → y (batch, output), next state."""

    def initial_state(self, batch: int) -> State:
        """Return the state before the first step, one row for each sequence of the batch."""
        device = next(self.parameters()).device
        return tuple(initial_rows(spec, batch).to(device) for spec in self.states)

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over whole sequences: x (time, batch, input) → y (time, batch, output), last state."""
        outputs = []
        for step in x.unbind(0):
            y, state = self(step, state)
            outputs.append(y)
        return torch.stack(outputs), state


def initial_rows(spec: StateSpec, batch: int) -> Tensor:
    """Return `batch` rows of the state's initial value, (batch, *shape)."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if isinstance(spec.initial, tuple):
        return torch.tensor(spec.initial, dtype=dtype).reshape(1, *spec.shape).repeat(batch, *[1] * len(spec.shape))
    return torch.full((batch, *spec.shape), spec.initial, dtype=dtype)
