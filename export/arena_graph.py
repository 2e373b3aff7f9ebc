"""The served graph: a network whose state is gathered from an arena and scattered back inside the graph."""

import onnx
from onnx import ModelProto, helper

from export.lower import CellInput, GraphBuilder, Target, lower_cell
from models.card import StateSpec
from models.network import Network
from models.stack import state_name

OPSET = 21
IR_VERSION = 10  # onnx's own default is newer than onnxruntime reads


def build_arena_graph(network: Network, target: Target = "cpu") -> ModelProto:
    """Return the model of a network, without card or checksum, with nodes that the target's kernels take.

    Inputs: x (batch, time, features) or int64 ids (batch, time); lengths, read_slots and write_slots int64 (batch,);
    arena.<s> (slots, *shape) for each state s. Outputs: y (batch, time, outputs); state.<s> (batch, *shape), the new
    rows; arena_out.<s>, the arena with those rows written, meant for the buffer of arena.<s> itself.

    Raises:
        NoLoweringError: A cell cannot be lowered.
    """
    graph = GraphBuilder("cellstream")
    (x,), (y,) = network.inputs, network.outputs
    graph.input(x.name, x.dtype, ["batch", "time", *x.shape])
    graph.input("lengths", "int64", ["batch"])
    slots = _Slots(graph)
    states = {spec.name: slots.declare(spec) for spec in network.states}

    value = _read_input(graph, network, x.name)
    lengths = graph.node("Cast", ["lengths"], to=onnx.TensorProto.INT32)
    after: dict[str, str] = {}
    for layer, cell in enumerate(network.stack.cells):
        names = [state_name(layer, spec.name) for spec in cell.states]
        cell_input = CellInput(x=value, lengths=lengths, states=tuple(states[name] for name in names))
        cell_output = lower_cell(graph, cell, cell_input, target)
        after.update(zip(names, cell_output.states, strict=True))
        value = graph.node("Add", [value, cell_output.y]) if network.config.residual else cell_output.y

    _write_output(graph, network, value, y.name)
    graph.output(y.name, y.dtype, ["batch", "time", *y.shape])
    for spec in network.states:
        slots.write(spec, after[spec.name])
    return helper.make_model(
        graph.build(), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cellstream"
    )


class _Slots:
    """Read rows of the arenas at `read_slots` and write them at `write_slots`.

    Indices of shape (1, batch) gather rows as (1, batch, *shape), the shape that native nodes take, and scatter them in
    the same shape: no state is reshaped in between. Only the output `state.<s>` drops the leading axis.
    """

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph
        graph.input("read_slots", "int64", ["batch"])
        graph.input("write_slots", "int64", ["batch"])
        self._leading = graph.constant([0], "int64", hint="axis")
        self._read = graph.node("Unsqueeze", ["read_slots", self._leading])
        self._write = graph.node("Unsqueeze", ["write_slots", graph.constant([0, 2], "int64", hint="axes")])

    def declare(self, spec: StateSpec) -> str:
        """Add the state's arena and return its gathered rows, (1, batch, *shape)."""
        arena = self._graph.input(f"arena.{spec.name}", spec.dtype, ["slots", *spec.shape])
        return self._graph.node("Gather", [arena, self._read], axis=0)

    def write(self, spec: StateSpec, rows: str) -> None:
        """Add the outputs state.<s> and arena_out.<s> for the state's new rows, (1, batch, *shape)."""
        graph = self._graph
        graph.node("Squeeze", [rows, self._leading], output=f"state.{spec.name}")
        graph.output(f"state.{spec.name}", spec.dtype, ["batch", *spec.shape])
        graph.node("ScatterND", [f"arena.{spec.name}", self._write, rows], output=f"arena_out.{spec.name}")
        graph.output(f"arena_out.{spec.name}", spec.dtype, ["slots", *spec.shape])


def _read_input(graph: GraphBuilder, network: Network, x: str) -> str:
    """Add the way from the raw input to what the lowest cell reads, (time, batch, input)."""
    if network.embedding is not None:
        ids = graph.node("Transpose", [x], perm=[1, 0])
        return graph.node("Gather", [graph.constant(network.embedding.weight, hint="embedding"), ids], axis=0)
    if network.config.input_scaler is not None:
        x = graph.node("Sub", [x, graph.constant(network.input_mean, hint="input_mean")])
        x = graph.node("Div", [x, graph.constant(network.input_std, hint="input_std")])
    return graph.node("Transpose", [x], perm=[1, 0, 2])


def _write_output(graph: GraphBuilder, network: Network, hidden: str, y: str) -> None:
    """Add the way from the highest cell's output, (time, batch, hidden), to y in raw units, (batch, time, outputs).

    The inverse of the output scaler is one more affine map, so it is folded into the head, in double precision.
    """
    weight, bias = network.head.weight.double().T, network.head.bias.double()
    if network.config.output_scaler is not None:
        weight = weight * network.output_std.double()
        bias = bias * network.output_std.double() + network.output_mean.double()
    projected = graph.node("MatMul", [hidden, graph.constant(weight, hint="head_w")])
    projected = graph.node("Add", [projected, graph.constant(bias, hint="head_b")])
    graph.node("Transpose", [projected], output=y, perm=[1, 0, 2])
