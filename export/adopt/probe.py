"""Runs of the original that settle what its declared shapes leave open."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from export.adopt.errors import AmbiguousError, NotServableError
from export.adopt.foreign import RunFailedError
from export.adopt.layouts import Candidate, Reading, to_rows
from export.adopt.original import Original
from export.adopt.plan import Array, Layout

_BATCH = 3
_STEPS = 5
_CLOSE = 1e-3
"""How far rows may differ, of the largest value, when they are run in another company: rounding, not influence."""


@dataclass(frozen=True, slots=True)
class Found:
    """A reading that runs, the layouts of all outputs in it, and whether rows can be run together."""

    original: Original
    outputs: Reading
    batched: bool
    why_not_batched: str = ""


def settle(original: Original, candidates: list[Candidate]) -> Found:
    """Return the one reading in which the original runs, several rows at once where it can.

    Raises:
        AmbiguousError: It runs in several, and names prefer none.
        NotServableError: It runs in none.
    """
    reasons: list[str] = []
    found: list[tuple[int, Found]] = []
    for candidate in candidates:
        tried = replace(original, reading=candidate.layouts)
        if all(layout.batch is not None for layout in candidate.layouts.values()):
            try:
                found.append((candidate.rank, Found(tried, _rows_apart(tried), batched=True)))
            except (RunFailedError, _NotApartError) as exc:
                reasons.append(str(exc))
    best = [tried for rank, tried in found if rank == found[0][0]]
    if len(best) > 1:
        raise _ambiguous(best)
    if best:
        return best[0]
    why = reasons[0] if reasons else "its shapes are fixed to one row"
    failures = []
    for candidate in candidates:
        tried = replace(original, reading=candidate.layouts)
        try:
            return Found(tried, _single(tried), batched=False, why_not_batched=why)
        except RunFailedError as exc:
            failures.append(str(exc))
    likeliest = replace(original, reading=candidates[0].layouts)
    raise NotServableError(_does_not_run(likeliest, failures[0] if failures else why))


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
    raise NotServableError(f"the output {bad[0]!r} is not finite on random inputs: the model's weights are not sound")


def effects(original: Original) -> dict[str, float]:
    """Return, for each state, how much the outputs change, of their size, when it alone is not fed back."""
    inputs = [original.draw(1) for _ in range(4)]
    whole = _carry(original, inputs, without=())
    return {pair.source: _gap(whole, _carry(original, inputs, without=(pair.source,))) for pair in original.pairs}


def runs_many_steps(original: Original, outputs: Reading) -> Reading | None:
    """Return the outputs' layouts if the original runs any number of steps at once, as it does them one by one."""
    data = [(original.foreign.inputs[name], original.reading[name]) for name in original.data]
    for port, layout in data:
        open_time = layout.time_axis is not None and isinstance(port.dims[layout.time_axis], str)
        if not open_time or port.name in original.wishes.steps or port.name in original.wishes.overlaps:
            return None
    inputs = original.draw(1, _STEPS)
    try:
        together, after = original.step(inputs, original.start(1))
    except RunFailedError:
        return None
    states, singles = original.start(1), []
    for step in range(_STEPS):
        one = {name: _step_of(rows, original.reading[name], step) for name, rows in inputs.items()}
        single, states = original.step(one, states)
        singles.append(single)
    found = dict(outputs)
    fed = {pair.target for pair in original.pairs}
    for name, layout in outputs.items():
        if name in fed and fed != set(outputs):
            continue
        grown = [a for a, (n, m) in enumerate(zip(singles[0][name].shape, together[name].shape, strict=True)) if n != m]
        if len(grown) != 1 or together[name].shape[grown[0]] != _STEPS or singles[0][name].shape[grown[0]] != 1:
            return None
        stacked = np.concatenate([single[name] for single in singles], axis=grown[0])
        place = grown[0] - (layout.batch is not None and grown[0] > layout.batch)
        found[name] = replace(layout, time=place)
        if not _close(stacked, together[name]):
            return None
    return found if all(_close(after[name], states[name]) for name in states) else None


class _NotApartError(Exception):
    """Rows that are run together are not what they are alone."""


def _rows_apart(original: Original) -> Reading:
    """Run rows together and alone; return the outputs' layouts."""
    rows = [original.draw(1) for _ in range(_BATCH)]
    states = []
    for _ in rows:
        state = original.start(1)
        for _ in range(2):
            _, state = original.step(original.draw(1), state)
        states.append(state)
    together, after = original.step(_stacked(rows), _stacked(states))
    alone = [original.step(row, state) for row, state in zip(rows, states, strict=True)]
    found = {}
    for name, value in together.items():
        axes = _grown(alone[0][0][name], value, name)
        for row, (single, _) in enumerate(alone):
            if not _close(np.take(value, [row], axis=axes), single[name]):
                raise _NotApartError(f"a row's output {name!r} depends on the other rows of its batch")
        found[name] = _output_layout(value, axes, original)
    for pair in original.pairs:
        axis = found[pair.target].batch
        if axis != original.reading[pair.source].batch:
            raise _NotApartError(f"the batch is on another axis of {pair.target!r} than of {pair.source!r}")
        _check_shape(original, pair.source, pair.target, after[pair.source])
    return found


def _single(original: Original) -> Reading:
    outputs, after = original.step(original.draw(1), original.start(1))
    for pair in original.pairs:
        _check_shape(original, pair.source, pair.target, after[pair.source])
    found = {}
    for name, value in outputs.items():
        first = 0 if value.ndim > 1 and value.shape[0] == 1 else None
        axis = original.wishes.batch_axes.get(name, first)
        if axis is not None and (axis >= value.ndim or value.shape[axis] != 1):
            raise NotServableError(f"--batch-axis {name}:{axis}: the output is of shape {value.shape}")
        found[name] = _output_layout(value, axis, original)
    return found


def _check_shape(original: Original, source: str, target: str, rows: Array) -> None:
    inner = original.reading[source].inner
    if rows.shape[1:] != inner:
        raise NotServableError(
            f"the state {source!r} has the shape {inner} and the output {target!r} that feeds it {rows.shape[1:]}, "
            "without the batch: a state must keep its shape"
        )


def _output_layout(value: Array, batch: int | None, original: Original) -> Layout:
    inner = tuple(dim for axis, dim in enumerate(value.shape) if axis != batch)
    timed = any(original.reading[name].time is not None for name in original.data)
    return Layout(inner, batch, 0 if timed and len(inner) > 1 and inner[0] == 1 else None)


def _grown(alone: Array, together: Array, name: str) -> int:
    if alone.ndim == together.ndim:
        axes = [axis for axis, (n, m) in enumerate(zip(alone.shape, together.shape, strict=True)) if n != m]
        if len(axes) == 1 and alone.shape[axes[0]] == 1 and together.shape[axes[0]] == _BATCH:
            return axes[0]
    raise _NotApartError(f"the output {name!r} is of shape {together.shape} for {_BATCH} rows, {alone.shape} for one")


def _stacked(rows: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _step_of(rows: Array, layout: Layout, step: int) -> Array:
    return rows if layout.time is None else np.take(rows, [step], axis=1 + layout.time)


def _carry(original: Original, inputs: list[dict[str, Array]], without: Iterable[str]) -> list[dict[str, Array]]:
    states, outputs = original.start(1), []
    for one in inputs:
        found, states = original.step(one, states)
        states |= {name: rows for name, rows in original.start(1).items() if name in without}
        outputs.append(found)
    return outputs


def _gap(one: list[dict[str, Array]], other: list[dict[str, Array]]) -> float:
    gaps = [0.0]
    for a, b in zip(one, other, strict=True):
        for name, value in a.items():
            first, second = value.astype(np.float64), b[name].astype(np.float64)
            gaps.append(float(np.abs(first - second).max(initial=0.0) / max(np.abs(first).max(initial=0.0), 1e-30)))
    return max(gaps)


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    # sums of a row in another company are rounded otherwise: 1e-3 leaves room for float16
    scale = max(float(np.abs(other.astype(np.float64)).max(initial=0.0)), 1e-6)
    return bool(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0) <= _CLOSE * scale)


def _not_finite(outputs: dict[str, Array]) -> list[str]:
    return [name for name, value in outputs.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]


def _ambiguous(found: list[Found]) -> AmbiguousError:
    differing: set[str] = set()
    first = found[0].original.reading
    for one in found:
        reading = one.original.reading
        differing |= {name for name in reading if reading[name].batch != first[name].batch}
    names = sorted(differing)
    listed = [", ".join(f"{name}:{one.original.reading[name].batch}" for name in names) for one in found]
    return AmbiguousError(
        "the model runs with the batch on any of these axes", listed, "--batch-axis NAME:AXIS, as listed"
    )


def _does_not_run(original: Original, reason: str) -> str:
    opened = []
    for name in original.data:
        port, layout = original.foreign.inputs[name], original.reading[name]
        axis = layout.time_axis
        if axis is not None and isinstance(port.dims[axis], str) and name not in original.wishes.steps:
            opened.append(
                f"{port} has an axis, {str(port.dims[axis]).removeprefix('?:')!r}, of no fixed size, "
                f"and one step of size 1 does not run: give a step's shape by --step {name}=SIZE"
            )
    said = f" ({'; '.join(opened)})" if opened else ""
    return f"the model does not run on random inputs{said}: {reason}"


def rows_of(value: Array, layout: Layout) -> Array:
    """Return an output of one step as rows in the served form, (batch, *shape)."""
    rows = to_rows(value, layout)
    return rows.reshape(len(rows), *layout.shape)
