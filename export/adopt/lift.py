"""States that a foreign file keeps inside become inputs and outputs of its graph, before it is analysed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, inliner

from export.adopt.carried import AddedState, StateAdder
from export.adopt.causality import look_ahead
from export.adopt.dependencies import Dependencies
from export.adopt.errors import AdoptError, AmbiguousError, NotCausalError, WholeSequenceError
from export.adopt.foreign_model import RunFailedError
from export.adopt.layouts import is_called_batch, is_called_time
from export.adopt.lift_context import lift_concat, lift_convolution, lift_pad
from export.adopt.lift_recurrent import lift_layer, lift_loop
from export.adopt.options import AdoptOptions
from export.adopt.planning import Planned
from export.adopt.source import modern
from export.adopt.value_axes import RECURRENT, Tracer, ValueAxes, find_value_axes, value_axes_along
from export.errors import ParityError
from export.figure import Figure

_LENGTHS = (1, 2, 7, 40)
_TOLERANCE = 1e-6
_GIVEN = "given by --state"
_ADDED = "added to the graph"


@dataclass(frozen=True, slots=True)
class Lifted:
    """A model whose hidden states are inputs and outputs, and the options that say what they are.

    `findings` are a sentence for each node that was changed, `ahead` one for each that looks ahead in time. `time` is
    the name of the open size along which states were added.
    """

    model: ModelProto
    options: AdoptOptions
    findings: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    time: str = ""

    def contradicted(self, planned: Planned) -> bool:
        """Return whether a state of the file itself has the size that was taken for the time: it counts rows."""
        ports = planned.original.foreign.inputs
        own = [pair.source for pair in planned.original.pairs if pair.source not in self.states]
        return bool(self.states) and any(self.time in ports[name].dims for name in own)

    def explained(self, planned: Planned) -> Planned:
        """Return a plan whose findings tell which states were added."""
        added = tuple(f"state {name} ← " for name in self.states)
        told = (line.replace(_GIVEN, _ADDED) if line.startswith(added) else line for line in planned.findings)
        return replace(planned, findings=(*self.findings, *told))

    @contextmanager
    def reasons(self, planned: Planned) -> Iterator[None]:
        """Name the nodes that look ahead where what is served differs from the original.

        Raises:
            NotCausalError: It differs, and some node looks ahead.
        """
        try:
            yield
        except (WholeSequenceError, ParityError) as exc:
            ahead = self.ahead or _ahead(self.model, self.options, planned)
            if ahead:
                raise NotCausalError(ahead) from exc
            raise


def _ahead(model: ModelProto, options: AdoptOptions, planned: Planned) -> list[str]:
    """Return a sentence for each node that looks ahead along the axes that were taken for the time."""
    original = planned.original
    for name in original.data:
        axis = original.layouts[name].time_axis
        dim = None if axis is None else original.foreign.inputs[name].dims[axis]
        if isinstance(dim, str):
            try:
                axes = value_axes_along(inlined(model), options, dim)
                if ahead := look_ahead(axes.tracer.model, axes):
                    return ahead
            except (AdoptError, RunFailedError):
                continue
    return []


def lift_states(model: ModelProto, options: AdoptOptions) -> Lifted:
    """Return a model whose recurrent layers and causal convolutions over time have their states outside.

    A model that looks ahead, or that has no hidden states, is returned as it is. What is returned gives the same for
    whole sequences as the original.

    Raises:
        AmbiguousError: They would be carried along an axis called a batch, beside one that is called the time.
    """
    unchanged = Lifted(model, options)
    try:
        flat = inlined(model)
        axes = find_value_axes(flat, options)
        if axes is None:
            return unchanged
        ahead = look_ahead(flat, axes)
        if ahead:
            return replace(unchanged, ahead=tuple(ahead))
        lifted, adder = _lift(flat, axes)
        if not adder.states or not _is_same(axes, lifted, adder.states, options):
            return unchanged
    except (AdoptError, RunFailedError):
        return unchanged
    _refuse_the_batch(axes, adder.findings[0])
    return Lifted(
        lifted,
        _options(options, axes, adder.states),
        tuple(adder.findings),
        states=tuple(state.source for state in adder.states),
        time=axes.time,
    )


def _refuse_the_batch(axes: ValueAxes, finding: str) -> None:
    for name, dims in axes.tracer.ports.items():
        times = [axis for axis, dim in enumerate(dims) if is_called_time(dim)]
        if axes.time in dims and is_called_batch(axes.time) and times:
            at = dims.index(axes.time)
            raise AmbiguousError(
                f"along axis {at} of the input {name}, which is called {axes.time!r} as a batch is, the model carries "
                f"something ({finding.split(':')[0]}), though axis {times[0]} is called {dims[times[0]]!r}",
                [f"axis {at} is the batch", f"axis {times[0]} is the batch"],
                f"--batch-axis {name}:{at} or --batch-axis {name}:{times[0]}",
            )


def inlined(model: ModelProto) -> ModelProto:
    """Return a copy of a model of a modern opset, the nodes of its functions in the main graph.

    Raises:
        NotServableError: onnx cannot convert it.
    """
    return modern(inliner.inline_local_functions(model) if model.functions else model)


def _lift(model: ModelProto, axes: ValueAxes) -> tuple[ModelProto, StateAdder]:
    lifted = ModelProto()
    lifted.CopyFrom(model)
    adder = StateAdder(lifted.graph, axes, Dependencies(model))
    for index, node in enumerate(lifted.graph.node):
        if node.op_type in RECURRENT:
            lift_layer(index, node, adder)
        elif node.op_type in ("Scan", "Loop"):
            lift_loop(index, node, adder)
        elif node.op_type == "Conv":
            lift_convolution(index, node, adder)
        elif node.op_type == "Pad":
            lift_pad(index, node, adder)
        elif node.op_type == "Concat":
            lift_concat(index, node, adder)
    adder.finish()
    _name_axes(lifted, axes)
    return lifted, adder


def _name_axes(model: ModelProto, axes: ValueAxes) -> None:
    """Give axes of one row or time the same name in all inputs, also where the file gave them none."""
    names = dict.fromkeys(axes.batch, axes.batch[0]) if axes.batch else {}
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            name = dim.dim_param or f"?:{value.name}:{axis}"
            if dim.WhichOneof("value") != "dim_value" and name in names:
                dim.dim_param = names[name]


def _options(options: AdoptOptions, axes: ValueAxes, states: list[AddedState]) -> AdoptOptions:
    """Return the user's options with what is known of the states that were added, and of the inputs' axes."""
    batches = {name: axis for name, axis in axes.batches.items() if name in axes.tracer.ports}
    batches = {name: axis for name, axis in batches.items() if name not in options.constants}
    batches |= {state.source: state.batch for state in states if state.batch is not None}
    return replace(
        options,
        states={state.source: state.target for state in states} | options.states,
        initial={state.source: state.initial for state in states if state.initial.any()} | options.initial,
        batch_axes=batches | options.batch_axes,
    )


def _is_same(axes: ValueAxes, lifted: ModelProto, states: list[AddedState], options: AdoptOptions) -> bool:
    """Return whether the lifted model gives what the original gives for whole sequences, from the initial states."""
    tracer = Tracer(lifted, options)
    names = [value.name for value in axes.tracer.model.graph.output]
    start = {state.source: state.initial for state in states if state.source not in axes.tracer.ports}
    for length in _LENGTHS:
        feeds, expected = axes.run(length, seed=length)
        found = tracer.run(feeds | start)
        for name in names:
            if not Figure.of(np.asarray(found[name]), np.asarray(expected[name])).error <= _TOLERANCE:
                return False
    return True
