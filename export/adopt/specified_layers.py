"""LSTM, GRU and RNN nodes computed in float64 as the ONNX specification defines them, without onnxruntime.

See https://onnx.ai/onnx/operators/onnx__LSTM.html, and onnx__GRU.html and onnx__RNN.html beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from export.figure import Array

Activation = Callable[[Array], Array]

_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
"""Operator → its activations for one direction, where the node names none."""
_PARAMETERS: dict[str, tuple[float | None, ...]] = {
    "affine": (None, None),
    "leakyrelu": (0.01,),
    "thresholdedrelu": (1.0,),
    "scaledtanh": (None, None),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.0,),
}
"""Activation → the default of its alpha, and of its beta where it has one: those of the operators of the same name.

None where the specification gives no default; activations that take neither are absent.
"""


class NotSpecifiedError(Exception):
    """The node has settings of which the specification does not say what they mean."""


@dataclass(frozen=True, slots=True)
class _Direction:
    """The weights of one direction of a layer, and its activations; `clip` is None where nothing is clipped."""

    weights: Array
    recurrence: Array
    bias: Array
    recurrent_bias: Array
    peepholes: Array
    activations: tuple[Activation, ...]
    clip: float | None
    couples: bool
    reset_last: bool

    def activate(self, index: int, values: Array) -> Array:
        """Return an activation of values, which are clipped first."""
        return self.activations[index](values if self.clip is None else np.clip(values, -self.clip, self.clip))


def run_layer(node: NodeProto, inputs: Sequence[Array | None]) -> list[Array]:
    """Return Y (time, directions, batch, hidden) and the final states (directions, batch, hidden) of a layer.

    `inputs` are the node's, None for those that it leaves out; the layout is 0.

    Raises:
        NotSpecifiedError: The specification does not say what the node gives.
    """
    attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if attributes.get("layout", 0):
        raise NotSpecifiedError("layout 1")
    data, weights, recurrence, bias, lengths, *more = [
        None if value is None else np.asarray(value, np.float64) for value in (*inputs, *[None] * 8)
    ][:8]
    if data is None or weights is None or recurrence is None:
        raise NotSpecifiedError("no weights")
    steps, rows = data.shape[:2]
    directions, hidden = recurrence.shape[0], recurrence.shape[-1]
    counts = np.full(rows, steps) if lengths is None else lengths.astype(int)
    named = attributes.get("direction", b"forward").decode()
    reverses = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[named]
    if len(reverses) != directions:
        raise NotSpecifiedError("another number of directions than weights")
    activations = _activations(node.op_type, attributes, directions)
    outputs: list[list[Array]] = []
    for index, reverse in enumerate(reverses):
        size = weights.shape[1]
        both = np.zeros(2 * size) if bias is None else bias[index]
        peepholes = more[2] if len(more) > 2 else None
        layer = _Direction(
            weights[index],
            recurrence[index],
            both[:size],
            both[size:],
            np.zeros(3 * hidden) if peepholes is None else peepholes[index],
            activations[index],
            attributes.get("clip"),
            bool(attributes.get("input_forget", 0)),
            bool(attributes.get("linear_before_reset", 0)),
        )
        states = [np.zeros((rows, hidden)) if start is None else start[index] for start in more[:2]]
        outputs.append(_run(node.op_type, layer, data, counts, states, reverse=reverse))
    return [np.stack(parts, axis=1 if at == 0 else 0) for at, parts in enumerate(zip(*outputs, strict=True))]


def _run(
    operator: str, layer: _Direction, data: Array, counts: Array, states: list[Array], *, reverse: bool
) -> list[Array]:
    """Run one direction; return Y (time, batch, hidden), zeros behind each row's steps, and the final states."""
    step = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[operator]
    steps, rows = data.shape[:2]
    given = np.zeros((steps, rows, layer.recurrence.shape[-1]))
    final = [state.copy() for state in states]
    for row in range(rows):
        indices = range(counts[row])
        now = [state[row : row + 1] for state in states]
        for at in reversed(indices) if reverse else indices:
            now = step(layer, data[at, row : row + 1], now)
            given[at, row] = now[0][0]
        for state, value in zip(final, now, strict=False):
            state[row] = value[0]
    return [given, *final[: 2 if operator == "LSTM" else 1]]


def _lstm(layer: _Direction, x: Array, states: list[Array]) -> list[Array]:
    h, c = states
    sums = x @ layer.weights.T + h @ layer.recurrence.T + layer.bias + layer.recurrent_bias
    at_i, at_o, at_f, at_c = np.split(sums, 4, axis=1)
    of_i, of_o, of_f = np.split(layer.peepholes, 3)
    i = layer.activate(0, at_i + of_i * c)
    f = 1 - i if layer.couples else layer.activate(0, at_f + of_f * c)
    after = f * c + i * layer.activate(1, at_c)
    o = layer.activate(0, at_o + of_o * after)
    return [o * layer.activate(2, after), after]


def _gru(layer: _Direction, x: Array, states: list[Array]) -> list[Array]:
    h = states[0]
    at_z, at_r, at_h = np.split(x @ layer.weights.T + layer.bias, 3, axis=1)
    by_z, by_r, by_h = np.split(layer.recurrence, 3)
    to_z, to_r, to_h = np.split(layer.recurrent_bias, 3)
    z = layer.activate(0, at_z + h @ by_z.T + to_z)
    r = layer.activate(0, at_r + h @ by_r.T + to_r)
    recurrent = r * (h @ by_h.T + to_h) if layer.reset_last else (r * h) @ by_h.T + to_h
    return [(1 - z) * layer.activate(1, at_h + recurrent) + z * h]


def _rnn(layer: _Direction, x: Array, states: list[Array]) -> list[Array]:
    sums = x @ layer.weights.T + states[0] @ layer.recurrence.T + layer.bias + layer.recurrent_bias
    return [layer.activate(0, sums)]


def _activations(operator: str, attributes: dict[str, Any], directions: int) -> list[tuple[Activation, ...]]:
    """Return the activations of each direction; alphas and betas are taken by those that have one, as they follow."""
    names = [name.decode().lower() for name in attributes.get("activations", ())]
    count = len(_DEFAULTS[operator])
    names = names or [name.lower() for name in _DEFAULTS[operator]] * directions
    if len(names) != count * directions:
        raise NotSpecifiedError("another number of activations")
    alphas, betas = (list(attributes.get(f"activation_{which}", ())) for which in ("alpha", "beta"))
    found = []
    for name in names:
        defaults = _PARAMETERS.get(name, ())
        given = [
            values.pop(0) if values else default for default, values in zip(defaults, (alphas, betas), strict=False)
        ]
        if None in given:
            raise NotSpecifiedError(f"the activation {name} without alpha and beta")
        found.append(_activation(name, *(value for value in given if value is not None)))
    return [tuple(found[at : at + count]) for at in range(0, len(found), count)]


@np.errstate(over="ignore")
def _sigmoid(x: Array) -> Array:
    found: Array = 1 / (1 + np.exp(-x))
    return found


def _activation(name: str, alpha: float = 0.0, beta: float = 0.0) -> Activation:
    known: dict[str, Activation] = {
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "sigmoid": _sigmoid,
        "affine": lambda x: alpha * x + beta,
        "leakyrelu": lambda x: np.where(x >= 0, x, alpha * x),
        "thresholdedrelu": lambda x: np.where(x >= alpha, x, 0),
        "scaledtanh": lambda x: alpha * np.tanh(beta * x),
        "hardsigmoid": lambda x: np.clip(alpha * x + beta, 0, 1),
        "elu": lambda x: np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0))),
        "softsign": lambda x: x / (1 + np.abs(x)),
        "softplus": lambda x: np.logaddexp(0, x),
    }
    if name not in known:
        raise NotSpecifiedError(f"the activation {name}")
    return known[name]
