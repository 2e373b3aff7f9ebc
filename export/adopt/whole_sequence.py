"""Comparison of the original's own run over a whole sequence with the served steps, one after another and in chunks."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from onnx import ModelProto, NodeProto

from export.adopt.errors import WholeSequenceError
from export.adopt.foreign import RunFailedError
from export.adopt.layouts import from_rows, to_rows
from export.adopt.plan import Array
from export.adopt.planning import PASSING, Planned
from export.adopt.probe import rows_of
from export.comparison import FIRST_FREE_SLOT, INITIAL_SLOT, LENGTHS, Runner, Sequence
from export.graphs import all_graphs
from models.card import ModelCard

Axes = dict[str, int]
"""Input → the axis of the foreign tensor along which steps follow each other."""

_LENGTHS = (*(length for length in LENGTHS if length > 1), 64)
"""Steps of the sequences; the last shows what a node carries over more steps than the other comparisons run."""
_LONGEST_CHUNK = 8


def check_whole_sequence(planned: Planned, served: bytes, card: ModelCard, tolerance: float) -> None:
    """Raise unless the original, given a whole sequence at once, answers as the served graph does step by step.

    The original is run from the initial state, along each axis of no fixed size that may count steps; where it runs on
    one step only there is nothing to compare. Inputs without such an axis keep one value over the sequence. Of an
    output that has no such axis the last step is compared.

    Raises:
        WholeSequenceError: The largest difference, over the largest absolute value of the tensor, is not at most the
            tolerance.
    """
    runner = Runner(served, card, seed=0)
    random = np.random.default_rng(0)
    for axes in _time_axes(planned):
        figures: dict[str, float] = {}
        for length in _LENGTHS:
            try:
                whole = _run_whole(planned, axes, length)
            except RunFailedError:
                continue
            if whole is None:
                continue
            for chunks in (iter(lambda: 1, 0), iter(lambda: int(random.integers(1, _LONGEST_CHUNK + 1)), 0)):
                found = _run_served(runner, whole, length, chunks)
                for name, expected in (whole.outputs | whole.after).items():
                    figures[name] = max(figures.get(name, 0.0), difference(found[name], expected))
        for name, figure in sorted(figures.items(), key=lambda item: -item[1]):
            if not figure <= tolerance:
                carrying = nodes_over_time(planned.original.foreign.model)
                raise WholeSequenceError(axes, name, figure, tolerance, carrying)


def _time_axes(planned: Planned) -> Iterator[Axes]:
    """Yield the axes of the data inputs that may count steps: those read as the time, and those read as the batch.

    The batch is one of them only where it cannot be told from the time otherwise: where rows cannot be run together,
    or there is no state, and neither the user nor a state's axis of the same name says that it is the batch.
    """
    original = planned.original
    ports, reading, overlaps = original.foreign.inputs, original.reading, set(original.overlaps)
    timed = {name: reading[name].time_axis for name in original.data}
    axes = {name: axis for name, axis in timed.items() if axis is not None and axis in ports[name].free}
    if axes and overlaps <= set(axes):
        yield axes
    if overlaps or (planned.plan.batched and original.pairs):
        return
    rows = {dim for pair in original.pairs for dim in ports[pair.source].dims}
    batches = {name: reading[name].batch for name in original.data if name not in original.wishes.batch_axes}
    axes = {
        name: axis
        for name, axis in batches.items()
        if axis is not None and axis in ports[name].free and ports[name].dims[axis] not in rows
    }
    if axes:
        yield axes


def _run_whole(planned: Planned, axes: Axes, length: int) -> Sequence | None:
    """Run the original once over a random sequence; return what the served graph is to be given and to answer.

    Outputs are (time, *shape), (1, *shape) where the original gives the last step alone, (0, *shape) where it gives
    another number of steps. None if steps overlap and outputs are not one for each step: that is one longer window.

    Raises:
        RunFailedError: The original does not run on several steps.
    """
    plan, original = planned.plan, planned.original
    counts = _step_counts(original.foreign.model)
    drawn = [original.draw(1) for _ in range(length)]
    for rows in drawn:
        rows |= {name: drawn[0][name] for name in rows if name not in axes}
        rows |= {name: np.ones_like(rows[name]) for name in rows if name in counts}
    start = original.start(1)
    single, _ = original.step(drawn[0], start)
    feeds = original.constants | {name: from_rows(rows, original.reading[name]) for name, rows in drawn[0].items()}
    feeds |= {name: np.full_like(value, length) for name, value in feeds.items() if name in counts}
    feeds |= {pair.source: from_rows(start[pair.source], original.reading[pair.source]) for pair in original.pairs}
    for name, axis in axes.items():
        before = [start[name]] if name in original.overlaps else []
        parts = [from_rows(part, original.reading[name]) for part in (*before, *(rows[name] for rows in drawn))]
        feeds[name] = np.concatenate(parts, axis=axis)
    found = original.foreign.run({name: np.asarray(value, order="C") for name, value in feeds.items()})
    steps = {name: _steps(value, single[name], length) for name, value in found.items()}
    if original.overlaps and any(len(steps[one.name]) != length for one in plan.outputs):
        return None
    outputs = {}
    for one in plan.outputs:
        values = [rows_of(value, one.layout)[0] for value in steps[one.name]]
        outputs[one.spec.name] = np.stack(values) if values else np.empty((0, *one.spec.shape), one.spec.dtype)
    return Sequence(
        {one.spec.name: np.stack([rows[one.name].reshape(one.spec.shape) for rows in drawn]) for one in plan.inputs},
        outputs,
        {
            state.spec.name: to_rows(values[-1], state.layout)[0] if values else np.empty(0)
            for state in plan.states
            for values in [steps[state.target]]
        },
    )


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


def _run_served(runner: Runner, whole: Sequence, length: int, chunks: Iterator[int]) -> dict[str, Array]:
    """Run the served graph over a sequence in chunks; return the states and as many of the last outputs as expected."""
    slot, start = INITIAL_SLOT, 0
    parts: dict[str, list[Array]] = {name: [] for name in whole.outputs}
    while start < length:
        stop = min(length, start + next(chunks))
        written = FIRST_FREE_SLOT + (slot == FIRST_FREE_SLOT)
        inputs = {name: values[None, start:stop] for name, values in whole.inputs.items()}
        found = runner.run(inputs, np.array([slot]), np.array([written]))
        for name, values in parts.items():
            values.append(found[name][0])
        slot, start = written, stop
    outputs = {name: np.concatenate(values)[-len(whole.outputs[name]) :] for name, values in parts.items()}
    return outputs | {name: runner.arenas[name][slot] for name in whole.after}


def difference(found: Array, expected: Array) -> float:
    """Return the largest absolute difference over the largest finite absolute value expected.

    Infinity if the shapes differ, if one holds NaN, or if infinite values do not stand where they should. Tensors of
    integers and booleans differ by 0 or infinity.
    """
    if found.shape != expected.shape:
        return np.inf
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(np.isfinite(found), finite) or not np.array_equal(found[~finite], expected[~finite]):
        return np.inf
    wide, wanted = found[finite].astype(np.float64), expected[finite].astype(np.float64)
    gap = float(np.abs(wide - wanted).max(initial=0.0))
    return gap / max(float(np.abs(wanted).max(initial=0.0)), float(np.finfo(np.float32).tiny))


def _step_counts(model: ModelProto) -> set[str]:
    """Return the inputs that tell LSTM, GRU and RNN nodes how many steps of a sequence there are."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = set()
    for node in model.graph.node:
        if node.op_type in _RECURRENT_LAYERS and len(node.input) > _SEQUENCE_LENS and node.input[_SEQUENCE_LENS]:
            name = node.input[_SEQUENCE_LENS]
            while name in makers and makers[name].op_type in PASSING:
                name = makers[name].input[0]
            found.add(name)
    return found


_RECURRENT_LAYERS = ("LSTM", "GRU", "RNN")
_SEQUENCE_LENS = 4
_OVER_TIME = (*_RECURRENT_LAYERS, "Scan", "Loop", "Pad", "CumSum")
_KERNELS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")


def nodes_over_time(model: ModelProto) -> list[str]:
    """Return the type and name of the nodes that may carry something from step to step, or see steps ahead."""
    sizes = {tensor.name: tensor.dims for graph in all_graphs(model.graph) for tensor in graph.initializer}
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return [_named(node) for node in nodes if node.op_type in _OVER_TIME or _has_kernel(node, sizes)]


def _has_kernel(node: NodeProto, sizes: Mapping[str, Collection[int]]) -> bool:
    kernel = [size for attribute in node.attribute if attribute.name == "kernel_shape" for size in attribute.ints]
    if not kernel and len(node.input) > 1:
        kernel = list(sizes.get(node.input[1], ()))[2:]
    return node.op_type in _KERNELS and any(size > 1 for size in kernel)


def _named(node: NodeProto) -> str:
    ways = [attribute.s.decode() for attribute in node.attribute if attribute.name == "direction"]
    way = "".join(f" ({direction})" for direction in ways if direction != "forward")
    return f"{node.op_type} {node.name or ', '.join(node.output)!r}{way}"
