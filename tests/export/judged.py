"""The judgement of one foreign file: what is served of it is its run over the whole sequence, or nothing is written."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper

from export import ExportOptions
from export.adopt import AdoptOptions, adopt_model
from export.adopt.public_names import public_names
from export.arena_runner import INITIAL_SLOT, ArenaRunner
from export.artefact import read_card
from export.errors import ExportError
from models.card import ModelCard
from tests.export.exact import Exact

LENGTHS = (1, 11, 29)
"""Steps of the sequences: sizes that nothing else has."""
TOLERANCE = 1e-4
_FLOAT32_FACTOR = 20.0
_LOUD = 1e4
_TINY = 1e-30

ADOPTED, REFUSED, WRONG = "adopted", "refused", "wrong"


@dataclass(frozen=True, slots=True)
class Subject:
    """A file, and what is known of it without running it.

    `axes` are its inputs that have a time of no fixed size, each with that axis; inputs that are neither states nor
    among them keep one value over a sequence. Where there are none, each run is a step, and `pairs`, state input →
    output, are fed back. `lengths` are inputs that hold the number of steps.
    """

    model: ModelProto
    axes: Mapping[str, int] = field(default_factory=dict)
    pairs: Mapping[str, str] = field(default_factory=dict)
    lengths: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    twin: ModelProto | None = None
    named: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of a file: `reason` is the error's type or what was wrong, `error` the largest difference."""

    result: str
    reason: str = ""
    message: str = ""
    error: float = 0.0
    card: ModelCard | None = None


def runs(subject: Subject) -> bool:
    """Return whether a file runs at all, on one row of several steps.

    onnxruntime must run it too, where it can: onnx.reference takes some that the specification does not allow.
    """
    comparison, session = _Sizes(subject), None
    try:
        if not any(one.name == "layout" for node in subject.model.graph.node for one in node.attribute):
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = ort.InferenceSession(subject.model.SerializeToString(), options, ["CPUExecutionProvider"])
        for steps in (1, 6):
            feeds = {name: np.zeros(comparison.shape(name, steps), comparison.dtype(name)) for name in comparison.ports}
            feeds |= {name: np.full_like(feeds[name], steps) for name in subject.lengths}
            Exact(subject.model).run(feeds | comparison.constants())
            if session is not None:
                session.run(None, feeds | comparison.constants())
    except Exception:  # whatever the reference makes of it
        return False
    return True


class _Sizes:
    """The inputs of a file: their shapes for one row, and the values that the user gives."""

    def __init__(self, subject: Subject) -> None:
        self._subject, graph = subject, subject.model.graph
        self.defaults = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        ports = [one for one in graph.input if subject.model.ir_version >= 4 or one.name not in self.defaults]
        self.ports = {one.name: one for one in ports}

    def shape(self, name: str, steps: int = 1) -> list[int]:
        """Return an input's shape for one row and so many steps."""
        dims = self.ports[name].type.tensor_type.shape.dim
        given = dict(self._subject.options.get("sizes", {}))
        sizes = [dim.dim_value or given.get(dim.dim_param, 1) for dim in dims]
        if name in self._subject.axes:
            sizes[self._subject.axes[name]] = steps
        return sizes

    def dtype(self, name: str) -> Any:
        """Return an input's dtype."""
        kind = self.ports[name].type.tensor_type.elem_type
        return helper.tensor_dtype_to_np_dtype(kind) if kind != TensorProto.UNDEFINED else np.float32

    def constants(self) -> dict[str, Any]:
        """Return the inputs that never change."""
        given = AdoptOptions.parse(constants=self._subject.options.get("constants", ())).constants
        return {name: value.reshape(self.shape(name)).astype(self.dtype(name)) for name, value in given.items()}


def judge(subject: Subject, folder: Path) -> Judgement:
    """Adopt a file, stream what is served, and compare it with the file's own run in float64."""
    file = folder / "foreign.onnx"
    file.write_bytes(subject.model.SerializeToString())
    options = {name: value for name, value in subject.options.items() if name != "sizes"}
    tolerance = options.pop("tolerance", None)
    export = ExportOptions() if tolerance is None else ExportOptions(tolerance=tolerance)
    try:
        path = adopt_model(file, folder, "m", 1, export, adopt_options=AdoptOptions.parse(**options))
    except ExportError as exc:
        if (folder / "m").exists():
            return Judgement(WRONG, "refused, but something is written", str(exc))
        return Judgement(REFUSED, type(exc).__name__, str(exc))
    except Exception as exc:  # whatever it is, it would be a traceback
        return Judgement(WRONG, f"traceback: {type(exc).__name__}", str(exc))
    card, served = read_card(path), path.read_bytes()
    error = _Comparison(subject, card, served).error()
    for reading in _readings(subject) if error > 1 else ():
        try:
            error = min(error, _Comparison(reading, card, served).error())
        except ValueError:  # the file does not run so
            continue
    if error <= 1:
        return Judgement(ADOPTED, error=error * subject.tolerance, card=card)
    return Judgement(WRONG, "served something else", error=error * subject.tolerance, card=card)


def _readings(subject: Subject) -> Iterator[Subject]:
    """Yield, of a subject that has no time and no state, those whose time is an axis of no fixed size.

    A layer that runs over the only open axis of a file makes it the time, whatever it is called.
    """
    if subject.pairs:
        return
    if subject.named:
        yield replace(subject, axes=subject.named)
    if subject.axes:
        return
    for value in subject.model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_value:
                yield replace(subject, axes={value.name: axis})


class _Comparison:
    """One artefact beside the graph that it was made from."""

    def __init__(self, subject: Subject, card: ModelCard, served: bytes) -> None:
        self._subject, self._card = subject, card
        self._exact = Exact(subject.twin or subject.model)
        self._runner = ArenaRunner(served, card, slots=16)
        self._sizes = _Sizes(subject)
        self._sent = {public_names([name])[name]: name for name in self._sizes.ports}
        states = [line.split(" ") for line in card.config["findings"] if line.startswith("state ")]
        fed = {words[3].rstrip(":") for words in states}
        outputs = [one.name for one in subject.model.graph.output]
        sent = [name for name in outputs if name not in fed] or outputs
        self._given = dict(zip((spec.name for spec in card.outputs), sent, strict=True))
        self._random = np.random.default_rng(7)

    def error(self) -> float:
        """Return the largest difference, of what is allowed; infinite where the shapes differ."""
        return max(self._error(steps) for steps in LENGTHS)

    def _error(self, steps: int) -> float:
        rows = {spec.name: self._draw(spec, steps) for spec in self._card.inputs}
        wide, plain = (self._expected(rows, steps, wide=wide) for wide in (True, False))
        worst = 0.0
        for strangers in (0, 2) if self._card.max_batch > 2 else (0,):
            found = self._served(rows, steps, strangers)
            for spec in self._card.outputs:
                name = self._given[spec.name]
                worst = max(worst, self._gap(found[spec.name], wide[name], plain[name], steps))
        return worst

    def _draw(self, spec: Any, steps: int) -> Any:
        """Return (steps, *shape) of one input; one value for all of them where it has no time of its own."""
        name = self._sent[spec.name]
        timed = not self._subject.axes or name in self._subject.axes
        shape = (steps if timed else 1, *spec.shape)
        values: Any
        if spec.dtype.startswith("float"):
            values = 0.7 * self._random.standard_normal(shape)
        else:
            values = self._random.integers(0, spec.vocabulary or 2, shape)
        return np.repeat(values, 1 if timed else steps, axis=0).astype(spec.dtype)

    def _expected(self, rows: dict[str, Any], steps: int, *, wide: bool) -> dict[str, Any]:
        """Return what the graph gives: each output of all steps, (steps, …), or of the last alone, (1, …)."""
        sizes = self._sizes
        feeds = self._starts() | sizes.constants()
        feeds |= {name: np.full(sizes.shape(name), steps, sizes.dtype(name)) for name in self._subject.lengths}
        if self._subject.axes:
            for public, values in rows.items():
                name = self._sent[public]
                axis = self._subject.axes.get(name)
                one = values[:1] if axis is None else values
                shape = sizes.shape(name, steps)
                if axis is not None:
                    moved = [steps, *(size for at, size in enumerate(shape) if at != axis)]
                    feeds[name] = np.moveaxis(one.reshape(moved), 0, axis)
                else:
                    feeds[name] = one.reshape(shape)
            return self._exact.run(feeds, wide=wide)
        outputs: dict[str, list[Any]] = {}
        held = self._overlaps()
        for step in range(steps):
            one = {self._sent[public]: values[step] for public, values in rows.items()}
            for name, before in held.items():
                one[name] = np.concatenate([before, one[name].reshape(1, -1, *before.shape[2:])], axis=1)
                held[name] = one[name][:, -before.shape[1] :]
            feeds |= {name: v if name in held else v.reshape(sizes.shape(name)) for name, v in one.items()}
            found = self._exact.run(feeds, wide=wide)
            for source, target in self._subject.pairs.items():
                feeds[source] = found[target]
            for name, value in found.items():
                outputs.setdefault(name, []).append(value)
        # a cache that grows has no size of its own, and is sent to no client
        sized = {name: values for name, values in outputs.items() if len({value.shape for value in values}) == 1}
        return {name: np.stack(values) for name, values in sized.items()}

    def _overlaps(self) -> dict[str, Any]:
        """Return what stands before the first step of inputs that overlap along their second axis: zeros."""
        counts = AdoptOptions.parse(overlaps=self._subject.options.get("overlaps", ())).overlaps
        sizes = self._sizes
        shapes = {name: [1, count, *sizes.shape(name)[2:]] for name, count in counts.items()}
        return {name: np.zeros(shape, sizes.dtype(name)) for name, shape in shapes.items()}

    def _starts(self) -> dict[str, Any]:
        """Return the states before the first step: the file's default value, or zeros."""
        sizes = self._sizes
        sent = {self._sent[spec.name] for spec in self._card.inputs} | {*sizes.constants(), *self._subject.lengths}
        starts = {}
        for name in sizes.ports:
            if name not in sent:
                default = sizes.defaults.get(name)
                starts[name] = np.zeros(sizes.shape(name), sizes.dtype(name)) if default is None else default
        return starts

    def _served(self, rows: dict[str, Any], steps: int, strangers: int) -> dict[str, Any]:
        """Return the outputs, (steps, *shape), of one session in chunks, beside others that are loud or all zeros."""
        mine = strangers // 2
        batch = {name: np.stack([values] * (strangers + 1)) for name, values in rows.items()}
        for values in batch.values():
            if values.dtype.kind == "f" and strangers:
                values[:mine] *= _LOUD
                values[mine + 1 :] = 0
            elif strangers:
                values[:mine], values[mine + 1 :] = values.max(), values.min()
        slots, start = np.full(strangers + 1, INITIAL_SLOT), 0
        parts: dict[str, list[Any]] = {}
        while start < steps:
            stop = min(steps, start + int(self._random.integers(1, 6)))
            written = 2 + self._random.permutation(14)[: strangers + 1]
            chunk = {name: values[:, start:stop] for name, values in batch.items()}
            for name, values in self._runner.run(chunk, slots, written).items():
                parts.setdefault(name, []).append(values[mine])
            slots, start = written, stop
        return {name: np.concatenate(values) for name, values in parts.items() if not name.startswith("state.")}

    def _gap(self, found: Any, wide: Any, plain: Any, steps: int) -> float:
        """Return how far the served steps are from the expected, of what is allowed."""
        one, axis = found[0].size, self._timed(wide, steps)
        if wide.size == found.size and axis is not None:
            # a step may give several values along the axis of the steps
            wide, plain = (np.stack(np.split(value, steps, axis)).reshape(found.shape) for value in (wide, plain))
        elif wide.size == one:
            found = found[-1:]
            wide, plain = wide.reshape(found.shape), plain.reshape(found.shape)
        else:
            return np.inf
        if found.dtype.kind != "f":
            return 0.0 if np.array_equal(found, wide) else np.inf
        flat, exact, own = (np.asarray(v, np.float64).reshape(len(found), -1) for v in (found, wide, plain))
        finite = np.isfinite(exact) & np.isfinite(own)
        if not np.isfinite(flat[finite]).all():
            return np.inf
        flat, exact, own = (np.where(finite, value, 0) for value in (flat, exact, own))
        spread = exact.max(0) - exact.min(0) if len(exact) > 1 else np.abs(exact).max(0)
        spread = np.maximum(spread, max(1e-2 * spread.max(initial=0), 1e-6 * np.abs(exact).max(initial=0), _TINY))
        allowed = self._subject.tolerance * spread + _FLOAT32_FACTOR * np.abs(own - exact).max(0) + 1e-6 * np.abs(exact)
        return float((np.abs(flat - exact) / allowed).max(initial=0))

    def _timed(self, value: Any, steps: int) -> int | None:
        """Return the axis of an output that counts steps."""
        if not self._subject.axes:
            return 0
        several = [axis for axis, size in enumerate(value.shape) if size and size % steps == 0]
        return next((axis for axis, size in enumerate(value.shape) if size == steps), next(iter(several), None))
