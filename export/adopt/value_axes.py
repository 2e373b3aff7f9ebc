"""Which axis of every value in a foreign graph is the time, and which the batch: found by runs with two sizes each."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from export.adopt.dependencies import Dependencies
from export.adopt.foreign_model import Dim, RunFailedError
from export.adopt.options import AdoptOptions
from export.adopt.origins import find_step_counts, find_vocabularies
from export.adopt.plan import DTYPES
from export.figure import Array
from export.onnx_session import single_threaded
from export.sentences import foreign_error

RECURRENT = ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM")
_SHORT, _LONG = 5, 8
"""Steps of the two runs that find the time axes."""
_ROWS = 3

Values = dict[str, Array]
Sizes = dict[str, int]
"""Name of an open size → its size in a run; 1 where it is not given."""


class Tracer:
    """Runs a model and returns every value of its main graph. Inputs are random, the same for the same sizes."""

    def __init__(self, model: ModelProto, options: AdoptOptions) -> None:
        self.model, self._options = model, options
        defaults = {tensor.name for tensor in model.graph.initializer}
        self.ports = {
            value.name: tuple(_dims(value, options)) for value in model.graph.input if value.name not in defaults
        }
        self._dtypes = {value.name: DTYPES.get(value.type.tensor_type.elem_type, "") for value in model.graph.input}
        self._vocabularies, self._counts = find_vocabularies(model), find_step_counts(model)
        traced = ModelProto()
        traced.CopyFrom(model)
        shown = {value.name for value in model.graph.output}
        names = [name for node in model.graph.node for name in node.output if name and name not in shown]
        traced.graph.output.extend(ValueInfoProto(name=name) for name in names)
        try:
            self._session = single_threaded(traced.SerializeToString(), optimised=False)
        except Exception as exc:  # onnxruntime raises many types of its own
            raise RunFailedError(foreign_error(exc)) from exc
        self._names = [value.name for value in traced.graph.output]

    def is_settled(self, name: str) -> bool:
        """Return whether the user says what an input is."""
        return name in self._options.states or name in self._options.constants

    def without_initial_states(self) -> "Tracer":
        """Return the same for a model whose recurrent layers start from zeros, where no input gives their start."""
        model, depends = ModelProto(), Dependencies(self.model)
        model.CopyFrom(self.model)
        for node in model.graph.node:
            if node.op_type in RECURRENT:
                for at in (5, 6):
                    if at < len(node.input) and node.input[at] and not depends.of(node.input[at]):
                        node.input[at] = ""
        return Tracer(model, self._options)

    def draw(self, sizes: Sizes, steps: int = 1, seed: int = 0) -> Values:
        """Draw all inputs; those that count steps are `steps`, constants are the user's."""
        random = np.random.default_rng(seed)
        drawn: Values = {}
        for name, dims in self.ports.items():
            shape = [sizes.get(dim, 1) if isinstance(dim, str) else dim for dim in dims]
            dtype = self._dtypes[name]
            if name in self._options.constants:
                value = np.asarray(self._options.constants[name])
                drawn[name] = (value.reshape(shape) if value.size == np.prod(shape) else value).astype(dtype)
            elif name in self._counts:
                drawn[name] = np.full(shape, steps, dtype)
            elif dtype.startswith("float"):
                drawn[name] = (0.5 * random.standard_normal(shape)).astype(dtype)
            else:
                drawn[name] = random.integers(0, self._vocabularies.get(name, 2), shape).astype(dtype or "int64")
        return drawn

    def other(self, name: str, values: Array) -> Array:
        """Return other values for an input, all of them different."""
        if values.dtype.kind == "f":
            return (values + 1.5).astype(values.dtype)
        if values.dtype.kind == "b":
            return ~values
        changed: Array = ((values + 1) % self._vocabularies.get(name, 2)).astype(values.dtype)
        return changed

    def run(self, feeds: Values) -> Values:
        """Return all values of a run, inputs included.

        Raises:
            RunFailedError: It does not run on these.
        """
        try:
            found = self._session.run(self._names, feeds)
        except Exception as exc:  # onnxruntime raises many types of its own
            raise RunFailedError(foreign_error(exc)) from exc
        arrays = {name: v for name, v in zip(self._names, found, strict=True) if isinstance(v, np.ndarray)}
        return dict(feeds) | arrays


def _dims(value: ValueInfoProto, options: AdoptOptions) -> Iterator[Dim]:
    """Yield the sizes of an input, the open ones by name; a step or an overlap that the user gave is not open."""
    given = options.steps.get(value.name)
    dims = value.type.tensor_type.shape.dim
    for axis, dim in enumerate(dims):
        if dim.WhichOneof("value") == "dim_value":
            yield dim.dim_value
        elif given is not None and axis >= len(dims) - len(given):
            yield given[axis - (len(dims) - len(given))]
        else:
            yield dim.dim_param or f"?:{value.name}:{axis}"


@dataclass(slots=True)
class ValueAxes:
    """The axes of all values of a model's main graph.

    time: the name of the open size that counts steps. batch: the names of those that count rows, which are equal in
    every run; empty where none is known. short, long: the values of a run over a few steps and over more of them, both
    for one row. times: value → the axis that counts steps. grown: value → the axes whose size the time changes.
    batches: value → the axis that the number of rows changes.
    """

    tracer: Tracer
    time: str
    batch: tuple[str, ...]
    short: Values
    long: Values
    wide: Values | None
    times: dict[str, int] = field(default_factory=dict)
    grown: dict[str, list[int]] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.short.items():
            self.grown[name] = _changed(value, self.long.get(name))
            axes = self.grown[name]
            if len(axes) == 1 and (value.shape[axes[0]], self.long[name].shape[axes[0]]) == (_SHORT, _LONG):
                self.times[name] = axes[0]
            rows = _changed(value, None if self.wide is None else self.wide.get(name))
            if len(rows) == 1:
                self.batches[name] = rows[0]

    def run(self, steps: int, seed: int = 0) -> tuple[Values, Values]:
        """Draw inputs of one row and so many steps; return them and all values."""
        feeds = self.tracer.draw({self.time: steps}, steps, seed)
        return feeds, self.tracer.run(feeds)


def _changed(one: Array, other: Array | None) -> list[int]:
    if other is None or one.ndim != other.ndim:
        return []
    return [axis for axis, (n, m) in enumerate(zip(one.shape, other.shape, strict=True)) if n != m]


def find_value_axes(model: ModelProto, options: AdoptOptions) -> ValueAxes | None:
    """Return the axes of all values; None where no open size counts steps, or the model does not run.

    The time is the open size along which most recurrent layers run, or else most convolutions and pads reach.
    """
    ops = {node.op_type for node in model.graph.node}
    if not ops & {*RECURRENT, "Scan", "Loop", "Conv", "Pad", "Concat"}:
        return None
    try:
        tracer = Tracer(model, options)
    except RunFailedError:
        return None
    symbols = _open_sizes(tracer, options)
    best: tuple[int, int] = (0, 0)
    found: ValueAxes | None = None
    for symbol in symbols:
        try:
            tried = _along(tracer, symbol)
        except RunFailedError:
            continue
        score = _score(model, tried)
        if score > best:
            best, found = score, tried
    return None if found is None else _with_batch(found, symbols)


def value_axes_along(model: ModelProto, options: AdoptOptions, time: str) -> ValueAxes:
    """Return the axes of all values where the open size `time` counts steps; the batch is not looked for.

    Raises:
        RunFailedError: The model does not run on several steps.
    """
    return _along(Tracer(model, options), time)


def _along(tracer: Tracer, symbol: str) -> ValueAxes:
    short = tracer.run(tracer.draw({symbol: _SHORT}, _SHORT))
    long = tracer.run(tracer.draw({symbol: _LONG}, _LONG))
    return ValueAxes(tracer, symbol, (), short, long, None)


def _open_sizes(tracer: Tracer, options: AdoptOptions) -> list[str]:
    """Return the open sizes that may count steps: none whose axis the user calls the batch or a part of a step."""
    found: dict[str, None] = {}
    for name, dims in tracer.ports.items():
        fixed = name in options.overlaps or len(options.steps.get(name, ())) >= len(dims) - 1 > 0
        for axis, dim in enumerate(dims):
            if isinstance(dim, str) and not fixed and options.batch_axes.get(name) != axis:
                found[dim] = None
    return list(found)


def _score(model: ModelProto, axes: ValueAxes) -> tuple[int, int]:
    """Return how many recurrent layers and loops run along the time, and how many other nodes reach along it."""
    layers = reaching = 0
    for node in model.graph.node:
        values = [name for name in node.input if name]
        if node.op_type in RECURRENT:
            layers += axes.times.get(node.input[0]) == 0
        elif node.op_type == "Scan":
            layers += _scans_along_time(node, axes)
        elif node.op_type == "Loop":
            layers += any(axes.grown.get(name) for name in node.output)
        elif node.op_type in ("Conv", "Pad", "Concat") and values:
            reaching += axes.times.get(values[-1 if node.op_type == "Concat" else 0], 0) >= (
                2 if node.op_type == "Conv" else 1
            )
    return layers, reaching


def _scans_along_time(node: NodeProto, axes: ValueAxes) -> bool:
    """Return whether an axis that a Scan takes apart is the time."""
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    scanned = given["num_scan_inputs"]
    along = given.get("scan_input_axes") or [0] * scanned
    return any(axes.times.get(name) == axis for name, axis in zip(node.input[-scanned:], along, strict=True))


def _with_batch(found: ValueAxes, symbols: list[str]) -> ValueAxes:
    """Return the same with the sizes that count rows: one alone, or all but the time, as of states without names.

    An initial state of one row in the file does not keep the sizes of more rows from being found: it is left out.
    """
    others = [symbol for symbol in symbols if symbol != found.time]
    tries: list[tuple[str, ...]] = [(one,) for one in others]
    tries += [tuple(others)] if len(others) > 1 else []
    if not tries:
        return found
    for tracer in (found.tracer, found.tracer.without_initial_states()):
        for batch in tries:
            sizes = {found.time: _SHORT} | dict.fromkeys(batch, _ROWS)
            try:
                wide = tracer.run(tracer.draw(sizes, _SHORT))
            except RunFailedError:
                continue
            return ValueAxes(found.tracer, found.time, batch, found.short, found.long, wide)
    return found
