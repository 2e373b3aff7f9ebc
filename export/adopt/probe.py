"""Runs of the original that settle what its declared shapes leave open."""

from dataclasses import dataclass, replace

import numpy as np

from export.adopt.behaviour import close
from export.adopt.errors import AmbiguousError, BadWishError, GrowingStateError, NotServableError
from export.adopt.foreign import RunFailedError
from export.adopt.layouts import Candidate, Reading, sizes_of, to_rows
from export.adopt.original import Original, Rows
from export.adopt.plan import Array, Layout

_BATCH = 3


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
        BadWishError: An output's batch is on another axis than the option says, in all in which it runs.
        NotServableError: It runs in none.
    """
    reasons: list[str] = []
    unlike: list[BadWishError] = []
    found: list[tuple[int, Found]] = []
    for candidate in candidates:
        tried = replace(original, reading=candidate.layouts)
        if all(_batch_is_open(original, name, layout) for name, layout in candidate.layouts.items()):
            try:
                found.append((candidate.rank, Found(tried, _rows_apart(tried), batched=True)))
            except (RunFailedError, _NotApartError) as exc:
                reasons.append(str(exc))
            except BadWishError as exc:
                unlike.append(exc)
    best = [tried for rank, tried in found if rank == found[0][0]]
    if len(best) > 1:
        raise _ambiguous(best)
    if best:
        return best[0]
    if unlike:
        raise unlike[0]
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


def _batch_is_open(original: Original, name: str, layout: Layout) -> bool:
    return layout.batch is not None and layout.batch in original.foreign.inputs[name].free


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
    before = _stacked(states)
    together, after = original.step(_stacked(rows), before)
    alone = [original.step(row, state) for row, state in zip(rows, states, strict=True)]
    found = {}
    for name, value in together.items():
        axes = _grown(alone[0][0][name], value, name)
        wished = original.wishes.batch_axes.get(name, axes)
        if wished != axes:
            raise BadWishError(f"--batch-axis {name}:{wished}", f"the batch is on axis {axes} of this output")
        for row, (single, _) in enumerate(alone):
            if not close(np.take(value, [row], axis=axes), single[name]):
                raise _NotApartError(f"a row's output {name!r} depends on the other rows of its batch")
        found[name] = _output_layout(value, axes, original)
    for pair in original.pairs:
        axis = found[pair.target].batch
        if axis != original.reading[pair.source].batch:
            raise _NotApartError(f"the batch is on another axis of {pair.target!r} than of {pair.source!r}")
    _check_shapes(original, before, after)
    return found


def _single(original: Original) -> Reading:
    before = original.start(1)
    outputs, after = original.step(original.draw(1), before)
    _check_shapes(original, before, after)
    found = {}
    for name, value in outputs.items():
        first = 0 if value.ndim > 1 and value.shape[0] == 1 else None
        axis = original.wishes.batch_axes.get(name, first)
        if axis is not None and (axis >= value.ndim or value.shape[axis] != 1):
            raise BadWishError(f"--batch-axis {name}:{axis}", f"the output is of shape {value.shape} for one row")
        found[name] = _output_layout(value, axis, original)
    return found


def _check_shapes(original: Original, before: Rows, after: Rows) -> None:
    """Raise unless one step has left every state the shape that it is held in."""
    for pair in original.pairs:
        held, old, new = (
            original.reading[pair.source].inner,
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
    given = [_as_given(original, name) for name in original.data]
    if any(given):
        return f"the model does not run on steps of these sizes: {'; '.join(filter(None, given))}"
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


def _as_given(original: Original, name: str) -> str:
    """Return what --step and --overlap make of an input, and what they should; nothing where neither is given."""
    wishes, layout = original.wishes, original.reading[name]
    options = [f"--step {name}={'x'.join(map(str, wishes.steps[name]))}"] if name in wishes.steps else []
    place, count = 0, wishes.overlaps.get(name, 0)
    if count:
        options.append(f"--overlap {name}:{count}")
        place = original.overlap_place(name)
    if not options:
        return ""
    whole = sizes_of(layout, 1, extra=count, place=place)
    parts = f"{layout.inner[place]} new values behind {count} of the step before, " if count else ""
    means = ", --overlap of those that stand before them" if count else ""
    port = original.foreign.inputs[name]
    return (
        f"{' '.join(options)} gives {port} the shape {whole} ({parts}batch 1), which the model "
        f"does not take. --step is the number of new values in a step{means}: give the sizes that it was made for"
    )


def rows_of(value: Array, layout: Layout) -> Array:
    """Return an output of one step as rows in the served form, (batch, *shape)."""
    rows = to_rows(value, layout)
    return rows.reshape(len(rows), *layout.shape)
