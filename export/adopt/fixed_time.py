"""Recurrent layers that run over a fixed number of steps in every run, and start again in the next one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto

from export.adopt.carried import attribute
from export.adopt.dependencies import Dependencies
from export.adopt.errors import AdoptError, AmbiguousError, NotServableError
from export.adopt.foreign_model import Dim, RunFailedError
from export.adopt.free_batch import opened
from export.adopt.lift import inlined
from export.adopt.nodes_over_time import named_node
from export.adopt.options import AdoptOptions
from export.adopt.value_axes import RECURRENT, Tracer, Values

STEPS = "cellstream_steps"
_STATES = {"LSTM": (5, 6), "DynamicQuantizeLSTM": (5, 6)}
_MORE = 3


@dataclass(frozen=True, slots=True)
class _Restarting:
    """A layer that starts from values in the file, its number of steps in a run, and the inputs that it reads."""

    node: NodeProto
    steps: int
    inputs: tuple[str, ...]


def open_fixed_time(model: ModelProto, options: AdoptOptions) -> tuple[ModelProto, AdoptOptions, tuple[str, ...]]:
    """Open the time of a file that runs a fixed number of steps at once, where --step asks for single ones.

    A --step of the file's whole size says that each is a window by itself. What the user says is needed, since the file
    does not show whether its runs follow each other.

    Returns:
        The model and the options, as they are where nothing restarts, and a sentence for what was opened.

    Raises:
        AmbiguousError: A recurrent layer starts again in every run, and no --step says that it should.
        NotServableError: The axis cannot be opened.
    """
    try:
        flat = inlined(model)
        restarting = list(_restarting(flat, options))
    except (AdoptError, RunFailedError):
        return model, options, ()  # it is told when the file is run to find its layouts
    for layer in restarting:
        shapes = {name: _without_batch(name, _dims(flat, name), options) for name in layer.inputs}
        if any(options.steps.get(name) == shape or name in options.overlaps for name, shape in shapes.items()):
            continue
        given = [name for name in shapes if name in options.steps]
        if given and any(isinstance(dim, str) for dim in shapes[given[0]]):
            continue  # the size of a step is the user's own
        axes = {name: _time_axis(flat, options, name, layer) for name in layer.inputs}
        timed = {name: axis for name, axis in axes.items() if axis is not None}
        single = {name: _one_step(flat, name, axis, options) for name, axis in timed.items()}
        if not timed or any(options.steps.get(name) != step for name, step in single.items()):
            raise _question(layer, shapes, single)
        rest = replace(options, steps={name: step for name, step in options.steps.items() if name not in timed})
        try:
            model_opened = opened(flat, rest, timed, STEPS, layer.steps)
        except RunFailedError:
            model_opened = None
        if model_opened is None:
            raise NotServableError(
                f"the number of steps, {layer.steps}, of {', '.join(timed)} is written into the file's nodes, and "
                f"cannot be opened: export it with an axis of no fixed size, or serve windows: --step {_window(shapes)}"
            )
        told = (
            f"the file runs {layer.steps} steps at once: the axis is opened, and with so many it gives what it gave",
        )
        return model_opened, rest, told
    return model, options, ()


def _restarting(model: ModelProto, options: AdoptOptions) -> Iterator[_Restarting]:
    """Yield the layers that run several steps where every open size is 1, and of which a state starts in the file."""
    layers = [node for node in model.graph.node if node.op_type in (*RECURRENT, "Scan")]
    if not layers or options.frame_by_frame:
        return
    tracer, depends = Tracer(model, options), Dependencies(model)
    values = tracer.run(tracer.draw({}))
    states = {name for node in layers for start in _starts(node) for name in depends.of(start)}
    for node in layers:
        steps = _steps(node, values)
        if steps <= 1 or all(depends.of(name) for name in _starts(node)):
            continue
        read = depends.of(node.input[0] if node.op_type in RECURRENT else node.input[-1])
        inputs = tuple(name for name in tracer.ports if name in read - states and name not in options.constants)
        if inputs:
            yield _Restarting(node, steps, inputs)


def _steps(node: NodeProto, values: Values) -> int:
    """Return over how many steps a layer runs; 0 for other nodes."""
    if node.op_type in RECURRENT and node.input[0] in values:
        return int(values[node.input[0]].shape[0])
    scanned = attribute(node, "num_scan_inputs", 0) if node.op_type == "Scan" else 0
    if not scanned or node.input[-1] not in values or scanned == len(node.input):
        return 0
    axes = attribute(node, "scan_input_axes", None) or [0] * scanned
    return int(values[node.input[-1]].shape[axes[-1]])


def _starts(node: NodeProto) -> list[str]:
    """Return the names of the values that a layer's states start from, empty for those that it leaves out."""
    if node.op_type == "Scan":
        return list(node.input[: len(node.input) - attribute(node, "num_scan_inputs", 0)])
    slots = _STATES.get(node.op_type, (5,))
    return [node.input[at] if at < len(node.input) else "" for at in slots]


def _dims(model: ModelProto, name: str) -> list[Dim]:
    value = next(value for value in model.graph.input if value.name == name)
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value else dim.dim_param or "?" for dim in dims]


def _without_batch(name: str, dims: list[Dim], options: AdoptOptions) -> tuple[Dim, ...]:
    """Return the sizes of one row: without the first open axis, or else the first of size 1."""
    batch = options.batch_axes.get(name)
    if batch is None:
        batch = next((axis for axis, dim in enumerate(dims) if isinstance(dim, str)), None)
    if batch is None:
        batch = next((axis for axis, dim in enumerate(dims) if dim == 1), len(dims))
    return tuple(dim for axis, dim in enumerate(dims) if axis != batch)


def _time_axis(model: ModelProto, options: AdoptOptions, name: str, layer: _Restarting) -> int | None:
    """Return the axis of an input along which a layer runs: the one that, longer, makes it run over more steps."""
    rest = replace(options, steps={})
    for axis, dim in enumerate(_dims(model, name)):
        if dim != layer.steps:
            continue
        try:
            longer = opened(model, rest, {name: axis}, STEPS, layer.steps)
            if longer is None:
                continue
            tracer = Tracer(longer, rest)
            values = tracer.run(tracer.draw({STEPS: _MORE * layer.steps}))
        except RunFailedError:
            continue
        if _steps(layer.node, values) == _MORE * layer.steps:
            return axis
    return None


def _one_step(model: ModelProto, name: str, axis: int, options: AdoptOptions) -> tuple[Dim, ...]:
    """Return the sizes of one step of one row."""
    return _without_batch(name, [dim for at, dim in enumerate(_dims(model, name)) if at != axis], options)


def _window(shapes: dict[str, tuple[Dim, ...]]) -> str:
    return " --step ".join(f"{name}={'x'.join(map(str, shape)) or 1}" for name, shape in shapes.items())


def _question(
    layer: _Restarting, shapes: dict[str, tuple[Dim, ...]], single: dict[str, tuple[Dim, ...]]
) -> AmbiguousError:
    outside = "export the file with the number of steps open, or with its states as inputs and outputs"
    carried = f"the state is carried from step to step (--step {_window(single)})" if single else outside
    return AmbiguousError(
        f"the {named_node(layer.node)} runs over {layer.steps} steps in every run, and starts again in the next one, "
        "because its state is neither an input nor an output",
        [
            f"each run is a window by itself (--step {_window(shapes)})",
            f"runs follow each other, and {carried}" if single else f"runs follow each other: {carried}",
        ],
        "the --step of one of them",
    )
