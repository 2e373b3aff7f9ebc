"""What a served graph is compared with: the network, module or file it was made from, run without that graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from export.figure import Array

Rows = dict[str, Array]
"""Name → one row for each sequence: inputs and outputs (batch, time, *shape), states (batch, *shape)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outputs for a batch of sequences, and the states after them; `states` may be empty where it is not known."""

    outputs: Rows
    states: Rows


class Reference(Protocol):
    """Draws random sequences and answers them by other means than the served graph."""

    def draw(self, length: int) -> Rows:
        """Return the inputs of one random sequence, a batch of one, in the units and dtypes that clients send."""

    def answer(self, inputs: Rows) -> Answer:
        """Answer one sequence from the initial state."""


@runtime_checkable
class BatchReference(Reference, Protocol):
    """A reference that also answers several sequences at once, and from any state."""

    def answer(self, inputs: Rows, states: Mapping[str, Array] | None = None) -> Answer:
        """Answer sequences of one length from these states, or from the initial ones."""

    def draw_states(self, batch: int, random: np.random.Generator) -> Rows:
        """Return random states that the model could be in."""


@dataclass(frozen=True, slots=True)
class ExactAnswer:
    """An answer computed in float64, and what it becomes in `rounded` if each weight is off by one rounding."""

    answer: Answer
    rounded: tuple[Answer, ...] = ()


@runtime_checkable
class ExactReference(Protocol):
    """A reference that can also compute in float64, so that the error of float32 itself is known."""

    def answer_exactly(self, inputs: Rows, states: Mapping[str, Array] | None = None) -> ExactAnswer | None:
        """Answer as `answer` does, in float64; None where that does not run."""

    @property
    def units(self) -> Mapping[str, Array]:
        """Return the unit of each feature of an output, where it is known."""


def stack(rows: list[Rows]) -> Rows:
    """Return batches as one batch."""
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
