"""A file made for a batch of 1, rewritten for any: in its declared sizes, and in the shapes that its nodes make."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from export.adopt.dependencies import reads
from export.adopt.errors import AdoptError
from export.adopt.foreign_model import RunFailedError
from export.adopt.lift import Lifted, inlined
from export.adopt.options import AdoptOptions
from export.adopt.planning import Planned, make_plan
from export.adopt.value_axes import RECURRENT, Tracer, Values
from export.figure import Array, Figure

BATCH = "cellstream_batch"
_ROWS, _STEPS = 3, 7
_TOLERANCE = 1e-6
_FOUND = "the file is made for a batch of 1: its shapes are opened, and rows run together give what they give alone"

Axes = dict[str, int]
"""Input → the axis that is taken for the batch."""


def open_batch(lifted: Lifted, planned: Planned, on_progress: Callable[[str], None]) -> tuple[Lifted, Planned]:
    """Return a model and its plan for several rows, where the given ones are for one row and runs show it is right.

    Otherwise both are returned as they are.
    """
    if planned.plan.batched:
        return lifted, planned
    given = {pair.source: pair.target for pair in planned.original.pairs}
    for axes in _guesses(lifted.model, lifted.options, list(given)):
        try:
            model = opened(inlined(lifted.model), lifted.options, axes, BATCH)
            if model is None:
                continue
            options = replace(
                lifted.options, batch_axes=axes | lifted.options.batch_axes, states=given | lifted.options.states
            )
            found = make_plan(model, options, on_progress)
        except (AdoptError, RunFailedError):
            continue
        if found.plan.batched:
            freed = replace(lifted, model=model, options=options)
            reasons = {pair.source: pair.reason for pair in planned.original.pairs}
            told = tuple(_with_reason(line, reasons) for line in found.findings)
            return freed, replace(found, findings=(*told, _FOUND))
    return lifted, planned


def _with_reason(line: str, reasons: dict[str, str]) -> str:
    for source, reason in reasons.items():
        if line.startswith(f"state {source} ← "):
            return line.replace("given by --state", reason)
    return line


def _guesses(model: ModelProto, options: AdoptOptions, states: list[str]) -> Iterator[Axes]:
    """Yield axes of size 1 that may be the batch, one for each input: the likely one of states, each of the data."""
    defaults = {tensor.name for tensor in model.graph.initializer}
    ones: dict[str, list[int]] = {}
    for value in model.graph.input:
        if value.name not in defaults and value.name not in options.constants:
            dims = value.type.tensor_type.shape.dim
            ones[value.name] = [axis for axis, dim in enumerate(dims) if dim.dim_value == 1]
            if value.name in options.batch_axes:
                ones[value.name] = [options.batch_axes[value.name]]
    if not all(ones.values()):
        return
    starts = {name for node in model.graph.node if node.op_type in RECURRENT for name in node.input[5:7]}
    data = [name for name in ones if name not in states]
    seen: list[Axes] = []
    for state_at in (0, -1):
        for data_at in (0, -1):
            axes = {name: ones[name][data_at] for name in data}
            axes |= {name: 1 if name in starts and 1 in ones[name] else ones[name][state_at] for name in states}
            if axes not in seen:
                seen.append(axes)
                yield axes


def opened(model: ModelProto, options: AdoptOptions, axes: Axes, symbol: str, size: int = 1) -> ModelProto | None:
    """Return the model with these axes, all of one fixed size, open and named; None where a node does not allow it.

    With the size that was fixed it gives what it gave.

    Raises:
        RunFailedError: It does not run.
    """
    wide = ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for value in wide.graph.input:
        if value.name in axes:
            value.type.tensor_type.shape.dim[axes[value.name]].dim_param = symbol
    for value in wide.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value == size:
                dim.dim_param = f"?:{value.name}:{axis}"
    tracer = Tracer(model, options)
    feeds = tracer.draw(_sizes(tracer, symbol, size))
    single = tracer.run(feeds)
    for name in [node.output[0] for node in wide.graph.node if node.op_type == "Reshape"]:
        index = next(at for at, node in enumerate(wide.graph.node) if name in node.output)
        if not _open_shape(wide, index, options, single, (symbol, size)):
            return None
        _place_nodes(wide)
    expected, found = single, Tracer(wide, options).run(feeds)
    same = all(Figure.of(found[v.name], expected[v.name]).error <= _TOLERANCE for v in model.graph.output)
    return wide if same else None


def _open_shape(
    model: ModelProto, index: int, options: AdoptOptions, single: Values, axis_opened: tuple[str, int]
) -> bool:
    """Let a Reshape to constant sizes take any size of the axis that is opened; return whether it can."""
    node = model.graph.node[index]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = {
        one.output[0]: helper.get_attribute_value(one.attribute[0])
        for one in model.graph.node
        if one.op_type == "Constant" and one.attribute[0].name == "value"
    }
    tensor = weights.get(node.input[1], constants.get(node.input[1]))
    if tensor is None or node.input[0] not in single:
        return True
    sizes = [int(size) for size in numpy_helper.to_array(tensor).reshape(-1)]
    part = ModelProto()
    part.CopyFrom(model)
    del part.graph.node[index:]
    del part.graph.output[:]
    if node.input[0] in {value.name for value in part.graph.input}:
        part.graph.node.append(helper.make_node("Identity", [node.input[0]], ["cellstream_read"]))
    tracer = Tracer(part, options)
    symbol, size = axis_opened
    wide = tracer.run(tracer.draw(_sizes(tracer, symbol, _ROWS * size)))[node.input[0]]
    before, after = single[node.input[0]], single[node.output[0]]
    if wide.shape == before.shape:
        return True
    grown = [axis for axis, (n, m) in enumerate(zip(before.shape, wide.shape, strict=True)) if n != m]
    if len(grown) != 1 or wide.shape[grown[0]] != _ROWS * before.shape[grown[0]]:
        return False
    axis = grown[0]
    ahead = int(np.prod(before.shape[:axis], dtype=np.int64))
    fits = [a for a in range(after.ndim) if int(np.prod(after.shape[:a], dtype=np.int64)) == ahead]
    if not fits:
        return False
    ones = [a for a in fits if sizes[a] == 1]
    if not ones and any(sizes[a] == -1 or (sizes[a] == 0 and a == axis) for a in fits):
        return True
    target = axis if axis in ones else [*ones, fits[-1]][0]
    _set_size(model, index, sizes, target, axis, before, after)
    return True


def _sizes(tracer: Tracer, symbol: str, size: int) -> dict[str, int]:
    """Return all open sizes: that of the axis that is opened, and for others one that is not taken for it."""
    sizes = {dim: _STEPS for dims in tracer.ports.values() for dim in dims if isinstance(dim, str)}
    return sizes | {symbol: size}


def _set_size(
    model: ModelProto, index: int, sizes: list[int], target: int, axis: int, before: Array, after: Array
) -> None:
    """Make one size of a Reshape follow the number of rows."""
    node, graph = model.graph.node[index], model.graph
    name = f"cellstream_shape/{node.output[0]}"
    if -1 not in sizes:
        sizes[target] = -1
    elif target == axis and before.shape[axis] == after.shape[target]:
        sizes[target] = 0
    else:
        rows = _rows_times(model, node.input[0], axis, before.shape[axis], after.shape[target], name)
        parts = [sizes[:target], sizes[target + 1 :]]
        names = [f"{name}/{side}" for side in ("before", "behind")]
        for side, part in zip(names, parts, strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array(part, np.int64), side))
        graph.node.append(helper.make_node("Concat", [names[0], rows, names[1]], [name], axis=0))
        node.input[1] = name
        return
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
    node.input[1] = name


def _rows_times(model: ModelProto, value: str, axis: int, per_row: int, times: int, name: str) -> str:
    graph = model.graph
    for suffix, number in (("axis", axis), ("per_row", per_row), ("times", times)):
        graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), f"{name}/{suffix}"))
    for operator, inputs, output in (
        ("Shape", [value], "sizes"),
        ("Gather", [f"{name}/sizes", f"{name}/axis"], "all_rows"),
        ("Div", [f"{name}/all_rows", f"{name}/per_row"], "rows"),
        ("Mul", [f"{name}/rows", f"{name}/times"], "size"),
    ):
        graph.node.append(helper.make_node(operator, inputs, [f"{name}/{output}"]))
    return f"{name}/size"


def _place_nodes(model: ModelProto) -> None:
    """Put every node after those that compute what it reads."""
    graph = model.graph
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    known |= {sparse.values.name for sparse in graph.sparse_initializer}
    waiting: list[NodeProto] = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    made = {name for node in waiting for name in node.output}
    placed: list[NodeProto] = []
    while waiting:
        ready = [node for node in waiting if not (set(reads(node)) & made) - known]
        if not ready:
            placed += waiting
            break
        for node in ready:
            known |= set(node.output)
        placed += ready
        waiting = [node for node in waiting if not any(node is one for one in ready)]
    del graph.node[:]
    graph.node.extend(placed)
