"""The clockwork RNN (Koutník et al. 2014): groups of units, each updated at its own period."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, State
from models.cells.gates import weight


class ClockworkOptions(CellOptions):
    """Set the period of each group of units in time steps, in ascending order."""

    periods: tuple[int, ...] = Field(default=(1, 2, 4, 8), min_length=1)

    @model_validator(mode="after")
    def _check_periods(self) -> "ClockworkOptions":
        if any(period < 1 for period in self.periods):
            raise ValueError(f"clockwork periods must each be 1 or more steps, got {_listed(self.periods)}")
        if any(fast >= slow for fast, slow in zip(self.periods, self.periods[1:], strict=False)):
            raise ValueError(f"clockwork periods must ascend, the fastest group first, got {_listed(self.periods)}")
        if math.lcm(*self.periods) >= 2**31:
            listed = _listed(self.periods)
            raise ValueError(f"the least common multiple of the clockwork periods {listed} must be below 2³¹ steps")
        return self


def _listed(periods: Sequence[int]) -> str:
    """Return the first periods, and how many more there are."""
    more = f", … {len(periods) - 8:,} more" if len(periods) > 8 else ""
    return f"({', '.join(map(str, periods[:8]))}{more})"


class ClockworkRNN(Cell):
    """Update a group of units only when its period divides the step; a group reads itself and slower groups only.

    group k, when t mod T_k = 0: h_k = tanh(W_k x + Σ_{j ≥ k} R_kj h_j' + b_k), and otherwise h_k = h_k'

    The step number t is part of the state, counted modulo the least common multiple of the periods.

    Raises:
        ValueError: The periods do not ascend, or the hidden size is not a multiple of their number.
    """

    source = "Koutník et al. 2014 (arXiv 1402.3511), section 3"
    Options = ClockworkOptions
    options: ClockworkOptions
    unit_periods: Tensor

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        periods = self.options.periods
        if hidden_size % len(periods):
            raise ValueError(f"a hidden size of {hidden_size} does not divide into {len(periods)} clockwork groups")
        self.group = hidden_size // len(periods)
        self.W = weight(hidden_size, input_size, hidden_size=hidden_size)
        self.b = weight(hidden_size, hidden_size=hidden_size)
        # the rows of each group have columns for its own group and slower groups only
        self.R = nn.ParameterList(
            weight(self.group, hidden_size - k * self.group, hidden_size=hidden_size) for k in range(len(periods))
        )
        self.register_buffer("unit_periods", torch.tensor(periods).repeat_interleave(self.group), persistent=False)

    @property
    def cycle(self) -> int:
        """Return the least common multiple of the periods: the number of steps until all groups are updated at once."""
        return math.lcm(*self.options.periods)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return StateSpec(name="h", shape=(self.hidden_size,)), StateSpec(name="t", dtype="int64", shape=(1,))

    def recurrent(self) -> Tensor:
        """Return R as one block-upper-triangular matrix, (hidden, hidden)."""
        return torch.cat([nn.functional.pad(rows, (k * self.group, 0)) for k, rows in enumerate(self.R)])

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, t = state
        new = torch.tanh(x @ self.W.T + h @ self.recurrent().T + self.b)
        h = torch.where(t % self.unit_periods == 0, new, h)
        return h, (h, (t + 1) % self.cycle)

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return random units and a random step of the cycle, each tensor (batch, *shape)."""
        h, _ = super().random_state(batch, generator)
        return h, torch.randint(self.cycle, (batch, 1), generator=generator)
