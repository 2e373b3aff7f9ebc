"""How a foreign model is served: all that its served graph is built from."""

from dataclasses import dataclass, field

from export.figure import Array
from models.card import StateSpec, TensorSpec

DTYPES: dict[int, str] = {1: "float32", 10: "float16", 11: "float64", 7: "int64", 6: "int32", 9: "bool"}
"""ONNX's number of an element type → the card's name, for all that the card knows."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axes of a foreign tensor are the batch and the time.

    `inner` are the tensor's sizes without the batch axis. `batch` is the batch axis of the whole tensor, or None where
    it has none and only one row can be run. `time` is the index in `inner` of an axis that counts steps, or None.
    """

    inner: tuple[int, ...]
    batch: int | None
    time: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one step as it is served."""
        return tuple(dim for index, dim in enumerate(self.inner) if index != self.time)

    @property
    def time_axis(self) -> int | None:
        """Return the time axis in the whole tensor."""
        if self.time is None or self.batch is None:
            return self.time
        return self.time + (self.time >= self.batch)


@dataclass(frozen=True, slots=True)
class InputPlan:
    """One tensor that clients send. With an overlap, `layout.inner[axis]` is what is new in a step."""

    name: str
    spec: TensorSpec
    layout: Layout
    overlap: int = 0
    axis: int = 0

    @property
    def overlap_shape(self) -> tuple[int, ...]:
        """Return the shape of the part of the last step that is kept."""
        return tuple(self.overlap if index == self.axis else dim for index, dim in enumerate(self.layout.inner))

    @property
    def overlap_state(self) -> str:
        """Return the name of the state that keeps it."""
        return f"{self.spec.name}.overlap"


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """One tensor that clients get."""

    name: str
    spec: TensorSpec
    layout: Layout


@dataclass(frozen=True, slots=True)
class StatePlan:
    """An input, the output that is fed back to it, and the reason why they are taken for one state."""

    source: str
    target: str
    spec: StateSpec
    layout: Layout
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a foreign model is served. `native_time`: the graph runs any number of steps at once by itself."""

    inputs: tuple[InputPlan, ...]
    outputs: tuple[OutputPlan, ...]
    states: tuple[StatePlan, ...]
    constants: dict[str, Array] = field(default_factory=dict)
    native_time: bool = False
    batched: bool = True

    @property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Return the card's description of the inputs."""
        return tuple(plan.spec for plan in self.inputs)

    @property
    def output_specs(self) -> tuple[TensorSpec, ...]:
        """Return the card's description of the outputs."""
        return tuple(plan.spec for plan in self.outputs)

    @property
    def state_specs(self) -> tuple[StateSpec, ...]:
        """Return the card's description of all that is carried, overlaps included."""
        overlaps = tuple(
            StateSpec(name=plan.overlap_state, dtype=plan.spec.dtype, shape=plan.overlap_shape)
            for plan in self.inputs
            if plan.overlap
        )
        return tuple(plan.spec for plan in self.states) + overlaps
