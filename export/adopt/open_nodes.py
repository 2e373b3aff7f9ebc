"""Nodes whose constants hold a batch of 1, rewritten to follow the number of rows, in all ways that may be right."""

from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from export.adopt.value_axes import RECURRENT, Values
from export.figure import Array

OPENED = ("Reshape", "ScatterND", *RECURRENT)
"""The nodes that may have to be rewritten."""

Way = Callable[[ModelProto], None]
"""Rewrites the node in a model; the nodes that it adds stand at the end."""


def as_it_is(model: ModelProto) -> None:
    """Leave a node as it is."""


def ways_to_open(model: ModelProto, index: int, single: Values, wide: Values, rows: int) -> Sequence[Way]:
    """Return the ways in which a node may take several rows, the likeliest first; none where there is no way.

    `single` and `wide` are the values that it reads in a run on one row and on so many; `single` has its results too.
    """
    node = model.graph.node[index]
    if node.op_type == "Reshape":
        return _reshape(model, index, single, wide, rows)
    if node.op_type == "ScatterND":
        return _scatter(model, index, single, wide, rows)
    return _initial_states(model, index, single, wide, rows)


def _reshape(model: ModelProto, index: int, single: Values, wide: Values, rows: int) -> Sequence[Way]:
    """Return a way for each size of the shape that may be the number of rows."""
    node = model.graph.node[index]
    shape = _constant(model, node.input[1])
    if shape is None or node.input[0] not in single:
        return [as_it_is]
    sizes = [int(size) for size in shape.reshape(-1)]
    before, after = single[node.input[0]], single[node.output[0]]
    if wide[node.input[0]].shape == before.shape:
        return [as_it_is]
    axis = _grown(before, wide[node.input[0]], rows)
    if axis is None:
        return []
    ahead = int(np.prod(before.shape[:axis], dtype=np.int64))
    fits = [a for a in range(after.ndim) if int(np.prod(after.shape[:a], dtype=np.int64)) == ahead]
    if not fits:
        return []
    targets = [a for a in fits if sizes[a] in (1, -1) or (sizes[a] == 0 and a == axis)] or [fits[-1]]
    targets.sort(key=lambda target: target != axis)
    open_ = {target for target in targets if sizes[target] in (0, -1)}
    return [as_it_is if one in open_ else _sized(index, sizes, one, axis, before, after) for one in targets]


def _sized(index: int, sizes: Sequence[int], target: int, axis: int, before: Array, after: Array) -> Way:
    """Return the way that makes one size of a Reshape follow the number of rows."""

    def write(model: ModelProto) -> None:
        node, graph = model.graph.node[index], model.graph
        name, written = f"cellstream_shape/{node.output[0]}", list(sizes)
        if -1 not in written:
            written[target] = -1
        elif target == axis and before.shape[axis] == after.shape[target]:
            written[target] = 0
        else:
            count = _rows_times(model, node.input[0], axis, before.shape[axis], after.shape[target], name)
            names = [f"{name}/{side}" for side in ("before", "behind")]
            for side, part in zip(names, (written[:target], written[target + 1 :]), strict=True):
                graph.initializer.append(numpy_helper.from_array(np.array(part, np.int64), side))
            graph.node.append(helper.make_node("Concat", [names[0], count, names[1]], [name], axis=0))
            node.input[1] = name
            return
        graph.initializer.append(numpy_helper.from_array(np.array(written, np.int64), name))
        node.input[1] = name

    return write


def _scatter(model: ModelProto, index: int, single: Values, wide: Values, rows: int) -> Sequence[Way]:
    """Return the way that writes each row at its own index, where constant indices name the one row there was."""
    node = model.graph.node[index]
    data, indices, updates = node.input
    held = _constant(model, indices)
    if held is None or data not in single or wide[data].shape == single[data].shape:
        return [as_it_is]
    axis = _grown(single[data], wide[data], rows)
    if axis is None or updates not in single:
        return []
    if axis >= held.shape[-1]:
        return [as_it_is]
    row = _grown(single[updates], wide[updates], rows)
    if row is None or row >= held.ndim - 1 or held.shape[row] != 1 or held[..., axis].any():
        return []

    def write(model: ModelProto) -> None:
        node, graph = model.graph.node[index], model.graph
        name = f"cellstream_indices/{node.output[0]}"
        column = np.zeros(held.shape[-1], np.int64)
        column[axis] = 1
        shape = [-1 if a == row else 1 for a in range(held.ndim)]
        for suffix, value in (("column", column), ("shape", shape), ("zero", 0), ("one", 1)):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"{name}/{suffix}"))
        count = _rows_times(model, data, axis, 1, 1, name)
        graph.initializer.append(numpy_helper.from_array(np.array([], np.int64), f"{name}/scalar"))
        for operator, inputs, output in (
            ("Reshape", [count, f"{name}/scalar"], f"{name}/count"),
            ("Range", [f"{name}/zero", f"{name}/count", f"{name}/one"], f"{name}/range"),
            ("Reshape", [f"{name}/range", f"{name}/shape"], f"{name}/numbers"),
            ("Mul", [f"{name}/numbers", f"{name}/column"], f"{name}/offsets"),
            ("Add", [indices, f"{name}/offsets"], name),
        ):
            graph.node.append(helper.make_node(operator, inputs, [output]))
        node.input[1] = name

    return [write]


def _initial_states(model: ModelProto, index: int, single: Values, wide: Values, rows: int) -> Sequence[Way]:
    """Return the way that gives a recurrent layer's state as many rows as its input has.

    Rows in front are folded into those that the layer has already, as for frequency bands; a constant is repeated.
    """
    node = model.graph.node[index]
    x = node.input[0]
    if x not in single or _grown(single[x], wide[x], rows) == 0 or wide[x].shape == single[x].shape:
        return [as_it_is]
    folded: list[int] = []
    repeated: list[int] = []
    for at in (5, 6):
        name = node.input[at] if at < len(node.input) else ""
        value = single[name] if name in single else _constant(model, name)
        if value is None:
            continue
        if name in wide and wide[name].shape != value.shape:
            axis = _grown(value, wide[name], rows)
            if axis == 0 and value.shape[0] == 1:
                folded.append(at)
            elif axis != 1:
                return []
        elif value.shape[1] == 1 or not value.any():
            repeated.append(at)
        else:
            return []

    def write(model: ModelProto) -> None:
        layer, graph = model.graph.node[index], model.graph
        for at in (*folded, *repeated):
            given = layer.input[at]
            name = f"cellstream_state/{at}/{next(filter(None, layer.output))}"
            value = single[given] if given in single else _constant(model, given)
            assert value is not None
            if at in repeated and not value.any():
                layer.input[at] = ""
                continue
            graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), f"{name}/one"))
            graph.initializer.append(
                numpy_helper.from_array(np.array([1, -1, value.shape[2]], np.int64), f"{name}/fold")
            )
            if at in folded:
                graph.node.append(helper.make_node("Reshape", [given, f"{name}/fold"], [name]))
            else:
                count = _rows_times(model, x, 1, 1, 1, name)
                graph.node.append(
                    helper.make_node("Concat", [f"{name}/one", count, f"{name}/one"], [f"{name}/sizes_of"], axis=0)
                )
                graph.node.append(helper.make_node("Expand", [given, f"{name}/sizes_of"], [name]))
            layer.input[at] = name

    return [write] if folded or repeated else [as_it_is]


def _constant(model: ModelProto, name: str) -> Array | None:
    """Return the value of a weight or a Constant node; None for what is computed."""
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor))
    for node in model.graph.node:
        if node.op_type == "Constant" and name in node.output and node.attribute[0].name == "value":
            return np.asarray(numpy_helper.to_array(helper.get_attribute_value(node.attribute[0])))
    return None


def _grown(one: Array, many: Array, rows: int) -> int | None:
    """Return the only axis that is as many times as long as there are rows."""
    grown = [axis for axis, (n, m) in enumerate(zip(one.shape, many.shape, strict=True)) if n != m]
    if len(grown) != 1 or many.shape[grown[0]] != rows * one.shape[grown[0]]:
        return None
    return grown[0]


def _rows_times(model: ModelProto, value: str, axis: int, per_row: int, times: int, name: str) -> str:
    """Add nodes that compute `times` for each row, of which a value has `per_row` along an axis; return the result."""
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
