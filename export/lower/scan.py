"""A cell's step as a Scan over time, for cells that no native node computes.

The step is built by one function. It stands in the graph twice: as the body of the Scan, and bare, behind an If, for
chunks of one step, where a Scan costs about a third more. Each copy has its own weights, since onnxruntime does not
pack weights that reach a body through two graphs, and unpacked ones cost up to 45 % from batch 8.
"""

from collections.abc import Callable, Sequence
from typing import Any

from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellOutput, Lowering
from export.lower.value import Value
from models.card import StateSpec
from models.cells.base import Cell

States = tuple[Value, ...]
Step = Callable[[Any, Value, States], tuple[Value, States]]
"""(cell, x (batch, width), states (batch, *shape)) → y (batch, output), the states after it."""

Projection = Callable[[Any, Value], Value]
"""(cell, x (time, batch, input)) → what the step reads instead of x, computed for all steps at once."""


def scan_lowering(step: Step, project: Projection | None = None) -> Lowering:
    """Return the lowering that steps through time by a Scan."""

    def lower(graph: GraphBuilder, cell: Cell, cell_input: CellInput) -> CellOutput:
        return lower_step(graph, cell, cell_input, step, project)

    return Lowering("Scan", lower)


def lower_step(
    graph: GraphBuilder, cell: Cell, cell_input: CellInput, step: Step, project: Projection | None = None
) -> CellOutput:
    """Add a step's nodes for chunks of one step and for longer ones.

    A row whose sequence has ended keeps its state: new where t < length, else old. The batcher and the verification
    give lengths of 1 or more, so a chunk of one step needs no such choice.
    """
    x = Value(graph, cell_input.x)
    if project is not None:
        x = project(cell, x)
    states = tuple(Value(graph, name).squeeze(0).name for name in cell_input.states)
    single = Value(graph, graph.node("Shape", [x.name], start=0, end=1)).op("Equal", x.constant([1], "int64"))
    names = [graph.fresh("y"), *(graph.fresh("state_after") for _ in states)]
    graph.nodes(
        "If",
        [single.name],
        names,
        then_branch=_one_step(graph, cell, x.name, states, step),
        else_branch=_many_steps(graph, cell, x.name, cell_input.lengths, states, step),
    )
    y, *after = names
    return CellOutput(y, tuple(Value(graph, name).unsqueeze(0).name for name in after))


def _one_step(graph: GraphBuilder, cell: Cell, x: str, states: Sequence[str], step: Step) -> Any:
    branch = graph.inner("one_step", own_constants=True)
    y, after = step(cell, Value(branch, x).squeeze(0), tuple(Value(branch, name) for name in states))
    # a branch may not give a value that it only passes on
    new = [value.op("Identity").name if value.name in states else value.name for value in after]
    _outputs(branch, cell, y.unsqueeze(0).name, new, time=True)
    return branch.build()


def _many_steps(graph: GraphBuilder, cell: Cell, x: str, lengths: str, states: Sequence[str], step: Step) -> Any:
    branch = graph.inner("many_steps", own_constants=True)
    # (time, batch, 1): whether the row's sequence goes on at that step
    steps = Value(branch, branch.node("Shape", [x], start=0, end=1)).squeeze(0).op("Cast", to=6)
    zero, one = (branch.constant(value, "int32") for value in (0, 1))
    times = Value(branch, branch.node("Range", [zero, steps.name, one]))
    goes_on = times.unsqueeze(1).op("Less", Value(branch, lengths)).unsqueeze(2)
    names = [*(branch.fresh("last") for _ in states), branch.fresh("ys")]
    body = _body(branch, cell, step)
    branch.nodes("Scan", [*states, x, goes_on.name], names, num_scan_inputs=2, body=body)
    *after, y = names
    _outputs(branch, cell, y, after, time=True)
    return branch.build()


def _body(branch: GraphBuilder, cell: Cell, step: Step) -> Any:
    body = branch.inner("step", own_constants=False)
    before = tuple(
        Value(body, body.input(body.fresh("state"), spec.dtype, ["batch", *spec.shape])) for spec in cell.states
    )
    x = Value(body, body.input(body.fresh("x"), "float32", ["batch", "width"]))
    goes_on = Value(body, body.input(body.fresh("goes_on"), "bool", ["batch", 1]))
    y, after = step(cell, x, before)
    held = [_hold(goes_on, spec, new, old).name for spec, new, old in zip(cell.states, after, before, strict=True)]
    _outputs(body, cell, y.name, held, time=False)
    return body.build()


def _hold(goes_on: Value, spec: StateSpec, new: Value, old: Value) -> Value:
    """Return the new rows where the sequence goes on, else the old ones, for a state of any rank and dtype."""
    rank = len(spec.shape)
    if rank == 0:
        goes_on = goes_on.squeeze(1)
    elif rank > 1:
        goes_on = goes_on.unsqueeze(*range(2, rank + 1))
    if spec.dtype != "bool":
        return goes_on.op("Where", new, old)
    # onnxruntime's Where takes no booleans
    return goes_on.op("And", new).op("Or", goes_on.op("Not").op("And", old))


def _outputs(graph: GraphBuilder, cell: Cell, y: str, states: Sequence[str], *, time: bool) -> None:
    """Declare what a branch or a body gives: a branch y and then the states, a Scan's body the states and then y."""
    leading = ["time", "batch"] if time else ["batch"]
    if time:
        graph.output(y, "float32", [*leading, cell.output_size])
    for spec, name in zip(cell.states, states, strict=True):
        graph.output(name, spec.dtype, ["batch", *spec.shape])
    if not time:
        graph.output(y, "float32", [*leading, cell.output_size])
