"""The original model, run directly: one sequence or several, one step at a time, its states fed back by hand."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from export.adopt.errors import NotServableError
from export.adopt.foreign_model import ForeignModel
from export.adopt.layouts import Layouts, from_rows, sizes_of, to_rows
from export.adopt.options import MOST_BEFORE, AdoptOptions
from export.adopt.pairing import Pair
from export.figure import Array

Rows = dict[str, Array]
"""Input, output or state → (batch, *inner): the first axis is the batch."""


@dataclass(slots=True)
class Original:
    """Runs a foreign model with known layouts, and draws inputs for it.

    It uses nothing of the served graph, which is compared with it.
    """

    foreign: ForeignModel
    layouts: Layouts
    pairs: tuple[Pair, ...]
    options: AdoptOptions
    constants: Rows
    vocabularies: Mapping[str, int]
    positive: bool = False
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def data(self) -> list[str]:
        """Return the inputs that clients send."""
        sources = {pair.source for pair in self.pairs}
        return [name for name in self.layouts if name not in sources]

    @property
    def overlaps(self) -> dict[str, tuple[int, int]]:
        """Return input → (samples, inner axis) of those that overlap."""
        return {name: (count, self.overlap_axis(name)) for name, count in self.options.overlaps.items()}

    def overlap_axis(self, name: str) -> int:
        """Return the inner axis along which an input overlaps.

        It is the time; or the axis of which a step has less than the file's fixed size; or the only one of no fixed
        size; or the only one.
        """
        layout, port = self.layouts[name], self.foreign.inputs[name]
        dims = [dim for axis, dim in enumerate(port.dims) if axis != layout.batch]
        pairs = list(enumerate(zip(dims, layout.inner, strict=True)))
        shorter = [axis for axis, (dim, size) in pairs if isinstance(dim, int) and dim > size]
        open_axes = [axis for axis, (dim, _) in pairs if isinstance(dim, str)]
        axis = layout.time
        for found in (shorter, open_axes, list(range(len(dims)))):
            if axis is None and len(found) == 1:
                axis = found[0]
        if axis is None:
            raise NotServableError(
                f"--overlap {name}: the input {port} has {len(layout.inner)} axes besides the batch, and none of them "
                "counts steps"
            )
        count = self.options.overlaps.get(name, 0)
        values = count * math.prod(layout.inner) // layout.inner[axis]
        if values > MOST_BEFORE:
            raise NotServableError(
                f"--overlap {name}:{count} keeps {values:,} values for each sequence, more than {MOST_BEFORE:,}"
            )
        return axis

    def draw(self, batch: int, time: int = 1) -> Rows:
        """Draw random inputs of one run, without the overlap."""
        drawn = {}
        for name in self.data:
            dtype = self.foreign.inputs[name].dtype
            whole = sizes_of(self.layouts[name], batch, time)
            shape = to_rows(np.empty(whole, bool), self.layouts[name]).shape
            values: Array
            if dtype.startswith("float"):
                values = self.random.random(shape) if self.positive else 0.5 * self.random.standard_normal(shape)
            else:
                values = self.random.integers(0, self.vocabularies.get(name, 2), shape)
            drawn[name] = values.astype(dtype)
        return drawn

    def start(self, batch: int) -> Rows:
        """Return the states before the first step, overlaps by the name of their input."""
        states = {}
        for pair in self.pairs:
            layout, dtype = self.layouts[pair.source], self.foreign.inputs[pair.source].dtype
            row = np.zeros(layout.inner, dtype)
            given = self.options.initial.get(pair.source)
            if given is not None:
                row = initial_value(pair.source, given, layout.inner, layout.batch, dtype)
            states[pair.source] = np.repeat(row[None], batch, axis=0)
        for name, (count, axis) in self.overlaps.items():
            inner = list(self.layouts[name].inner)
            inner[axis] = count
            states[name] = np.zeros((batch, *inner), self.foreign.inputs[name].dtype)
        return states

    def step(self, inputs: Rows, states: Rows) -> tuple[dict[str, Array], Rows]:
        """Run the original once; return its outputs unchanged, and the states as rows.

        Raises:
            RunFailedError: It does not run on these.
        """
        whole, after = dict(inputs), {}
        for name, (count, axis) in self.overlaps.items():
            whole[name] = np.concatenate([states[name], inputs[name]], axis=1 + axis)
            size = whole[name].shape[1 + axis]
            after[name] = np.take(whole[name], range(size - count, size), axis=1 + axis)
        for pair in self.pairs:
            whole[pair.source] = states[pair.source]
        feeds = {name: np.asarray(from_rows(rows, self.layouts[name]), order="C") for name, rows in whole.items()}
        outputs = self.foreign.run(feeds | self.constants)
        for pair in self.pairs:
            after[pair.source] = to_rows(outputs[pair.target], self.layouts[pair.source])
        return outputs, after


def initial_value(name: str, given: Array, inner: tuple[int, ...], batch: int | None, dtype: str) -> Array:
    """Return a given initial value as a row, (*inner); it may have a batch axis of 1, or be one number.

    Raises:
        NotServableError: It has another shape, or does not fit the state's dtype.
    """
    row = given
    if batch is not None and given.ndim == len(inner) + 1 and given.shape[batch] == 1:
        row = np.take(given, 0, axis=batch)
    if row.shape not in (inner, ()):
        raise NotServableError(f"the initial value of {name} has the shape {given.shape}, and should have {inner}")
    held, fits = cast(np.broadcast_to(row, inner), dtype)
    if not fits:
        raise NotServableError(f"the initial value of {name} cannot be held as {dtype}")
    return held


def cast(value: Array, dtype: str) -> tuple[Array, bool]:
    """Return values in a dtype, and whether they fit: floats must stay finite, all others must not change."""
    with np.errstate(over="ignore", invalid="ignore"):
        held = value.astype(dtype)
    return held, bool(np.isfinite(held).all() if held.dtype.kind == "f" else np.array_equal(held, value))
