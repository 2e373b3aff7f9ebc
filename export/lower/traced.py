"""A cell without a lowering of its own: torch traces its step, and the traced nodes become the Scan's body."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import onnx.inliner
import torch
from onnx import GraphProto, NodeProto, numpy_helper
from torch import Tensor, nn

from export.errors import NoLoweringError
from export.lower.builder import GraphBuilder
from export.lower.contract import CellInput, CellLowerings, CellOutput, Lowering
from export.lower.scan import States, lower_step
from export.lower.value import Value
from export.sentences import clipped, printable
from models.cells.base import Cell

TRACE_OPSET = 21
"""That of the served graph, into which the traced nodes are copied as they are."""
_LONGEST_REASON = 300


class _Step(nn.Module):
    """The cell's step with its state as plain arguments, which is what the exporter takes."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        y, after = self.cell(x, state)
        # distinct values, so that every output of the trace has a name of its own
        return (y.clone(), *(value.clone() for value in after))


def lower_traced(graph: GraphBuilder, cell: Cell, cell_input: CellInput) -> CellOutput:
    """Trace the cell's step and add it as the Scan's body.

    Raises:
        NoLoweringError: torch cannot trace the step, or the package that it needs for that is missing.
    """
    trace = trace_step(cell)

    def step(_: Cell, x: Value, state: States) -> tuple[Value, States]:
        y, *after = _copy(trace, x.graph, [x.name, *(value.name for value in state)])
        return Value(x.graph, y), tuple(Value(x.graph, name) for name in after)

    return lower_step(graph, cell, cell_input, step)


def trace_step(cell: Cell) -> GraphProto:
    """Return the graph of one step for any batch: inputs x and the states, outputs y and the states after it.

    Raises:
        NoLoweringError: See `lower_traced`.
    """
    for name, weight in [*cell.named_parameters(), *cell.named_buffers()]:
        if weight.is_complex():
            raise NoLoweringError(type(cell), f"{name} is complex; hold its real and imaginary parts as two tensors")
    cell = cell.eval()
    # two rows and not one: torch takes a size of one for a constant
    examples = (torch.zeros(2, cell.input_size), *cell.initial_state(2))
    batch = torch.export.Dim("batch")
    try:
        with quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                _Step(cell),
                examples,
                dynamo=True,
                opset_version=TRACE_OPSET,
                dynamic_shapes=({0: batch}, tuple({0: batch} for _ in cell.states)),
                verbose=False,
            )
        assert program is not None
        return onnx.inliner.inline_local_functions(program.model_proto).graph
    except Exception as exc:  # the exporter raises whatever went wrong inside it
        raise NoLoweringError(type(cell), first_reason(exc)) from exc


def first_reason(exc: BaseException) -> str:
    """Return what first went wrong: the exporter wraps it in errors that only name its own stages."""
    while (cause := exc.__cause__ or exc.__context__) is not None:
        exc = cause
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {clipped(printable(lines[0]), _LONGEST_REASON)}" if lines else type(exc).__name__


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's reports off the terminal: a failure is raised as an error of ours."""
    nowhere = io.StringIO()
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _copy(trace: GraphProto, graph: GraphBuilder, inputs: list[str]) -> list[str]:
    """Add the trace's nodes to a graph under fresh names, reading `inputs`; return its outputs' names."""
    names = dict(zip((value.name for value in trace.input), inputs, strict=True))
    for tensor in trace.initializer:
        array = numpy_helper.to_array(tensor)
        names[tensor.name] = graph.constant(array, array.dtype, hint="traced")
    for node in trace.node:
        _copy_node(node, graph, names)
    return [names[value.name] for value in trace.output]


def _copy_node(node: NodeProto, graph: GraphBuilder, names: dict[str, str]) -> None:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, GraphProto):
            raise NotImplementedError(f"the step has a {node.op_type}, with a graph of its own")
        attributes[attribute.name] = value
    if node.domain:
        attributes["domain"] = node.domain
    for output in node.output:
        names[output] = graph.fresh("traced") if output else ""
    inputs = [names[name] if name else "" for name in node.input]
    graph.nodes(node.op_type, inputs, [names[output] for output in node.output], **attributes)


TRACED = CellLowerings.same(Lowering("Scan", lower_traced))
