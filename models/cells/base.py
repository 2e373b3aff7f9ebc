"""The interface of every recurrent cell: one time step and a state in, one output and the next state out."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models.card import StateSpec

State = tuple[Tensor, ...]


class CellOptions(BaseModel):
    """Hold the options of a cell besides its sizes; a cell with options defines a subclass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def least_weights(self) -> int:
        """Return how many weights a cell with these options has at least: a file with fewer is not its checkpoint."""
        return 1


class OnnxOperators(NamedTuple):
    """Name the recurrent ONNX operator to which a cell is exported, for the CPU and for CUDA.

    Declared here because `models` does not import `export`; a test compares it with the export's own table.
    """

    cpu: str
    cuda: str


class Cell(nn.Module, ABC):
    """Compute one time step of a recurrent network from its input and its state.

    A new cell lists its states in `states` and implements its equations in `forward`. It overrides `sequence` only if
    a faster implementation with the same parameters exists, `random_state` only if some values cannot occur in a run
    (a counter or a mask), and never `initial_state`: the initial values are given in `states`.

    Raises:
        ValueError: The options or sizes are not valid for this cell; the message says which and why.
    """

    Options: ClassVar[type[CellOptions]] = CellOptions
    source: ClassVar[str] = ""
    """Paper or library that the equations come from."""
    square: ClassVar[bool] = False
    """Whether the equations need an input of the same width as the hidden state."""
    onnx: ClassVar[OnnxOperators] = OnnxOperators("Scan", "Scan")
    """ONNX operators to which the cell is exported."""
    streams: ClassVar[bool] = True
    """Whether a step's output is independent of all later steps, so that the cell can run one step at a time."""

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__()
        if self.square and input_size != hidden_size:
            raise ValueError(
                f"{type(self).__name__} adds its input to its state, so the two must have the same width: "
                f"an input size of {input_size} does not fit a hidden size of {hidden_size}"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.options = self.Options(**options)

    @classmethod
    def family(cls) -> str:
        """Return the name of the module that defines the cell."""
        return cls.__module__.rsplit(".", 1)[-1]

    @property
    def output_size(self) -> int:
        """Return the width of a step's output, which is the input of the layer above."""
        return self.hidden_size

    @property
    @abstractmethod
    def states(self) -> tuple[StateSpec, ...]:
        """Return the name, dtype, shape without the batch axis and initial value of each state tensor, in order."""

    @abstractmethod
    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run one time step: x (batch, input) and the state → y (batch, output) and the next state."""

    def initial_state(self, batch: int) -> State:
        """Return the state before the first step, each tensor (batch, *shape)."""
        device = next(self.parameters()).device
        return tuple(initial_rows(spec, batch).to(device) for spec in self.states)

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return a random state that could occur in a run, each tensor (batch, *shape), as a start for comparisons."""
        return tuple(
            torch.empty(batch, *spec.shape).uniform_(-1.0, 1.0, generator=generator).to(getattr(torch, spec.dtype))
            for spec in self.states
        )

    def sequence(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run over whole sequences: x (time, batch, input) → y (time, batch, output), state after the last step."""
        outputs = []
        for step in x.unbind(0):
            y, state = self(step, state)
            outputs.append(y)
        return torch.stack(outputs), state


def vector_states(names: str, size: int) -> tuple[StateSpec, ...]:
    """Return float32 states of the shape (size,), one for each letter of `names`."""
    return tuple(StateSpec(name=name, shape=(size,)) for name in names)


def initial_rows(spec: StateSpec, batch: int) -> Tensor:
    """Return `batch` rows of the state's initial value, (batch, *shape)."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    if isinstance(spec.initial, tuple):
        return torch.tensor(spec.initial, dtype=dtype).reshape(1, *spec.shape).repeat(batch, *[1] * len(spec.shape))
    return torch.full((batch, *spec.shape), spec.initial, dtype=dtype)
