"""Runs of ONNX graphs in float64 by onnx.reference, its recurrent layers written from the ONNX specification.

Nothing here uses onnxruntime or the code under test. onnx's own layers leave out clip, activations and lengths.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, inliner, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Feeds = Mapping[str, Any]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@np.errstate(over="ignore")
def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


_ACTIVATIONS: dict[str, Any] = {
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "tanh": lambda x, a, b: np.tanh(x),
    "relu": lambda x, a, b: np.maximum(x, 0),
    "hardsigmoid": lambda x, a, b: np.clip((0.2 if a is None else a) * x + (0.5 if b is None else b), 0, 1),
    "leakyrelu": lambda x, a, b: np.where(x < 0, (0.01 if a is None else a) * x, x),
    "elu": lambda x, a, b: np.where(x < 0, (1.0 if a is None else a) * np.expm1(np.minimum(x, 0)), x),
    "thresholdedrelu": lambda x, a, b: np.where(x > (1.0 if a is None else a), x, 0),
    "scaledtanh": lambda x, a, b: a * np.tanh(b * x),
    "affine": lambda x, a, b: a * x + b,
    "softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "softplus": lambda x, a, b: np.logaddexp(0, x),
}
_TAKING_ALPHA = ("leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu", "affine")
_TAKING_BETA = ("scaledtanh", "hardsigmoid", "affine")


class _Layer(OpRun):
    """A recurrent layer: (time, batch, input) to (time, directions, batch, hidden) and the states at the end."""

    op_domain = ""
    states: int = 1
    activations: tuple[str, ...] = ("Tanh",)

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        given = {one.name: helper.get_attribute_value(one) for one in self.onnx_node.attribute}
        given_inputs: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
        x, weights, recurrence, bias, lens, *rest = given_inputs
        directions, hidden = recurrence.shape[0], recurrence.shape[-1]
        batch_first = bool(given.get("layout", 0))
        if batch_first:
            x = np.swapaxes(x, 0, 1)
            rest[:2] = [None if one is None else np.swapaxes(one, 0, 1) for one in rest[:2]]
        steps, rows = x.shape[:2]
        lens = np.full(rows, steps) if lens is None else lens
        bias = np.zeros((directions, 2 * weights.shape[1]), x.dtype) if bias is None else bias
        start = [np.zeros((directions, rows, hidden), x.dtype) if one is None else one for one in rest[: self.states]]
        peephole = rest[2] if len(rest) > 2 and rest[2] is not None else np.zeros((directions, 3 * hidden), x.dtype)
        for one in start:
            if one.shape != (directions, rows, hidden):
                raise ValueError(f"an initial state of shape {one.shape}, not {(directions, rows, hidden)}")
        y = np.zeros((steps, directions, rows, hidden), x.dtype)
        after = [one.copy() for one in start]
        direction = given.get("direction", b"forward")
        functions = list(_functions(given, self.activations * directions))
        for d in range(directions):
            backward = direction == b"reverse" or d == 1
            part = functions[d * len(self.activations) : (d + 1) * len(self.activations)]
            for row in range(rows):
                state = [one[d, row] for one in start]
                order = range(int(lens[row]))
                for step in reversed(order) if backward else order:
                    wx, wr = weights[d] @ x[step, row], recurrence[d]
                    state = self.step(wx, wr, bias[d], peephole[d], state, part, given)
                    y[step, d, row] = state[0]
                for one, value in zip(after, state, strict=True):
                    one[d, row] = value
        if batch_first:
            y, after = y.transpose(2, 0, 1, 3), [np.swapaxes(one, 0, 1) for one in after]
        return (y, *after)[: len(self.onnx_node.output)]

    def step(
        self, wx: Any, wr: Any, b: Any, p: Any, state: list[Any], f: list[Any], given: dict[str, Any]
    ) -> list[Any]:
        """Return the states after one step of one row; `wx` is the input's product, `f` the activations."""
        raise NotImplementedError


class RNN(_Layer):
    """H = f(W x + R h + b)."""

    def step(
        self, wx: Any, wr: Any, b: Any, p: Any, state: list[Any], f: list[Any], given: dict[str, Any]
    ) -> list[Any]:
        """Return h after one step."""
        wb, rb = np.split(b, 2)
        return [f[0](wx + wr @ state[0] + wb + rb)]


class GRU(_Layer):
    """Update, reset, hidden, in that sequence of weights."""

    activations = ("Sigmoid", "Tanh")

    def step(
        self, wx: Any, wr: Any, b: Any, p: Any, state: list[Any], f: list[Any], given: dict[str, Any]
    ) -> list[Any]:
        """Return h after one step."""
        (h,) = state
        (xz, xr, xh), (rz, rr, rh) = np.split(wx, 3), np.split(wr, 3)
        bz, br, bh, cz, cr, ch = np.split(b, 6)
        z, r = f[0](xz + rz @ h + bz + cz), f[0](xr + rr @ h + br + cr)
        inner = r * (rh @ h + ch) if given.get("linear_before_reset", 0) else rh @ (r * h) + ch
        return [(1 - z) * f[1](xh + inner + bh) + z * h]


class LSTM(_Layer):
    """Input, output, forget, cell, in that sequence of weights."""

    states = 2
    activations = ("Sigmoid", "Tanh", "Tanh")

    def step(
        self, wx: Any, wr: Any, b: Any, p: Any, state: list[Any], f: list[Any], given: dict[str, Any]
    ) -> list[Any]:
        """Return h and c after one step."""
        h, c = state
        wb, rb = np.split(b, 2)
        i, o, forget, new = np.split(wx + wr @ h + wb + rb, 4)
        pi, po, pf = np.split(p, 3)
        i = f[0](i + pi * c)
        forget = 1 - i if given.get("input_forget", 0) else f[0](forget + pf * c)
        cell = forget * c + i * f[1](new)
        return [f[0](o + po * cell) * f[2](cell), cell]


class Pad(OpRun):
    """Padding that may be negative, which cuts values off; onnx's own takes no negative ones."""

    op_domain = ""

    def _run(self, x: Any, pads: Any = None, value: Any = None, axes: Any = None, **attributes: Any) -> tuple[Any, ...]:
        given = {one.name: helper.get_attribute_value(one) for one in self.onnx_node.attribute}
        pads = given["pads"] if pads is None else pads
        axes = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
        mode = given.get("mode", b"constant").decode()
        fill = given.get("value", 0) if value is None or not value.size else value.reshape(-1)[0]
        for at, axis in enumerate(axes):
            ahead, behind = int(pads[at]), int(pads[at + len(axes)])
            widths = [(0, 0)] * x.ndim
            widths[axis] = (max(ahead, 0), max(behind, 0))
            x = np.pad(x, widths, constant_values=fill) if mode == "constant" else np.pad(x, widths, mode=mode)
            x = np.take(x, range(max(-ahead, 0), x.shape[axis] - max(-behind, 0)), axis=axis)
        return (x,)


def _functions(given: dict[str, Any], default: tuple[str, ...]) -> Iterator[Any]:
    """Yield the activations; alpha and beta are given, one after another, to those that take them."""
    alphas, betas = iter(given.get("activation_alpha", ())), iter(given.get("activation_beta", ()))
    clip = given.get("clip")
    for name in (one.decode().lower() for one in given.get("activations", [one.encode() for one in default])):
        alpha = next(alphas, None) if name in _TAKING_ALPHA else None
        beta = next(betas, None) if name in _TAKING_BETA else None

        def apply(x: Any, name: str = name, alpha: Any = alpha, beta: Any = beta) -> Any:
            return _ACTIVATIONS[name](x if clip is None else np.clip(x, -clip, clip), alpha, beta)

        yield apply


def in_float64(model: ModelProto) -> ModelProto:
    """Return a copy of a model whose floats are all float64."""
    found = ModelProto()
    found.CopyFrom(model)
    _widen(found.graph)
    return found


def _widen(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", helper.make_tensor("v", TensorProto.DOUBLE, [1], [0])))
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _widen_tensor(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _widen(attribute.g)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                values = np.asarray(helper.get_attribute_value(attribute), np.float64)
                attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))


def _stack_rows(graph: GraphProto) -> None:
    """Give what a Loop returns in each iteration a new first axis, along which onnx.reference joins it."""
    for node in graph.node:
        for body in (one.g for one in node.attribute if one.type == AttributeProto.GRAPH):
            _stack_rows(body)
            for value in body.output[len(node.input) - 1 :] if node.op_type == "Loop" else ():
                axes, row = f"{value.name}/axes", f"{value.name}/row"
                body.initializer.append(numpy_helper.from_array(np.array([0], np.int64), axes))
                body.node.append(helper.make_node("Unsqueeze", [value.name, axes], [row]))
                value.name = row
                value.type.tensor_type.ClearField("shape")


class Exact:
    """Runs a graph in float64, and in float32 to show what float32 itself costs."""

    def __init__(self, model: ModelProto) -> None:
        self._names = [value.name for value in model.graph.output]
        inlined = ModelProto()
        inlined.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
        _stack_rows(inlined.graph)
        layers = [LSTM, GRU, RNN, Pad]
        self._wide = ReferenceEvaluator(in_float64(inlined), new_ops=layers)
        self._plain = ReferenceEvaluator(inlined, new_ops=layers)

    def run(self, feeds: Feeds, *, wide: bool = True) -> dict[str, Any]:
        """Return every output, in float64 unless `wide` is false."""
        if wide:
            feeds = {
                name: value.astype(np.float64) if value.dtype.kind == "f" else value for name, value in feeds.items()
            }
        evaluator = self._wide if wide else self._plain
        with np.errstate(all="ignore"):
            found: Any = evaluator.run(None, dict(feeds))
        return dict(zip(self._names, found, strict=True))
