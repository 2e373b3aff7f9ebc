"""Recurrent layers are computed as ONNX specifies them, whatever their settings, or the file is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.ops.op_gru import GRU
from onnx.reference.ops.op_lstm import LSTM
from onnx.reference.ops.op_rnn import RNN_14

from export.adopt import layer_check
from export.adopt.errors import NotServableError
from export.adopt.layer_check import check_layers
from export.adopt.specified_layers import run_layer
from tests.export.served import adopted, streamed

_BLOCKS = {"LSTM": 4, "GRU": 3, "RNN": 1}
_NAMES = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
STEPS, ROWS, FEATURES, HIDDEN = 9, 3, 4, 5

ACTIVATIONS: dict[str, tuple[dict[str, float], Any]] = {
    "Relu": ({}, lambda x: np.maximum(x, 0)),
    "Tanh": ({}, np.tanh),
    "Sigmoid": ({}, lambda x: 1 / (1 + np.exp(-x))),
    "Softsign": ({}, lambda x: x / (1 + np.abs(x))),
    "Softplus": ({}, lambda x: np.log1p(np.exp(x))),
    "LeakyRelu": ({"alpha": 0.2}, lambda x: np.where(x >= 0, x, 0.2 * x)),
    "ThresholdedRelu": ({"alpha": 0.3}, lambda x: np.where(x >= 0.3, x, 0)),
    "Elu": ({"alpha": 0.7}, lambda x: np.where(x >= 0, x, 0.7 * (np.exp(x) - 1))),
    "Affine": ({"alpha": 0.7, "beta": 0.1}, lambda x: 0.7 * x + 0.1),
    "ScaledTanh": ({"alpha": 0.8, "beta": 0.6}, lambda x: 0.8 * np.tanh(0.6 * x)),
    "HardSigmoid": ({"alpha": 0.3, "beta": 0.4}, lambda x: np.clip(0.3 * x + 0.4, 0, 1)),
}
"""Activation → its parameters here, and the formula with them."""


def layer(operator: str, *, peepholes: bool = False, **attributes: Any) -> tuple[ModelProto, dict[str, Any]]:
    """Return a graph of one layer with its states as inputs and outputs, and random inputs for it."""
    random = np.random.default_rng(0)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    width = _BLOCKS[operator] * HIDDEN
    weights: dict[str, Any] = {
        "W": random.normal(0, 0.5, (directions, width, FEATURES)),
        "R": random.normal(0, 0.5, (directions, width, HIDDEN)),
        "B": random.normal(0, 0.5, (directions, 2 * width)),
    }
    feeds: dict[str, Any] = {
        "x": random.normal(size=(STEPS, ROWS, FEATURES)),
        "h0": random.normal(size=(directions, ROWS, HIDDEN)),
    }
    inputs, outputs = ["x", "W", "R", "B", "", "h0"], ["y", "hn"]
    if operator == "LSTM":
        feeds["c0"] = random.normal(size=(directions, ROWS, HIDDEN))
        inputs, outputs = [*inputs, "c0"], [*outputs, "cn"]
        if peepholes:
            weights["P"] = random.normal(size=(directions, 3 * HIDDEN))
            inputs.append("P")
    feeds, weights = ({name: v.astype(np.float32) for name, v in arrays.items()} for arrays in (feeds, weights))
    node = helper.make_node(operator, inputs, outputs, name="layer", hidden_size=HIDDEN, **attributes)
    shapes: dict[str, list[Any]] = {name: [directions, "n", HIDDEN] for name in (*feeds, *outputs[1:])}
    shapes |= {"x": ["t", "n", FEATURES], "y": ["t", directions, "n", HIDDEN]}
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in feeds],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), feeds


def specified(model: ModelProto, feeds: dict[str, Any]) -> list[Any]:
    """Return what the layer gives by the product's own computation in float64."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (node,) = model.graph.node
    return run_layer(node, [(feeds | weights)[name] if name else None for name in node.input])


def reference(model: ModelProto, feeds: dict[str, Any], names: list[str] | None = None, clip: float = np.inf) -> Any:
    """Return what the layer gives by onnx.reference.

    It knows no activations and no clip: those are put where it computes its own.
    """
    (node,) = model.graph.node
    names = names or _NAMES[node.op_type]
    functions = [lambda x, f=ACTIVATIONS[name][1]: f(np.clip(x, -clip, clip)) for name in names]
    base: Any = {"LSTM": LSTM, "GRU": GRU, "RNN": RNN_14}[node.op_type]

    class Layer(base):  # type: ignore[misc]
        op_domain = "test"

        def __init__(self, onnx_node: NodeProto, run_params: dict[str, Any]) -> None:
            plain = NodeProto()
            plain.CopyFrom(onnx_node)
            plain.domain = ""
            del plain.attribute[:]
            own = ("activations", "activation_alpha", "activation_beta", "clip")
            plain.attribute.extend(one for one in onnx_node.attribute if one.name not in own)
            super().__init__(plain, run_params)
            for name, function in zip(("f", "g", "h"), functions, strict=False):
                setattr(self, name, function)
            self.f1 = functions[0]

        @classmethod
        def op_name(cls) -> str:
            return str(node.op_type)

    Layer.__name__ = node.op_type
    moved = ModelProto()
    moved.CopyFrom(model)
    moved.graph.node[0].domain = "test"
    moved.opset_import.append(helper.make_opsetid("test", 1))
    wide = {name: value.astype(np.float64) for name, value in feeds.items()}
    return ReferenceEvaluator(moved, new_ops=[Layer]).run(None, wide)


def assert_same(found: list[Any], expected: list[Any], tolerance: float = 1e-5) -> None:
    """Assert that Y and the states agree."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


PLAIN: list[tuple[str, dict[str, Any]]] = [(operator, {}) for operator in _BLOCKS]
PLAIN += [("GRU", {"linear_before_reset": 1}), ("LSTM", {"peepholes": True})]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("operator", "settings"), PLAIN)
def test_layers_agree_with_the_reference(operator: str, settings: dict[str, Any], direction: str) -> None:
    """What the product computes for itself is what onnx.reference gives, which shares no code with onnxruntime."""
    model, feeds = layer(operator, direction=direction, **settings)
    expected: Any = ReferenceEvaluator(model).run(None, feeds)
    assert_same(specified(model, feeds), expected)
    check_layers(model)


@pytest.mark.parametrize("clip", [0.3, 2.0])
@pytest.mark.parametrize(("operator", "settings"), PLAIN)
def test_clip_bounds_what_activations_are_given(operator: str, settings: dict[str, Any], clip: float) -> None:
    """The product agrees with onnx.reference; onnxruntime's LSTM, which leaves out the cell state, is refused."""
    model, feeds = layer(operator, clip=clip, **settings)
    assert_same(specified(model, feeds), reference(model, feeds, clip=clip))
    if operator != "LSTM":
        check_layers(model)
        return
    with pytest.raises(NotServableError, match=r"LSTM 'layer' .*does not clip the cell state"):
        check_layers(model)


def test_a_clip_that_changes_nothing_is_taken() -> None:
    """Beyond the values at which tanh is flat, it does not matter whether the cell state is clipped."""
    model, _ = layer("LSTM", clip=8.0)
    check_layers(model)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("operator", "index"), [(op, at) for op in _NAMES for at in range(len(_NAMES[op]))])
def test_activations_are_those_of_the_specification(operator: str, index: int, activation: str) -> None:
    """Each activation, at each of its positions, with its alpha and beta."""
    names = list(_NAMES[operator])
    names[index] = activation
    given: dict[str, Any] = {f"activation_{name}": [value] for name, value in ACTIVATIONS[activation][0].items()}
    model, feeds = layer(operator, activations=names, **given)
    feeds["x"] = feeds["x"][:3]  # with some a GRU's state grows fast
    assert_same(specified(model, feeds), reference(model, feeds, names))
    check_layers(model)


def test_coupled_input_and_forget_gates() -> None:
    """With input_forget the forget gate is one minus the input gate: a loop written out here agrees."""
    model, feeds = layer("LSTM", input_forget=1)
    weights = {tensor.name: numpy_helper.to_array(tensor)[0].astype(np.float64) for tensor in model.graph.initializer}
    h, c = feeds["h0"][0].astype(np.float64), feeds["c0"][0].astype(np.float64)
    for x in feeds["x"].astype(np.float64):
        sums = x @ weights["W"].T + h @ weights["R"].T + sum(np.split(weights["B"], 2))
        i, o, _, g = np.split(sums, 4, axis=1)
        i, o = 1 / (1 + np.exp(-i)), 1 / (1 + np.exp(-o))
        c = (1 - i) * c + i * np.tanh(g)
        h = o * np.tanh(c)
    assert_same(specified(model, feeds)[1:], [h[None], c[None]])
    check_layers(model)


def test_rows_end_after_their_lengths() -> None:
    """A row's outputs behind its length are zeros, and its final state is that of its last step."""
    model, feeds = layer("GRU", direction="reverse")
    (node,) = model.graph.node
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    lengths = np.array([STEPS, 4, 1])
    y, h = run_layer(node, [feeds["x"], weights["W"], weights["R"], weights["B"], lengths, feeds["h0"]])
    for row, length in enumerate(lengths):
        alone = {"x": feeds["x"][:length, row : row + 1], "h0": feeds["h0"][:, row : row + 1]}
        found = specified(model, alone)
        assert_same([y[:length, :, row : row + 1], h[:, row : row + 1]], found)
        assert not y[length:, :, row].any()


@pytest.mark.parametrize("activation", ["Affine", "ScaledTanh"])
def test_parameters_without_a_default_are_asked_for(activation: str) -> None:
    """The specification gives Affine and ScaledTanh no default alpha, and onnxruntime takes its own."""
    model, _ = layer("RNN", activations=[activation])
    with pytest.raises(NotServableError, match=r"without alpha and beta means\. Write its alpha and beta"):
        check_layers(model)


def test_a_default_that_onnxruntime_has_otherwise_is_refused() -> None:
    """ThresholdedRelu's alpha is 1 where none is given; onnxruntime takes 0."""
    model, _ = layer("GRU", activations=["Sigmoid", "ThresholdedRelu"])
    with pytest.raises(NotServableError, match="gives something else for activations"):
        check_layers(model)


def test_the_check_sees_another_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the outputs of onnxruntime a thousandth off, the file would be refused."""
    run = layer_check._run
    monkeypatch.setattr(layer_check, "_run", lambda node, inputs: [1.002 * value for value in run(node, inputs)])
    layer_check._difference.cache_clear()
    model, _ = layer("RNN")
    with pytest.raises(NotServableError):
        check_layers(model)
    layer_check._difference.cache_clear()


@pytest.mark.parametrize("operator", ["GRU", "RNN"])
def test_a_layer_with_settings_is_served(operator: str, tmp_path: Path) -> None:
    """What is served in chunks is what onnx.reference gives for the whole sequence, clip and activations included."""
    names = ["HardSigmoid", "ScaledTanh"][-len(_NAMES[operator]) :]
    alpha = [ACTIVATIONS[name][0]["alpha"] for name in names]
    beta = [ACTIVATIONS[name][0]["beta"] for name in names]
    model, feeds = layer(operator, activations=names, activation_alpha=alpha, activation_beta=beta, clip=0.4)
    artefact, card, _ = adopted(model, tmp_path)
    assert card.max_batch > 1
    alone = {"x": feeds["x"][:, :1], "h0": np.zeros((1, 1, HIDDEN), np.float32)}
    whole = reference(model, alone, names, clip=0.4)[0][:, 0, 0]
    found = streamed(artefact, {"x": alone["x"][:, 0]})["y"].reshape(whole.shape)
    np.testing.assert_allclose(found, whole, atol=1e-5)
