"""A file that runs the steps of one sequence along its first axis and has no batch, rewritten to run a step of many."""

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper

from export.adopt.foreign_model import RunFailedError
from export.adopt.options import AdoptOptions
from export.adopt.value_axes import RECURRENT, Tracer
from export.figure import Figure
from export.verify import TOLERANCE

_LENGTH = 64
"""Steps of the sequence on which both are compared: what a node carries over many steps does not show on few."""


def steps_as_rows(
    model: ModelProto, options: AdoptOptions, states: Mapping[str, str], batch: str
) -> tuple[ModelProto, dict[str, int]] | None:
    """Return the rewritten model, whose open size `batch` counts rows, and the axis of each input that does.

    A convolution runs steps beside each other already, as rows of its batch. A recurrent layer runs them one after
    another, so its input and its result are transposed. None where a state is not a recurrent layer's own, or where a
    run over a sequence differs from the rewritten model's steps.
    """
    defaults = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in defaults and one.name not in options.constants]
    layers = [node for node in model.graph.node if node.op_type in RECURRENT]
    starts = {name for node in layers for name in node.input[5:7]}
    data = [one for one in inputs if one.name not in states]
    times = {_first_open_size(one) for one in data}
    if len(times) != 1 or None in times or not layers or not set(states) <= starts:
        return None
    if any(len(node.input) > 4 and node.input[4] for node in layers):
        return None  # it is told the number of steps
    (time,) = times
    assert time is not None
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.value_info[:]
    axes = {one.name: int(one.name in states) for one in inputs}
    for one in changed.graph.input:
        if one.name in axes:
            one.type.tensor_type.shape.dim[axes[one.name]].dim_param = batch
    for one in changed.graph.output:
        for dim in one.type.tensor_type.shape.dim:
            if dim.dim_param == time:
                dim.dim_param = batch
    nodes = [part for node in changed.graph.node for part in _transposed(node)]
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    try:
        return (changed, axes) if _same(model, changed, options, states, list(axes), time) else None
    except RunFailedError:
        return None


def _first_open_size(value: ValueInfoProto) -> str | None:
    dims = value.type.tensor_type.shape.dim
    if not dims or dims[0].WhichOneof("value") == "dim_value":
        return None
    return dims[0].dim_param or f"?:{value.name}:0"


def _transposed(node: NodeProto) -> list[NodeProto]:
    """Return a node as it is, or a recurrent layer over (rows, 1, width) between transposes."""
    if node.op_type not in RECURRENT:
        return [NodeProto.FromString(node.SerializeToString())]
    layer, name = NodeProto.FromString(node.SerializeToString()), next(filter(None, node.output))
    layer.input[0] = f"cellstream_rows/{name}/x"
    found = [helper.make_node("Transpose", [node.input[0]], [layer.input[0]], perm=[1, 0, 2]), layer]
    if node.output[0]:
        layer.output[0] = f"cellstream_rows/{name}/y"
        found.append(helper.make_node("Transpose", [layer.output[0]], [node.output[0]], perm=[2, 1, 0, 3]))
    return found


def _same(
    model: ModelProto,
    changed: ModelProto,
    options: AdoptOptions,
    states: Mapping[str, str],
    inputs: list[str],
    time: str,
) -> bool:
    """Return whether one run over a sequence gives what the rewritten model gives step by step."""
    tracer, stepwise = Tracer(model, options), Tracer(changed, options)
    feeds = tracer.draw({time: _LENGTH}, _LENGTH)
    whole = tracer.run(feeds)
    given = dict(feeds)
    parts = []
    for step in range(_LENGTH):
        given |= {name: feeds[name][step : step + 1] for name in inputs if name not in states}
        found = stepwise.run(given)
        given |= {name: found[target] for name, target in states.items()}
        parts.append(found)
    for output in model.graph.output:
        name = output.name
        expected, last = whole[name], parts[-1][name]
        values = last if name in states.values() else np.concatenate([part[name] for part in parts])
        if values.shape != expected.shape or Figure.of(values, expected).error > TOLERANCE:
            return False
    return True
