"""The served graph of a foreign model: its own nodes, with arenas, layouts and overlaps around them."""

from collections.abc import Iterable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from export.adopt.plan import InputPlan, Layout, OutputPlan, Plan
from export.adopt.source import PREFIX, modern, renamed
from export.lower.builder import ELEMENT_TYPES, Dim, GraphBuilder
from export.transposes import guard_transposes
from models.card import StateSpec, TensorSpec

IR_VERSION = 10  # not every onnxruntime in use reads newer ones


class _Builder(GraphBuilder):
    """A graph builder whose fresh names begin with its graph's name."""

    def fresh(self, hint: str) -> str:
        """Return a name that nothing in any of the graphs has."""
        return f"{self._name}/{super().fresh(hint)}"


def build_served_graph(model: ModelProto, plan: Plan) -> ModelProto:
    """Return the served graph of a foreign model, without card or checksum.

    Where the model runs any number of steps by itself its nodes are put into the graph unchanged; else they are the
    body of a Scan over time. Inputs are (batch, time, *shape) as the card says, arenas (slots, *shape).

    Raises:
        NotServableError: The model's opset is too old to be converted.
    """
    source = modern(model)
    body = renamed(source.graph, plan.constants)
    graph = _Builder("cellstream")
    for one in plan.inputs:
        graph.input(one.spec.name, one.spec.dtype, ["batch", "time", *one.spec.shape])
    graph.input("read_slots", "int64", ["batch"])
    graph.input("write_slots", "int64", ["batch"])
    rows = {spec.name: _gather(graph, spec) for spec in plan.state_specs}
    after = _inline(graph, body, plan, rows) if plan.native_time else _scan(graph, body, plan, rows)
    for output in plan.outputs:
        graph.output(output.spec.name, output.spec.dtype, ["batch", "time", *output.spec.shape])
    for spec in plan.state_specs:
        _scatter(graph, spec, after[spec.name])
    built = graph.build()
    if plan.native_time:
        _insert(built, body)
    served = helper.make_model(
        built, opset_imports=source.opset_import, ir_version=IR_VERSION, producer_name="cellstream"
    )
    served.functions.extend(source.functions)
    return guard_transposes(served)


def _gather(graph: GraphBuilder, spec: StateSpec) -> str:
    arena = graph.input(f"arena.{spec.name}", spec.dtype, ["slots", *spec.shape])
    return graph.node("Gather", [arena, "read_slots"], axis=0)


def _scatter(graph: GraphBuilder, spec: StateSpec, rows: str) -> None:
    """Write new rows, (batch, *shape), under their public name and into the arena."""
    graph.node("Identity", [rows], output=f"state.{spec.name}")
    graph.output(f"state.{spec.name}", spec.dtype, ["batch", *spec.shape])
    column = graph.node("Reshape", ["write_slots", graph.constant([-1, 1], "int64", hint="column")])
    graph.node("ScatterND", [f"arena.{spec.name}", column, f"state.{spec.name}"], output=f"arena_out.{spec.name}")
    graph.output(f"arena_out.{spec.name}", spec.dtype, ["slots", *spec.shape])


def _inline(graph: GraphBuilder, body: GraphProto, plan: Plan, rows: dict[str, str]) -> dict[str, str]:
    """Connect inputs, outputs and states to nodes that run all steps at once."""
    for one in plan.inputs:
        time, batch = one.layout.time_axis, one.layout.batch
        _arrange(graph, one.spec.name, PREFIX + one.name, _to_foreign(len(one.layout.inner), batch, time))
    for state in plan.states:
        _to_foreign_state(graph, rows[state.spec.name], PREFIX + state.source, state.layout.batch, state.layout.inner)
    for output in plan.outputs:
        perm = _to_foreign(len(output.layout.inner), output.layout.batch, output.layout.time_axis)
        _arrange(graph, PREFIX + output.name, output.spec.name, [perm.index(axis) for axis in range(len(perm))])
    return {
        state.spec.name: _from_foreign_state(graph, PREFIX + state.target, state.layout.batch, state.layout.inner)
        for state in plan.states
    }


def _to_foreign(inner: int, batch: int | None, time: int | None) -> list[int]:
    """Return the permutation from (batch, time, …) to a foreign layout of `inner` axes and the batch."""
    if batch is None:
        raise ValueError("a model that runs all steps at once has a batch axis")
    rest = iter(range(2, inner + 1))
    return [0 if axis == batch else 1 if axis == time else next(rest) for axis in range(inner + 1)]


def _arrange(graph: GraphBuilder, source: str, target: str, perm: list[int]) -> None:
    if perm == sorted(perm):
        graph.node("Identity", [source], output=target)
    else:
        graph.node("Transpose", [source], output=target, perm=perm)


def _insert(built: GraphProto, body: GraphProto) -> None:
    """Put the foreign nodes between those that compute their inputs and those that read their outputs."""
    reached = {name for node in body.node for name in node.output} | {tensor.name for tensor in body.initializer}
    before: list[NodeProto] = []
    after: list[NodeProto] = []
    for node in _sorted(built.node):
        if reached & set(node.input):
            after.append(node)
            reached |= set(node.output)
        else:
            before.append(node)
    nodes = [*before, *body.node, *after]
    del built.node[:]
    built.node.extend(nodes)
    built.initializer.extend(body.initializer)
    built.sparse_initializer.extend(body.sparse_initializer)


def _sorted(nodes: Iterable[NodeProto]) -> list[NodeProto]:
    """Return copies of the nodes, each after those that compute its inputs."""
    waiting = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    done: list[NodeProto] = []
    while waiting:
        missing = {name for node in waiting for name in node.output}
        ready = [node for node in waiting if not missing & set(node.input)]
        done += ready
        waiting = [node for node in waiting if missing & set(node.input)]
    return done


def _scan(graph: GraphBuilder, body: GraphProto, plan: Plan, rows: dict[str, str]) -> dict[str, str]:
    """Make the foreign nodes the body of a Scan; states are carried in the foreign layout."""
    inner = _Builder("step")
    outer: list[str] = []
    carried: list[tuple[ValueInfoProto, ValueInfoProto]] = []
    finals: dict[str, str] = {}
    for state in plan.states:
        ready = graph.fresh("state")
        _to_foreign_state(graph, rows[state.spec.name], ready, state.layout.batch, state.layout.inner)
        outer.append(ready)
        out = inner.node("Identity", [PREFIX + state.target])
        sizes = _sizes(state.layout)
        carried.append((_value(PREFIX + state.source, state.spec.dtype, sizes), _value(out, state.spec.dtype, sizes)))
    for one in plan.inputs:
        if one.overlap:
            outer.append(rows[one.overlap_state])
            kept = f"step/{one.overlap_state}"
            sizes = ("rows", *one.overlap_shape)
            carried.append((_value(kept, one.spec.dtype, sizes), _value(f"{kept}/out", one.spec.dtype, sizes)))
        _step_input(inner, one)
    for output in plan.outputs:
        _step_output(inner, output)
    nodes = inner.build()
    sub = GraphProto(name="step")
    sub.input.extend(value for value, _ in carried)
    sub.input.extend(_step_value(f"step/in/{one.spec.name}", one.spec) for one in plan.inputs)
    sub.output.extend(value for _, value in carried)
    sub.output.extend(_step_value(f"step/out/{output.spec.name}", output.spec) for output in plan.outputs)
    sub.initializer.extend(nodes.initializer)
    sub.node.extend(nodes.node)
    _insert(sub, body)
    ends = [graph.fresh("after") for _ in carried]
    graph.nodes(
        "Scan",
        [*outer, *(one.spec.name for one in plan.inputs)],
        [*ends, *(output.spec.name for output in plan.outputs)],
        body=sub,
        num_scan_inputs=len(plan.inputs),
        scan_input_axes=[1] * len(plan.inputs),
        scan_output_axes=[1] * len(plan.outputs),
    )
    for state, end in zip(plan.states, ends, strict=False):
        finals[state.spec.name] = _from_foreign_state(graph, end, state.layout.batch, state.layout.inner)
    overlapping = [one for one in plan.inputs if one.overlap]
    finals.update((one.overlap_state, end) for one, end in zip(overlapping, ends[len(plan.states) :], strict=True))
    return finals


def _step_input(inner: GraphBuilder, one: InputPlan) -> None:
    """Compute the foreign tensor from one step of an input, (batch, *shape)."""
    layout, target = one.layout, PREFIX + one.name
    value = f"step/in/{one.spec.name}"
    if layout.time is not None:
        value = _reshape(inner, value, [-1, *layout.inner])
    if one.overlap:
        axis = 1 + one.axis
        value = inner.node("Concat", [f"step/{one.overlap_state}", value], axis=axis)
        bounds = ([-one.overlap], [np.iinfo(np.int64).max], [axis])
        slices = [inner.constant(bound, "int64", hint="bound") for bound in bounds]
        inner.node("Slice", [value, *slices], output=f"step/{one.overlap_state}/out")
    sizes = list(layout.inner)
    if one.overlap:
        sizes[one.axis] += one.overlap
    _to_foreign_state(inner, value, target, layout.batch, tuple(sizes))


def _step_output(inner: GraphBuilder, output: OutputPlan) -> None:
    layout = output.layout
    value = _from_foreign_state(inner, PREFIX + output.name, layout.batch, layout.inner)
    if layout.time is not None:
        value = _reshape(inner, value, [-1, *layout.shape])
    inner.node("Identity", [value], output=f"step/out/{output.spec.name}")


def _to_foreign_state(graph: GraphBuilder, rows: str, target: str, batch: int | None, inner: tuple[int, ...]) -> None:
    """Compute a foreign tensor from rows, (batch, *inner); the batch axis is dropped where the tensor has none."""
    if batch is None:
        graph.node("Reshape", [rows, graph.constant(list(inner), "int64", hint="shape")], output=target)
        return
    perm = list(range(1, len(inner) + 1))
    perm.insert(batch, 0)
    _arrange(graph, rows, target, perm)


def _from_foreign_state(graph: GraphBuilder, source: str, batch: int | None, inner: tuple[int, ...]) -> str:
    if batch is None:
        return _reshape(graph, source, [1, *inner])
    name = graph.fresh("rows")
    others = [axis for axis in range(len(inner) + 1) if axis != batch]
    _arrange(graph, source, name, [batch, *others])
    return name


def _reshape(graph: GraphBuilder, value: str, shape: list[int]) -> str:
    return graph.node("Reshape", [value, graph.constant(shape, "int64", hint="shape")])


def _sizes(layout: Layout) -> tuple[Dim, ...]:
    """Return the sizes of a foreign tensor, that of the batch by a name."""
    if layout.batch is None:
        return layout.inner
    return (*layout.inner[: layout.batch], "rows", *layout.inner[layout.batch :])


def _step_value(name: str, spec: TensorSpec) -> ValueInfoProto:
    return _value(name, spec.dtype, ("rows", *spec.shape))


def _value(name: str, dtype: str, sizes: tuple[Dim, ...]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], sizes)
