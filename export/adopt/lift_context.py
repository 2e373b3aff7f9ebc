"""Left context over time: padding before the first step becomes a cache of the last samples, which is a state."""

from collections.abc import Callable

import numpy as np
from onnx import NodeProto

from export.adopt.carried import StateAdder, attribute, described
from export.figure import Array

_LAST = int(np.iinfo(np.int64).max)


def lift_convolution(index: int, node: NodeProto, adder: StateAdder) -> None:
    """Carry the samples that a convolution over time, padded on the left, reads of the steps before.

    A convolution padded on both sides whose last outputs are cut off again is one of these.
    """
    axes, data = adder.axes, node.input[0]
    axis, weight = axes.times.get(data, 0), adder.value(node.input[1])
    if axis < 2 or weight is None or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return
    spatial, at = weight.ndim - 2, axis - 2
    pads = list(attribute(node, "pads", [0] * 2 * spatial))
    before, behind = pads[at], pads[at + spatial]
    dilation = attribute(node, "dilations", [1] * spatial)[at]
    stride = attribute(node, "strides", [1] * spatial)[at]
    context = (weight.shape[axis] - 1) * dilation
    cut = _cut_behind(adder, node.output[0], axis, behind) if behind else []
    if not context or before != context or stride != 1 or (behind and not cut):
        return
    for cutting in cut:
        name = cutting.output[0]
        cutting.CopyFrom(NodeProto(op_type="Identity", name=cutting.name, input=[cutting.input[0]], output=[name]))
    pads[at] = pads[at + spatial] = 0
    for one in node.attribute:
        if one.name == "pads":
            one.ints[:] = pads
    shape = _with_size(axes.short[data], axis, context)
    node.input[0] = _prepend(index, node, adder, data, axis, np.zeros(shape, axes.short[data].dtype))


def lift_pad(index: int, node: NodeProto, adder: StateAdder) -> None:
    """Carry the samples that stand in the place of a constant padding over time before the first step."""
    axes, data = adder.axes, node.input[0]
    axis = axes.times.get(data)
    numbers = adder.value(node.input[1]) if len(node.input) > 1 else None
    if axis is None or numbers is None or attribute(node, "mode", b"constant") != b"constant":
        return
    rank = axes.short[data].ndim
    padded = list(range(rank))
    if len(node.input) > 3 and node.input[3]:
        named = adder.value(node.input[3])
        if named is None:
            return
        padded = [int(one) % rank for one in named]
    if axis not in padded:
        return
    pads, at = [int(pad) for pad in numbers], padded.index(axis)
    fill: Array | None = np.zeros((), axes.short[data].dtype)
    if len(node.input) > 2 and node.input[2]:
        fill = adder.value(node.input[2])
    if pads[at] <= 0 or pads[at + len(padded)] > 0 or fill is None:
        return
    shape = _with_size(axes.short[data], axis, pads[at])
    initial = np.full(shape, fill.reshape(()), axes.short[data].dtype)
    node.input[0] = _prepend(index, node, adder, data, axis, initial)
    pads[at] = 0
    node.input[1] = adder.constant(pads)


def lift_concat(index: int, node: NodeProto, adder: StateAdder) -> None:
    """Carry the samples that stand in the place of constants that are concatenated in front of the first step."""
    axes = adder.axes
    if len(node.input) != 2:
        return
    front, data = node.input
    axis, initial = axes.times.get(data), adder.value(front)
    rank = axes.short[data].ndim if axis is not None else 0
    if axis is None or initial is None or attribute(node, "axis", 0) % rank != axis or not initial.shape[axis]:
        return
    _finish(index, node, adder, node.output[0], axis, initial, lambda read: node.input.__setitem__(0, read))


def _prepend(index: int, node: NodeProto, adder: StateAdder, data: str, axis: int, initial: Array) -> str:
    """Concatenate a cache in front of a value; return the result."""
    joined = adder.fresh(f"lifted/{data}")

    def connect(read: str) -> None:
        adder.put_before(index, "Concat", [read, data], joined, axis=axis)

    _finish(index, node, adder, joined, axis, initial, connect)
    return joined


def _finish(
    index: int,
    node: NodeProto,
    adder: StateAdder,
    joined: str,
    axis: int,
    initial: Array,
    connect: Callable[[str], None],
) -> None:
    """Add a cache, the last samples of `joined` along the time, and let the graph read it by `connect`."""
    size = initial.shape[axis]
    batch = adder.axes.batches.get(node.input[-1] if node.op_type == "Concat" else node.input[0])
    before, after = adder.add(index, "context", initial, batch)
    connect(before)
    bounds = [adder.constant(numbers) for numbers in ([-size], [_LAST], [axis])]
    adder.put_after(index, "Slice", [joined, *bounds], after)
    samples = f"the {size} samples before" if size > 1 else "the sample before"
    value = initial.reshape(-1)[0]
    filled = f"{value:.4g}" if (initial == value).all() else "the values in the file"
    adder.findings.append(
        f"{described(node)} reads steps before the one it answers: {samples} are carried as "
        f"{adder.states[-1].source}, and start from {filled}"
    )


def _with_size(value: Array, axis: int, size: int) -> list[int]:
    return [size if at == axis else dim for at, dim in enumerate(value.shape)]


def _cut_behind(adder: StateAdder, name: str, axis: int, size: int) -> list[NodeProto]:
    """Return the nodes that cut the last `size` steps off a value; none if something reads the value otherwise."""
    found = []
    if name in {value.name for value in adder.graph.output}:
        return []
    for node in adder.graph.node:
        if name not in node.input:
            continue
        numbers = [adder.value(one) for one in node.input[1:]]
        wanted = ([0], [-size], [axis], [1])
        rank = adder.axes.short[name].ndim
        if node.op_type != "Slice" or len(numbers) < 3 or any(one is None for one in numbers):
            return []
        given = [one.tolist() for one in numbers if one is not None]
        given[2] = [one % rank for one in given[2]]
        if not all(one == other for one, other in zip(given, wanted, strict=False)):
            return []
        found.append(node)
    return found
