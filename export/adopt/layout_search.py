"""Runs of the original that decide between the layouts which its declared shapes allow."""

from dataclasses import dataclass, replace

import numpy as np

from export.adopt.behaviour import close
from export.adopt.errors import AmbiguousError, BadOptionError, GrowingStateError, NotServableError
from export.adopt.foreign_model import RunFailedError
from export.adopt.layouts import Candidate, Layouts, sizes_of, to_rows
from export.adopt.original import Original, Rows
from export.adopt.plan import Layout
from export.figure import Array

_BATCH = 3


@dataclass(frozen=True, slots=True)
class FoundLayouts:
    """The original with layouts in which it runs, its outputs' layouts, and whether rows can be run together."""

    original: Original
    outputs: Layouts
    batched: bool
    why_not_batched: str = ""


def find_layouts(original: Original, candidates: list[Candidate]) -> FoundLayouts:
    """Return the layouts in which the original runs, several rows at once where it can.

    Raises:
        AmbiguousError: It runs in several, and names decide for none.
        BadOptionError: An output's batch is on another axis than the option says, in all in which it runs.
        NotServableError: It runs in none of them.
    """
    reasons: list[str] = []
    misplaced: list[BadOptionError] = []
    found: list[tuple[int, FoundLayouts]] = []
    for candidate in candidates:
        tried = replace(original, layouts=candidate.layouts)
        if all(_batch_is_open(original, name, layout) for name, layout in candidate.layouts.items()):
            try:
                found.append((candidate.rank, FoundLayouts(tried, _independent_rows(tried), batched=True)))
            except (RunFailedError, _DependentRowsError) as exc:
                reasons.append(str(exc))
            except BadOptionError as exc:
                misplaced.append(exc)
    best = [tried for rank, tried in found if rank == found[0][0]]
    if len(best) > 1:
        raise _ambiguous(best)
    if best:
        return best[0]
    if misplaced:
        raise misplaced[0]
    why = reasons[0] if reasons else "its shapes are fixed to one row"
    failures = []
    for candidate in candidates:
        tried = replace(original, layouts=candidate.layouts)
        try:
            return FoundLayouts(tried, _single(tried), batched=False, why_not_batched=why)
        except RunFailedError as exc:
            failures.append(str(exc))
    likeliest = replace(original, layouts=candidates[0].layouts)
    raise NotServableError(_does_not_run(likeliest, failures[0] if failures else why))


def _batch_is_open(original: Original, name: str, layout: Layout) -> bool:
    return layout.batch is not None and layout.batch in original.foreign.inputs[name].free


class _DependentRowsError(Exception):
    """Rows that are run together differ from what they are alone."""


def _independent_rows(original: Original) -> Layouts:
    """Run rows together and alone, and return the outputs' layouts.

    Raises:
        _DependentRowsError: Together they give something else than alone.
    """
    rows = [original.draw(1) for _ in range(_BATCH)]
    states = []
    for _ in rows:
        state = original.start(1)
        for _ in range(2):
            _, state = original.step(original.draw(1), state)
        states.append(state)
    before = _stacked(states)
    together, after = original.step(_stacked(rows), before)
    alone = [original.step(row, state) for row, state in zip(rows, states, strict=True)]
    found = {}
    for name, value in together.items():
        axes = _grown(alone[0][0][name], value, name)
        given = original.options.batch_axes.get(name, axes)
        if given != axes:
            raise BadOptionError(f"--batch-axis {name}:{given}", f"the batch is on axis {axes} of this output")
        for row, (single, _) in enumerate(alone):
            if not close(np.take(value, [row], axis=axes), single[name]):
                raise _DependentRowsError(f"a row's output {name!r} depends on the other rows of its batch")
        found[name] = _output_layout(name, value, axes, original)
    for pair in original.pairs:
        axis = found[pair.target].batch
        if axis != original.layouts[pair.source].batch:
            raise _DependentRowsError(f"the batch is on another axis of {pair.target!r} than of {pair.source!r}")
    _check_shapes(original, before, after)
    return found


def _single(original: Original) -> Layouts:
    before = original.start(1)
    outputs, after = original.step(original.draw(1), before)
    _check_shapes(original, before, after)
    found = {}
    for name, value in outputs.items():
        first = 0 if value.ndim > 1 and value.shape[0] == 1 else None
        axis = original.options.batch_axes.get(name, first)
        if axis is not None and (axis >= value.ndim or value.shape[axis] != 1):
            raise BadOptionError(f"--batch-axis {name}:{axis}", f"the output is of shape {value.shape} for one row")
        found[name] = _output_layout(name, value, axis, original)
    return found


def _check_shapes(original: Original, before: Rows, after: Rows) -> None:
    """Raise unless one step returns every state in the shape that it is stored in."""
    for pair in original.pairs:
        held, old, new = (
            original.layouts[pair.source].inner,
            before[pair.source].shape[1:],
            after[pair.source].shape[1:],
        )
        if new != old and len(new) == len(old) and all(n >= m for n, m in zip(new, old, strict=True)):
            raise GrowingStateError(pair.source, pair.target, old, new)
        if new != held:
            raise NotServableError(
                f"the state {pair.source!r} has the shape {held} and the output {pair.target!r} that feeds it {new}, "
                "without the batch: a state must keep its shape"
            )


def _output_layout(name: str, value: Array, batch: int | None, original: Original) -> Layout:
    axes = [axis for axis in range(value.ndim) if axis != batch]
    inner = tuple(value.shape[axis] for axis in axes)
    if name in original.options.time_axes:
        known = original.options.time_axes[name]
        return Layout(inner, batch, axes.index(known) if known in axes else None)
    timed = any(original.layouts[name].time is not None for name in original.data)
    return Layout(inner, batch, 0 if timed and len(inner) > 1 and inner[0] == 1 else None)


def _grown(alone: Array, together: Array, name: str) -> int:
    if alone.ndim == together.ndim:
        axes = [axis for axis, (n, m) in enumerate(zip(alone.shape, together.shape, strict=True)) if n != m]
        if len(axes) == 1 and alone.shape[axes[0]] == 1 and together.shape[axes[0]] == _BATCH:
            return axes[0]
    raise _DependentRowsError(
        f"the output {name!r} is of shape {together.shape} for {_BATCH} rows, {alone.shape} for one"
    )


def _stacked(rows: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _ambiguous(found: list[FoundLayouts]) -> AmbiguousError:
    differing: set[str] = set()
    first = found[0].original.layouts
    for one in found:
        layouts = one.original.layouts
        differing |= {name for name in layouts if layouts[name].batch != first[name].batch}
    names = sorted(differing)
    listed = [", ".join(f"{name}:{one.original.layouts[name].batch}" for name in names) for one in found]
    return AmbiguousError(
        "the model runs with the batch on any of these axes", listed, "--batch-axis NAME:AXIS, as listed"
    )


def _does_not_run(original: Original, reason: str) -> str:
    given = [_as_given(original, name) for name in original.data]
    if any(given):
        return f"the model does not run on steps of these sizes: {'; '.join(filter(None, given))}"
    opened = []
    for name in original.data:
        port, layout = original.foreign.inputs[name], original.layouts[name]
        axis = layout.time_axis
        if axis is not None and isinstance(port.dims[axis], str) and name not in original.options.steps:
            opened.append(
                f"{port} has an axis, {str(port.dims[axis]).removeprefix('?:')!r}, of no fixed size, "
                f"and one step of size 1 does not run: give a step's shape by --step {name}=SIZE"
            )
    said = f" ({'; '.join(opened)})" if opened else ""
    return f"the model does not run on random inputs{said}: {reason}"


def _as_given(original: Original, name: str) -> str:
    """Return what --step and --overlap say of an input, and what they should; nothing where neither is given."""
    given, layout = original.options, original.layouts[name]
    options = [f"--step {name}={'x'.join(map(str, given.steps[name]))}"] if name in given.steps else []
    axis, count = 0, given.overlaps.get(name, 0)
    if count:
        options.append(f"--overlap {name}:{count}")
        axis = original.overlap_axis(name)
    if not options:
        return ""
    whole = sizes_of(layout, 1, extra=count, axis=axis)
    parts = f"{layout.inner[axis]} new values behind {count} of the step before, " if count else ""
    means = ", --overlap of those that stand before them" if count else ""
    port = original.foreign.inputs[name]
    return (
        f"{' '.join(options)} gives {port} the shape {whole} ({parts}batch 1), which the model "
        f"does not take. --step is the number of new values in a step{means}: give the sizes that it was made for"
    )


def rows_of(value: Array, layout: Layout) -> Array:
    """Return an output of one step as rows as they are served, (batch, *shape)."""
    rows = to_rows(value, layout)
    return rows.reshape(len(rows), *layout.shape)
