"""The scalers at the ends of a graph, cut off while the rest is converted to float16, and joined to it again."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from export.graphs import all_graphs
from models.card import ModelCard

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div")
_LARGEST, _NAN = "float16/largest", "float16/nan"
_ZERO = "float16/zero"
_LIMITS = {_LARGEST: float(np.finfo(np.float16).max), _NAN: float("nan"), _ZERO: 0.0}

Message = TypeVar("Message", NodeProto, ValueInfoProto)


@dataclass(frozen=True, slots=True)
class Scalers:
    """Hold what was cut off: nodes before and after the rest, their constants, and the graph's own inputs and outputs.

    `inputs` and `outputs` are the names of the values at the cuts; `cuts` are the float32 inputs with their rank.
    """

    inputs: list[str]
    outputs: list[str]
    cuts: dict[str, int]
    before: list[NodeProto]
    after: list[NodeProto]
    constants: list[TensorProto]
    own_inputs: list[ValueInfoProto]
    own_outputs: list[ValueInfoProto]

    def join(self, model: ModelProto) -> None:
        """Put the nodes back, in float32, around a graph whose inputs and outputs are the values at the cuts."""
        graph = model.graph
        nodes = [*self.before, *_copies(graph.node), *self.after]
        types = {value.name: value for value in (*graph.input, *graph.output)}
        inputs, outputs = (
            _copies(types.get(value.name, value) for value in values) for values in (self.own_inputs, self.own_outputs)
        )
        del graph.node[:], graph.input[:], graph.output[:]
        graph.node.extend(nodes)
        graph.input.extend(inputs)
        graph.output.extend(outputs)
        graph.initializer.extend(self.constants)
        if self.cuts:
            _refuse_beyond_range(graph, self.cuts)


def cut_scalers(model: ModelProto, card: ModelCard) -> Scalers:
    """Cut the scalers off a graph in place.

    A scaler of an input is a chain of elementwise operations with constants; that of an output is the head into which
    a network's output scaler is folded. Where an input is cut, values beyond float16's range become NaN.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    own_inputs, own_outputs = _copies(graph.input), _copies(graph.output)
    before: list[NodeProto] = []
    inputs, cuts = [spec.name for spec in card.inputs], {}
    for index, spec in enumerate(card.inputs):
        if spec.dtype == "float32":
            chain = _chain_after(graph, spec.name, constants)
            inputs[index] = _cut_input(graph, spec.name, chain)
            cuts[inputs[index]] = 2 + len(spec.shape)
            before += [*_copies(chain), *_nan_beyond_range(inputs[index], chain[-1].output[0] if chain else spec.name)]
    after: list[NodeProto] = []
    outputs = [spec.name for spec in card.outputs]
    if card.config.get("output_scaler"):
        for index, spec in enumerate(card.outputs):
            chain = _chain_before(graph, spec.name, constants)
            if chain:
                outputs[index] = _cut_output(graph, spec.name, chain)
                after += _copies(chain)
    moved = _move_constants(graph, [*before, *after], constants)
    limits = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in _LIMITS.items()]
    return Scalers(inputs, outputs, cuts, before, after, [*moved, *(limits if before else [])], own_inputs, own_outputs)


def _chain_after(graph: GraphProto, name: str, constants: Mapping[str, TensorProto]) -> list[NodeProto]:
    """Return the elementwise nodes with constants that alone read an input, and each the one before it."""
    reads, chain = _reads(graph), list[NodeProto]()
    while reads[name] == 1:
        node = next((node for node in graph.node if name in node.input), None)
        if node is None or node.op_type not in _ELEMENTWISE or not set(node.input) - {name} <= constants.keys():
            break
        chain.append(node)
        name = node.output[0]
    return chain


def _chain_before(graph: GraphProto, name: str, constants: Mapping[str, TensorProto]) -> list[NodeProto]:
    """Return the nodes from the head's product to an output; none if there is no such product."""
    reads, chain = _reads(graph), list[NodeProto]()
    makers = {output: node for node in graph.node for output in node.output}
    while (node := makers.get(name)) is not None and (not chain or reads[name] == 1):
        given = [one for one in node.input if one not in constants]
        if len(given) != 1 or node.op_type not in (*_ELEMENTWISE, "Transpose", "MatMul", "Gemm"):
            break
        chain.insert(0, node)
        if node.op_type in ("MatMul", "Gemm"):
            return chain
        (name,) = given
    return []


def _cut_input(graph: GraphProto, name: str, chain: list[NodeProto]) -> str:
    """Take the nodes out; return the new input that stands for what they give."""
    cut = f"{name}/scaled"
    given = chain[-1].output[0] if chain else name
    for node in chain:
        graph.node.remove(node)
    for inner in all_graphs(graph):
        for node in inner.node:
            node.input[:] = [cut if one == given else one for one in node.input]
    (value,) = (value for value in graph.input if value.name == name)
    value.name = cut
    return cut


def _cut_output(graph: GraphProto, name: str, chain: list[NodeProto]) -> str:
    """Take the nodes out; return the new output, which they read."""
    made = {node.output[0] for node in chain}
    constants = {tensor.name for tensor in graph.initializer}
    cut: str
    (cut,) = (one for node in chain for one in node.input if one not in made | constants)
    for node in chain:
        graph.node.remove(node)
    (index,) = (index for index, value in enumerate(graph.output) if value.name == name)
    graph.output[index].CopyFrom(helper.make_tensor_value_info(cut, TensorProto.FLOAT, None))
    return cut


def _move_constants(
    graph: GraphProto, nodes: list[NodeProto], constants: Mapping[str, TensorProto]
) -> list[TensorProto]:
    """Give nodes that were cut off constants of their own, and drop those that nothing else reads."""
    reads, moved = _reads(graph), {}
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in constants:
                moved[name] = TensorProto.FromString(constants[name].SerializeToString())
                moved[name].name = node.input[index] = f"{name}/float32"
    for name in moved:
        if not reads[name]:
            graph.initializer.remove(constants[name])
    return list(moved.values())


def _nan_beyond_range(cut: str, given: str) -> list[NodeProto]:
    """Return nodes that give `cut`: the values given, and NaN for those that float16 would make infinite."""
    return [
        helper.make_node("Abs", [given], [f"{cut}/size"]),
        helper.make_node("LessOrEqual", [f"{cut}/size", _LARGEST], [f"{cut}/fits"]),
        helper.make_node("Where", [f"{cut}/fits", given, _NAN], [cut]),
    ]


def _refuse_beyond_range(graph: GraphProto, cuts: Mapping[str, int]) -> None:
    """Add NaN to the first state of each row that was given a value beyond the range.

    onnxruntime's recurrent nodes turn NaN into a number on a CPU, so that the value alone would not show it.
    """
    scatter = next((node for node in graph.node if node.op_type == "ScatterND" and _is_half_arena(graph, node)), None)
    if scatter is None:
        return
    nodes, rows = [], scatter.input[2]
    for cut, rank in cuts.items():
        axes, flag = f"{cut}/axes", f"{cut}/beyond"
        graph.initializer.append(numpy_helper.from_array(np.arange(1, rank), axes))
        nodes += [
            helper.make_node("Not", [f"{cut}/fits"], [f"{flag}/each"]),
            helper.make_node("Cast", [f"{flag}/each"], [f"{flag}/numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", [f"{flag}/numbers", axes], [f"{flag}/count"], keepdims=0),
            helper.make_node("Greater", [f"{flag}/count", _ZERO], [f"{flag}/any"]),
            helper.make_node("Where", [f"{flag}/any", _NAN, _ZERO], [f"{flag}/nan"]),
            helper.make_node("Cast", [f"{flag}/nan"], [f"{flag}/half"], to=TensorProto.FLOAT16),
        ]
        (arena,) = (value for value in graph.input if value.name == scatter.input[0])
        shape = f"{cut}/state_axes"
        count = len(arena.type.tensor_type.shape.dim)
        graph.initializer.append(numpy_helper.from_array(np.arange(1, count), shape))
        nodes += [
            helper.make_node("Unsqueeze", [f"{flag}/half", shape], [f"{flag}/rows"]),
            helper.make_node("Add", [f"{rows}/{cut}", f"{flag}/rows"], [rows]),
        ]
        maker = next(node for node in graph.node if rows in node.output)
        maker.output[list(maker.output).index(rows)] = f"{rows}/{cut}"
        at = list(graph.node).index(maker) + 1
        for offset, node in enumerate(nodes):
            graph.node.insert(at + offset, node)
        rows, nodes = f"{rows}/{cut}", []


def _is_half_arena(graph: GraphProto, scatter: NodeProto) -> bool:
    return any(
        value.name == scatter.input[0]
        and value.name.startswith("arena.")
        and value.type.tensor_type.elem_type == TensorProto.FLOAT16
        for value in graph.input
    )


def _reads(graph: GraphProto) -> Counter[str]:
    return Counter(name for inner in all_graphs(graph) for node in inner.node for name in node.input)


def _copies(values: Iterable[Message]) -> list[Message]:
    copies = []
    for value in values:
        copy = type(value)()
        copy.CopyFrom(value)
        copies.append(copy)
    return copies
