"""The contract that every cell keeps: one time step in, one time step out, and the state carried between them."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models.card import StateSpec

State = tuple[Tensor, ...]


class CellOptions(BaseModel):
    """Hold what can be chosen for a cell besides its sizes; a cell with choices of its own extends it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OnnxForms(NamedTuple):
    """Name the recurrent ONNX operator that a cell is exported to, for a CPU and for CUDA.

    Declared here because the models know nothing of the export; a test holds it against the export's own table.
    """

    cpu: str
    cuda: str


class Cell(nn.Module, ABC):
    """Carry a state through time, one step a call.

    A new cell names its states in `states` and writes its equations in `forward`. It overrides `sequence` only where a
    fast form exists that shares its parameters, `random_state` only where not every value is one that a run could
    leave behind, and `initial_state` never: initial values stand in `states`.

    Raises:
        ValueError: The options or sizes make no cell of this kind; the sentence says which and why.
    """

    Options: ClassVar[type[CellOptions]] = CellOptions
    source: ClassVar[str] = ""
    """Where the equations come from."""
    square: ClassVar[bool] = False
    """Whether the equations need an input as wide as the hidden state."""
    onnx: ClassVar[OnnxForms] = OnnxForms("Scan", "Scan")
    """What the export makes of the cell."""
    streams: ClassVar[bool] = True
    """Whether a step's output depends on nothing that comes after it."""

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__()
        if self.square and input_size != hidden_size:
            raise ValueError(
                f"{type(self).__name__} adds its input to its state, so the two must be equally wide: "
                f"an input of {input_size} does not fit a hidden size of {hidden_size}"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.options = self.Options(**options)

    @classmethod
    def family(cls) -> str:
        """Return the name of the file that the cell stands in."""
        return cls.__module__.rsplit(".", 1)[-1]

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

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return some state that a run could have left behind, for comparisons that do not start at the beginning."""
        return tuple(
            torch.empty(batch, *spec.shape).uniform_(-1.0, 1.0, generator=generator).to(getattr(torch, spec.dtype))
            for spec in self.states
        )

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Advance over whole sequences: x (time, batch, input) → y (time, batch, output), last state."""
        outputs = []
        for step in x.unbind(0):
            y, state = self(step, state)
            outputs.append(y)
        return torch.stack(outputs), state


def vector_states(names: str, size: int) -> tuple[StateSpec, ...]:
    """Return float32 states that are vectors of one size, named by one letter each."""
    return tuple(StateSpec(name=name, shape=(size,)) for name in names)


def initial_rows(spec: StateSpec, batch: int) -> Tensor:
    """Return `batch` rows of the state's initial value, (batch, *shape)."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if isinstance(spec.initial, tuple):
        return torch.tensor(spec.initial, dtype=dtype).reshape(1, *spec.shape).repeat(batch, *[1] * len(spec.shape))
    return torch.full((batch, *spec.shape), spec.initial, dtype=dtype)
