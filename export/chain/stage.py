"""One stage of a chain: its inputs, outputs and states, its graph, and a way to run it without the chain's graph."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from onnx import ModelProto

from export.figure import Array
from export.reference import Rows
from models.card import StateSpec, TensorSpec

Steps = Mapping[str, tuple[int, ...]]
"""Input → the shape of one step."""


class StageRunner(Protocol):
    """Runs the original of a stage, one sequence and one step at a time, and keeps its state by hand."""

    def start(self) -> None:
        """Go back to the state before the first step."""

    def step(self, inputs: Rows) -> Rows:
        """Return the outputs of one step of one row; inputs and outputs are (1, *shape).

        Raises:
            ExportError: It does not run on these.
        """

    @property
    def states(self) -> Rows:
        """Return the states after the last step, (1, *shape)."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that is ready to be chained.

    `graph` is a served graph of its own, in which `values` are the names of inputs and outputs that differ from the
    public ones: ("in", name) or ("out", name) → name in the graph. `made_of` stands on the chain's card. `scales`:
    input → mean and standard deviation of what it takes, where known. `tolerance` is the one that it has passed.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...]
    graph: ModelProto
    runner: StageRunner
    weights_sha256: str
    made_of: dict[str, Any]
    max_batch: int
    tolerance: float
    ragged: bool = False
    values: Mapping[tuple[str, str], str] = field(default_factory=dict)
    scales: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    def input(self, name: str) -> TensorSpec:
        """Return the description of an input."""
        return next(spec for spec in self.inputs if spec.name == name)

    def output(self, name: str) -> TensorSpec:
        """Return the description of an output."""
        return next(spec for spec in self.outputs if spec.name == name)


class StageSource(Protocol):
    """A stage as it was named on the command line, read as far as it can be without knowing what feeds it."""

    @property
    def name(self) -> str:
        """Return the stage's name."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Return the names of its inputs."""

    def make(self, fed: Mapping[str, TensorSpec], steps: Steps, connected: Collection[str]) -> Stage:
        """Return the stage; `fed` are the steps that its inputs get, where they are known.

        `connected` are the inputs that a stage or a --map feeds.

        Raises:
            ExportError: It cannot be part of a chain.
        """
