"""Runs of the original over several steps: is it finite, do its states matter, can it run steps together."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from export.adopt.errors import NotServableError
from export.adopt.foreign_model import RunFailedError
from export.adopt.layouts import Layouts
from export.adopt.original import Original
from export.adopt.plan import Layout
from export.figure import Array

_STEPS = 5
_CLOSE = 1e-3
"""How far values may differ, of the largest, when they are computed with other rows: rounding, not influence."""


def check_finite(original: Original) -> Original:
    """Return the original with inputs on which its outputs are finite.

    Raises:
        NotServableError: There are none: neither normal nor positive random inputs give finite outputs.
    """
    for positive in (False, True):
        tried = replace(original, positive=positive)
        states = tried.start(1)
        for _ in range(4):
            outputs, states = tried.step(tried.draw(1), states)
            bad = _not_finite(outputs)
            if bad:
                break
        else:
            return tried
    raise NotServableError(
        f"the output {bad[0]!r} is not finite on random inputs, and the service answers with finite numbers only: "
        "where the model masks with an infinity, give a large number such as -1e9; else its weights are not sound"
    )


def effects(original: Original) -> dict[str, float]:
    """Return, for each state, how much the outputs change, of their size, when it alone is not fed back."""
    inputs = [original.draw(1) for _ in range(4)]
    whole = _carry(original, inputs, without=())
    return {pair.source: _gap(whole, _carry(original, inputs, without=(pair.source,))) for pair in original.pairs}


def runs_many_steps(original: Original, outputs: Layouts, rows: int = 1) -> Layouts | None:
    """Return the outputs' layouts if the original runs any number of steps at once, as it does them one by one.

    It must do so for one row and, where rows can be run together, for several.
    """
    found = _layouts_of_many(original, outputs, 1)
    return found if found is None or rows == 1 or _layouts_of_many(original, found, rows) == found else None


def _layouts_of_many(original: Original, outputs: Layouts, rows: int) -> Layouts | None:
    data = [(original.foreign.inputs[name], original.layouts[name]) for name in original.data]
    for port, layout in data:
        open_time = layout.time_axis is not None and isinstance(port.dims[layout.time_axis], str)
        if (
            not open_time
            or layout.batch is None
            or port.name in original.options.steps
            or port.name in original.options.overlaps
        ):
            return None
    inputs = original.draw(rows, _STEPS)
    try:
        together, after = original.step(inputs, original.start(rows))
    except RunFailedError:
        return None
    states, singles = original.start(rows), []
    for step in range(_STEPS):
        one = {name: _step_of(values, original.layouts[name], step) for name, values in inputs.items()}
        single, states = original.step(one, states)
        singles.append(single)
    found = dict(outputs)
    fed = {pair.target for pair in original.pairs}
    for name, layout in outputs.items():
        if name in fed and fed != set(outputs):
            continue
        shapes = singles[0][name].shape, together[name].shape
        if len(shapes[0]) != len(shapes[1]):
            return None
        grown = [axis for axis, (n, m) in enumerate(zip(*shapes, strict=True)) if n != m]
        if len(grown) != 1 or together[name].shape[grown[0]] != _STEPS or singles[0][name].shape[grown[0]] != 1:
            return None
        stacked = np.concatenate([single[name] for single in singles], axis=grown[0])
        batch = layout.batch if layout.batch != grown[0] else _other_axis_of_one(singles[0][name], grown[0])
        if batch is None:
            return None
        inner = tuple(size for axis, size in enumerate(singles[0][name].shape) if axis != batch)
        found[name] = Layout(inner, batch, time=grown[0] - (grown[0] > batch))
        if not close(stacked, together[name]):
            return None
    return found if all(close(after[name], states[name]) for name in states) else None


def _other_axis_of_one(value: Array, time: int) -> int | None:
    """Return the first axis of size 1 beside the time: the batch of a file that is fixed to one row."""
    return next((axis for axis, size in enumerate(value.shape) if size == 1 and axis != time), None)


def _step_of(rows: Array, layout: Layout, step: int) -> Array:
    return rows if layout.time is None else np.take(rows, [step], axis=1 + layout.time)


def _carry(original: Original, inputs: list[dict[str, Array]], without: Iterable[str]) -> list[dict[str, Array]]:
    states, outputs = original.start(1), []
    for one in inputs:
        found, states = original.step(one, states)
        states |= {name: rows for name, rows in original.start(1).items() if name in without}
        outputs.append(found)
    return outputs


@np.errstate(over="ignore", invalid="ignore")
def _gap(one: list[dict[str, Array]], other: list[dict[str, Array]]) -> float:
    gaps = [0.0]
    for a, b in zip(one, other, strict=True):
        for name, value in a.items():
            first, second = value.astype(np.float64), b[name].astype(np.float64)
            gaps.append(float(np.abs(first - second).max(initial=0.0) / max(np.abs(first).max(initial=0.0), 1e-30)))
    return max(gaps)


@np.errstate(over="ignore", invalid="ignore")  # infinite values are equal to none, and reported elsewhere
def close(one: Array, other: Array) -> bool:
    """Return whether two tensors are the same but for rounding."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    # a row is rounded differently beside other rows: 1e-3 allows for float16
    scale = max(float(np.abs(other.astype(np.float64)).max(initial=0.0)), 1e-6)
    return bool(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0) <= _CLOSE * scale)


def _not_finite(outputs: dict[str, Array]) -> list[str]:
    return [name for name, value in outputs.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
