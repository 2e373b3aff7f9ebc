"""Which nodes of a model answer a step with what comes after it: found by changing one step of the input."""

import numpy as np
from onnx import ModelProto, NodeProto

from export.adopt.dependencies import reads
from export.adopt.value_axes import ValueAxes, Values
from export.figure import Array

_STEPS, _CHANGED = 48, (32, 24)
"""Steps of the sequence, and those that are changed, in a run each."""
_EXACT, _ROUNDED = 1e-6, 0.1
"""How far values may differ that do not depend on a step, of the largest: where nodes scale their inputs by the largest
value of the whole run, each step changes the rounding of all others."""


def look_ahead(model: ModelProto, axes: ValueAxes) -> list[str]:
    """Return a sentence for each node that looks ahead; none where every output of a step is known at that step.

    Raises:
        RunFailedError: The model does not run on so many steps.
    """
    feeds, plain = axes.run(_STEPS)
    scaled = any(node.op_type.startswith("DynamicQuantize") for node in model.graph.node)
    differing = [_differing(axes, feeds, plain, at, _ROUNDED if scaled else _EXACT) for at in _CHANGED]
    ahead: dict[str, int] = {}
    taking_all: dict[str, NodeProto] = {}  # value without a time axis → the node that took the steps together
    found: dict[str, str] = {}
    for node in model.graph.node:
        inputs = reads(node)
        before = max((ahead.get(name, 0) for name in inputs), default=0)
        origin = next((taking_all[name] for name in inputs if name in taking_all), None)
        for name in node.output:
            if not any(name in one for one in differing):
                continue
            if name not in axes.times:
                if len(axes.grown.get(name, ())) != 1:
                    taking_all[name] = origin or node
                ahead[name] = before
                continue
            reached = [max(at - one.get(name, at), 0) for at, one in zip(_CHANGED, differing, strict=True)]
            ahead[name] = max(reached)
            if ahead[name] > before:
                found[name] = _sentence(node, ahead[name], len(set(reached)) > 1, origin)
    outputs = [value.name for value in model.graph.output]
    if not any(ahead.get(name, 0) or name not in axes.times for name in outputs):
        return []
    return list(dict.fromkeys(sentence for name, sentence in found.items() if name in _ancestors(model, outputs)))


def _differing(axes: ValueAxes, feeds: Values, plain: Values, at: int, tolerance: float) -> dict[str, int]:
    """Return the values that change with step `at` of the inputs, with the first step of each that does.

    It is 0 for a value that has no time axis.
    """
    changed = dict(feeds)
    for name, value in feeds.items():
        axis = axes.times.get(name)
        if axis is not None:
            front, step, back = np.split(value, [at, at + 1], axis=axis)
            changed[name] = np.concatenate([front, axes.tracer.other(name, step), back], axis=axis)
    first = {}
    for name, value in axes.tracer.run(changed).items():
        if value.shape == plain[name].shape and (differs := _differs(plain[name], value, tolerance)).any():
            axis = axes.times.get(name)
            first[name] = 0
            if axis is not None:
                first[name] = int(differs.any(tuple(a for a in range(differs.ndim) if a != axis)).argmax())
    return first


def _sentence(node: NodeProto, steps: int, whole: bool, origin: NodeProto | None) -> str:
    directions = [attribute.s.decode() for attribute in node.attribute if attribute.name == "direction"]
    backward = [direction for direction in directions if direction != "forward"]
    if backward:
        return f"{_named(node)} runs over the sequence backwards ({backward[0]})"
    if origin is not None:
        return f"{_named(origin)} takes all steps of the sequence together"
    if whole:
        return f"{_named(node)} needs the whole sequence"
    return f"{_named(node)} looks {steps} step{'s' if steps > 1 else ''} ahead"


def _named(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or ', '.join(filter(None, node.output))!r}"


@np.errstate(over="ignore", invalid="ignore")
def _differs(one: Array, other: Array, tolerance: float) -> Array:
    if one.dtype.kind != "f":
        return np.asarray(one != other)
    largest = float(np.abs(np.where(np.isfinite(one), one, 0).astype(np.float64)).max(initial=0.0))
    return ~np.isclose(one, other, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def _ancestors(model: ModelProto, names: list[str]) -> set[str]:
    reached = set(names)
    for node in reversed(model.graph.node):
        if reached & set(node.output):
            reached |= set(reads(node))
    return reached
