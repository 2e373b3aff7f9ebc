"""The comparison of the original's own run over a whole sequence with the served steps."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from onnx import ModelProto

from export.adopt.errors import WholeSequenceError
from export.adopt.foreign_model import ForeignModel, RunFailedError
from export.adopt.layout_search import rows_of
from export.adopt.layouts import from_rows, is_called_batch, to_rows
from export.adopt.nodes_over_time import nodes_over_time
from export.adopt.original import Original
from export.adopt.origins import find_step_counts
from export.adopt.planning import Planned
from export.arena_runner import FIRST_FREE_SLOT, INITIAL_SLOT, ArenaRunner
from export.comparisons import LONG, SINGLE_LENGTHS, ChunkLength, one_step, up_to
from export.figure import Array, Figure
from export.reference import Answer, Rows
from models.card import ModelCard

Axes = dict[str, int]
"""Input → the axis of the foreign tensor along which steps follow each other."""

LENGTHS = (*(length for length in SINGLE_LENGTHS if length > 1), LONG)
"""Steps of the sequences; the last shows what a node carries over more steps than the other comparisons run."""
_CHUNK_LENGTHS: tuple[ChunkLength, ...] = (one_step, up_to(8))


@dataclass(frozen=True, slots=True)
class WholeRun:
    """What the original was given for a whole sequence, as the served graph takes it, and what it answered.

    `nudged` is its answer to inputs that are off by one rounding: how far it is from the other is what rounding does
    over so many steps. Outputs are (1, time, *shape), (1, 1, *shape) where the original gives the last step alone,
    (1, 0, *shape) where it gives another number of steps.
    """

    inputs: Rows
    answer: Answer
    nudged: Answer


def check_whole_sequence(
    planned: Planned,
    served: bytes,
    card: ModelCard,
    tolerance: float,
    *,
    file: ModelProto,
    batch_axes: Mapping[str, int],
    added: Collection[str] = (),
    time: str = "",
) -> None:
    """Raise unless the original, given a whole sequence at once, answers as the served graph does step by step.

    The original is run from the initial state, along each axis of no fixed size that may count steps; where it runs on
    one step only there is nothing to compare. Inputs without such an axis keep one value over the sequence. Of an
    output that has no such axis the last step is compared. `file` is the model before any state was added or its batch
    opened, `batch_axes` are those that the user gave, `added` the states that the file does not show, and `time` the
    name of the size along which they are carried.

    Raises:
        WholeSequenceError: The largest difference, over the spread of the tensor's values, is not at most the tolerance
            and rounding.
    """
    planned = replace(planned, original=_as_in_file(planned.original, file, added))
    for axes, figures in compare_whole_runs(planned, served, card, batch_axes, time):
        wrong = {name: verdict for name, figure in figures.items() if not (verdict := figure.judge(tolerance)).passes}
        if wrong:
            name, verdict = max(wrong.items(), key=lambda item: item[1].error)
            nodes = nodes_over_time(planned.original.foreign.model)
            layouts = planned.original.layouts
            maybe_batch = all(axis == layouts[source].batch for source, axis in axes.items())
            raise WholeSequenceError(axes, name, verdict.error, verdict.allowed, nodes, maybe_batch=maybe_batch)


def compare_whole_runs(
    planned: Planned, served: bytes, card: ModelCard, batch_axes: Mapping[str, int], time: str = ""
) -> Iterator[tuple[Axes, dict[str, Figure]]]:
    """Yield how far outputs and states are from those of whole runs, for each axis along which the original runs."""
    runner = ArenaRunner(served, card, slots=FIRST_FREE_SLOT + 2)
    random = np.random.default_rng(0)
    likely, unlikely = _time_axes(planned, batch_axes, time)
    ran = False
    for axes in likely:
        figures = _compared(planned, runner, axes, random)
        ran |= bool(figures)
        yield axes, figures
    for axes in unlikely if likely and not ran else ():
        yield axes, _compared(planned, runner, axes, random)


def _compared(planned: Planned, runner: ArenaRunner, axes: Axes, random: np.random.Generator) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for length in LENGTHS:
        whole = run_whole(planned, axes, length)
        if whole is None:
            continue
        for chunk_length in _CHUNK_LENGTHS:
            found = run_served(runner, whole, length, partial(chunk_length, random))
            add_difference(figures, found, whole.answer, whole.nudged, length - 1)
    return figures


def add_difference(
    figures: dict[str, Figure], found: Rows, expected: Answer, nudged: Answer | None = None, last_step: int = 0
) -> None:
    """Take the outputs and states of one run into account; `nudged` is what rounding makes of the expected ones."""
    nudged = nudged or expected
    for name, values in expected.outputs.items():
        figures.setdefault(name, Figure()).add(found[name], values, values, nudged.outputs[name])
    for name, values in expected.states.items():
        rows = [one[:, None] for one in (found[name], values, values, nudged.states[name])]
        figures.setdefault(name, Figure(least_spread=1.0)).add(*rows, first_step=last_step)


def _as_in_file(original: Original, file: ModelProto, added: Collection[str]) -> Original:
    """Return the same for the file as it was given, without the states that were added to it.

    A state that the file reads and does not give back is a constant of it: what a sequence starts from.
    """
    inputs = {value.name for value in file.graph.input}
    start = original.start(1)
    read = {name: from_rows(start[name], original.layouts[name]) for name in added if name in inputs}
    return replace(
        original,
        foreign=ForeignModel(file, optimised=False),
        layouts={name: layout for name, layout in original.layouts.items() if name not in added},
        pairs=tuple(pair for pair in original.pairs if pair.source not in added),
        constants=original.constants | read,
    )


def _time_axes(planned: Planned, batch_axes: Mapping[str, int], time: str) -> tuple[list[Axes], list[Axes]]:
    """Return the axes of the data inputs that may count steps: those read as the time, and those read as the batch.

    The batch is one of them only where it cannot be told from the time otherwise: where rows cannot be run together,
    or there is no state, and neither the user nor a state of the file, by an axis of the same name, says that it is the
    batch. Where a state was added to the file, its name may say it too. Batches of which only a name says so are
    returned apart: one is the time if the file does not run on several steps along what is read as the time.
    """
    original = planned.original
    ports, layouts, overlaps = original.foreign.inputs, original.layouts, set(original.overlaps)
    timed = {name: layouts[name].time_axis for name in original.data}
    axes = {name: axis for name, axis in timed.items() if axis is not None and axis in ports[name].free}
    likely = [axes] if axes and overlaps <= set(axes) else []
    if overlaps or (planned.plan.batched and planned.plan.states):
        return likely, []
    rows = {dim for pair in original.pairs for dim in ports[pair.source].dims}
    batches = {name: layouts[name].batch for name in original.data if name not in batch_axes}
    opened = {name: axis for name, axis in batches.items() if axis is not None and axis in ports[name].free}
    named = {name for name, axis in opened.items() if ports[name].dims[axis] in rows}
    if time:
        called = {
            name: [axis for axis in ports[name].free if is_called_batch(ports[name].dims[axis])] for name in opened
        }
        named |= {name for name, axis in opened.items() if called[name] == [axis]}
        named -= {name for name, axis in opened.items() if ports[name].dims[axis] == time}
    unsaid = {name: axis for name, axis in opened.items() if name not in named}
    said = {name: axis for name, axis in opened.items() if name in named}
    return [*likely, *([unsaid] if unsaid else [])], [said] if said else []


def run_whole(planned: Planned, axes: Axes, length: int) -> WholeRun | None:
    """Run the original once over a random sequence.

    None if it does not run on several steps, or if steps overlap and outputs are not one for each step: that is one
    longer window.
    """
    try:
        return _run_whole(planned, axes, length)
    except RunFailedError:
        return None


def _run_whole(planned: Planned, axes: Axes, length: int) -> WholeRun | None:
    plan, original = planned.plan, planned.original
    counts = find_step_counts(original.foreign.model)
    drawn = [original.draw(1) for _ in range(length)]
    for rows in drawn:
        rows |= {name: drawn[0][name] for name in rows if name not in axes}
        rows |= {name: np.ones_like(rows[name]) for name in rows if name in counts}
    start = original.start(1)
    single, _ = original.step(drawn[0], start)
    feeds = original.constants | {name: from_rows(rows, original.layouts[name]) for name, rows in drawn[0].items()}
    feeds |= {name: np.full_like(value, length) for name, value in feeds.items() if name in counts}
    feeds |= {pair.source: from_rows(start[pair.source], original.layouts[pair.source]) for pair in original.pairs}
    for name, axis in axes.items():
        before = [start[name]] if name in original.overlaps else []
        parts = [from_rows(part, original.layouts[name]) for part in (*before, *(rows[name] for rows in drawn))]
        feeds[name] = np.concatenate(parts, axis=axis)
    feeds = {name: np.asarray(value, order="C") for name, value in feeds.items()}
    answer = _answer(planned, original.foreign.run(feeds), single, length)
    if answer is None:
        return None
    nudged = answer
    if length == LONG:
        feeds |= {name: _nudged(feeds[name]) for name in axes}
        nudged = _answer(planned, original.foreign.run(feeds), single, length) or answer
    inputs = {
        one.spec.name: np.stack([rows[one.name].reshape(one.spec.shape) for rows in drawn])[None] for one in plan.inputs
    }
    return WholeRun(inputs, answer, nudged)


def _nudged(values: Array) -> Array:
    """Return floats off by one rounding, up and down in turn, and all else as it is."""
    if values.dtype.kind != "f":
        return values
    signs = np.where(np.arange(values.size).reshape(values.shape) % 2, 1, -1)
    return np.asarray(values * (1 + signs * np.finfo(values.dtype).eps), values.dtype)


def _answer(planned: Planned, found: Rows, single: Rows, length: int) -> Answer | None:
    """Return what the original gave for a sequence as the served graph gives it; None for one longer window."""
    plan = planned.plan
    steps = {name: _steps(value, single[name], length) for name, value in found.items()}
    if planned.original.overlaps and any(len(steps[one.name]) != length for one in plan.outputs):
        return None
    outputs = {}
    for one in plan.outputs:
        values = [rows_of(value, one.layout) for value in steps[one.name]]
        outputs[one.spec.name] = (
            np.stack(values, axis=1) if values else np.empty((1, 0, *one.spec.shape), one.spec.dtype)
        )
    states = {}
    for state in plan.states:
        if state.target not in steps:
            continue
        values = steps[state.target]
        states[state.spec.name] = to_rows(values[-1], state.layout) if values else np.empty(0)
    return Answer(outputs, states)


def _steps(whole: Array, single: Array, length: int) -> list[Array]:
    """Return what a run over a sequence gave, cut into steps; the last step alone if it has the shape of one."""
    if whole.shape == single.shape:
        return [whole]
    if whole.ndim != single.ndim:
        return []
    grown = [axis for axis, (n, m) in enumerate(zip(single.shape, whole.shape, strict=True)) if n != m]
    if len(grown) != 1 or whole.shape[grown[0]] != length * single.shape[grown[0]]:
        return []
    return np.split(whole, length, axis=grown[0])


def run_served(runner: ArenaRunner, whole: WholeRun, length: int, chunk_length: Callable[[], int]) -> Rows:
    """Run the served graph over a sequence in chunks; return the states and as many of the last outputs as expected."""
    slot, start = INITIAL_SLOT, 0
    parts: dict[str, list[Array]] = {name: [] for name in whole.answer.outputs}
    while start < length:
        stop = start + chunk_length()
        written = FIRST_FREE_SLOT + (slot == FIRST_FREE_SLOT)
        inputs = {name: values[:, start:stop] for name, values in whole.inputs.items()}
        found = runner.run(inputs, np.array([slot]), np.array([written]))
        for name, values in parts.items():
            values.append(found[name])
        slot, start = written, stop
    last = {name: values.shape[1] for name, values in whole.answer.outputs.items()}
    outputs = {name: np.concatenate(values, axis=1)[:, -last[name] :] for name, values in parts.items()}
    return outputs | {name: runner.arenas[name][slot : slot + 1] for name in whole.answer.states}
