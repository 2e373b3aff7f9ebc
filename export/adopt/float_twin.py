"""A quantised model's float twin: the same weights, as they are after quantisation, in nodes that do not quantise.

Nodes that take a scale from the values of a run give something else for a step alone than for a step among others.
Their twin does not, so that it shows whether anything else differs.
"""

from dataclasses import dataclass, field

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from export.adopt.carried import attribute
from export.figure import Array
from export.graphs import all_graphs

DYNAMIC = ("DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul")
"""Nodes whose scale is that of the values of a run."""
_QUANTISED = (*DYNAMIC, "MatMulInteger", "ConvInteger", "QuantizeLinear")
_RANGES = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127)}
_MOVING = (
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Concat", "Split"),
    *("MaxPool", "Expand", "Tile"),
)
"""Nodes that give the values that they are given, quantised or not."""


def scales_over_runs(model: ModelProto) -> bool:
    """Return whether a node of the model takes a scale from the values that are run together."""
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    return any(node.op_type in DYNAMIC for node in nodes)


def float_twin(model: ModelProto) -> ModelProto | None:
    """Return a model's twin; None where it is not quantised, or has quantised nodes of which no twin is known."""
    inner = [node for graph in all_graphs(model.graph) if graph is not model.graph for node in graph.node]
    inner += [node for function in model.functions for node in function.node]
    if any("Quantize" in node.op_type or "Integer" in node.op_type for node in inner):
        return None
    if not any(node.op_type in _QUANTISED for node in model.graph.node):
        return None
    twin = ModelProto()
    twin.CopyFrom(model)
    del twin.graph.value_info[:]
    builder = _Builder(twin, {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer})
    for node in model.graph.node:
        if node.op_type == "Constant" and attribute(node, "value", None) is not None:
            builder.weights[node.output[0]] = numpy_helper.to_array(attribute(node, "value", None))
    try:
        nodes = [new for node in model.graph.node for new in builder.replaced(node)]
    except _NoTwinError:
        return None
    del twin.graph.node[:]
    twin.graph.node.extend(nodes)
    return twin


class _NoTwinError(Exception):
    """A quantised node has no twin."""


@dataclass(slots=True)
class _Builder:
    """Replaces nodes; `floats` are the values that are quantised in the original and float in the twin."""

    model: ModelProto
    weights: dict[str, Array]
    floats: set[str] = field(default_factory=set)

    def replaced(self, node: NodeProto) -> list[NodeProto]:
        """Return the nodes that stand in the twin for one of the original's."""
        make = {
            "DynamicQuantizeLinear": self._dynamic,
            "DynamicQuantizeLSTM": self._lstm,
            "DynamicQuantizeMatMul": self._scaled_product,
            "MatMulInteger": self._product,
            "ConvInteger": self._product,
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
        }.get(node.op_type)
        if make is not None:
            return make(node)
        if self.floats & set(node.input):
            if node.op_type not in _MOVING:
                raise _NoTwinError
            self.floats |= set(node.output)
        elif node.op_type.startswith(("QLinear", "QGemm", "QAttention")) or "Integer" in node.op_type:
            raise _NoTwinError
        return [node]

    def _value(self, name: str) -> Array:
        if name not in self.weights:
            raise _NoTwinError
        return self.weights[name]

    def _weight(self, node: NodeProto, value: Array) -> str:
        name = f"float_twin/{node.output[0]}/{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def _input(self, node: NodeProto, index: int) -> str:
        return node.input[index] if index < len(node.input) else ""

    def _dynamic(self, node: NodeProto) -> list[NodeProto]:
        """Pass the values on, with a scale of 1 and a zero point of 0."""
        values, scale, zero = node.output
        self.floats.add(values)
        self.floats.add(zero)
        one, none = self._weight(node, np.array(1.0)), self._weight(node, np.array(0.0))
        pairs = ((node.input[0], values), (one, scale), (none, zero))
        return [helper.make_node("Identity", [source], [target]) for source, target in pairs if target]

    def _product(self, node: NodeProto) -> list[NodeProto]:
        if node.input[0] not in self.floats:
            raise _NoTwinError
        weight = self._value(node.input[1]).astype(np.float64)
        if self._input(node, 3):
            zero = self._value(node.input[3]).astype(np.float64)
            if node.op_type == "ConvInteger" and zero.ndim:
                zero = zero.reshape(-1, *[1] * (weight.ndim - 1))
            weight = weight - zero
        operator = node.op_type.removesuffix("Integer")
        new = helper.make_node(operator, [node.input[0], self._weight(node, weight)], node.output, name=node.name)
        new.attribute.extend(node.attribute)
        return [new]

    def _scaled_product(self, node: NodeProto) -> list[NodeProto]:
        zero = self._value(node.input[3]) if self._input(node, 3) else np.zeros(())
        weight = (self._value(node.input[1]).astype(np.float64) - zero) * self._value(node.input[2])
        bias, output = self._input(node, 4), node.output[0]
        product = f"float_twin/{output}" if bias else output
        nodes = [helper.make_node("MatMul", [node.input[0], self._weight(node, weight)], [product], name=node.name)]
        return [*nodes, helper.make_node("Add", [product, bias], [output])] if bias else nodes

    def _lstm(self, node: NodeProto) -> list[NodeProto]:
        """Return an LSTM; quantised weights are (directions, input, 4 × hidden), its own have these two swapped."""
        weights = []
        for at, scale_at in ((1, 8), (2, 10)):
            values, scale, zero = (
                self._value(node.input[one]).astype(np.float64) for one in (at, scale_at, scale_at + 1)
            )
            scale, zero = (one.reshape(len(values), 1, -1) for one in (scale, zero))
            weights.append(self._weight(node, ((values - zero) * scale).transpose(0, 2, 1)))
        inputs = [node.input[0], *weights, *(self._input(node, index) for index in range(3, 8))]
        new = helper.make_node("LSTM", inputs, node.output, name=node.name)
        new.attribute.extend(node.attribute)
        return [new]

    def _quantize(self, node: NodeProto) -> list[NodeProto]:
        """Clip the values to what the integers can hold, which is part of what the model computes."""
        zero = self._value(node.input[2]) if self._input(node, 2) else np.zeros((), np.uint8)
        scale = self._value(node.input[1])
        bounds = _RANGES.get(helper.np_dtype_to_tensor_dtype(zero.dtype))
        if scale.size != 1 or bounds is None:
            raise _NoTwinError
        self.floats.add(node.output[0])
        limits = [
            self._weight(node, ((bound - zero.astype(np.float64)) * scale).reshape(()).astype(np.float32))
            for bound in bounds
        ]
        return [helper.make_node("Clip", [node.input[0], *limits], node.output, name=node.name)]

    def _dequantize(self, node: NodeProto) -> list[NodeProto]:
        if node.input[0] not in self.floats:
            return [node]  # of a weight
        return [helper.make_node("Identity", [node.input[0]], node.output, name=node.name)]
