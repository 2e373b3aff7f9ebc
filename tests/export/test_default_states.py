"""A state whose input has a default value is a state, and starts from that value."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from export.adopt.errors import AmbiguousError
from tests.export.served import adopted, graph, reference, streamed
from tests.export.zoo import ZOO


def with_default(model: ModelProto, **defaults: Any) -> ModelProto:
    """Give inputs a default value: an initializer of the same name."""
    for name, value in defaults.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return model


def one_state(source: str = "h_in", target: str = "h_out", dims: str = "1, 3") -> ModelProto:
    return graph(
        f"""net (float[batch,3] x, float[{dims}] {source}) => (float[batch,3] y, float[batch,3] {target})
        {{ half = Constant <value = float {{0.5}}> ()
          less = Mul ({source}, half)  {target} = Add (less, x)  y = Tanh ({target}) }}"""
    )


START = [[5.0, 6.0, 7.0]]


@pytest.mark.parametrize(
    ("source", "target", "dims"),
    [
        ("h_in", "h_out", "1, 3"),
        ("m_prev", "m_next", "1, 3"),
        ("state", "stateN", "batch, 3"),
        ("initial_h", "final_h", "1, 3"),
    ],
)
def test_a_state_starts_from_its_default(source: str, target: str, dims: str, tmp_path: Path) -> None:
    """What is served is what onnx.reference gives step by step, the first step without that input."""
    model = with_default(one_state(source, target, dims), **{source: START})
    artefact, card, _ = adopted(model, tmp_path)
    assert card.states[0].initial == (5.0, 6.0, 7.0)
    assert card.max_batch > 1
    assert [spec.name for spec in card.inputs] == ["x"]
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    expected, state = [], dict[str, Any]()
    for row in x:
        found = reference(model, {"x": row[None], **state})
        expected.append(found["y"][0])
        state = {source: found[target]}
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], np.stack(expected), atol=1e-6)


def test_layers_may_have_defaults_for_both_states(tmp_path: Path) -> None:
    """h0 and c0 of an LSTM, as exporters write them where the caller may leave them out."""
    model = ZOO["time_first_batch_second"].model()
    random = np.random.default_rng(1)
    start = {name: random.normal(size=(1, 1, 5)) for name in ("h0", "c0")}
    artefact, card, _ = adopted(with_default(model, **start), tmp_path)
    assert [state.name for state in card.states] == ["h0", "c0"]
    x = random.normal(size=(11, 4)).astype(np.float32)
    whole = reference(model, {"x": x[:, None], **{name: row.astype(np.float32) for name, row in start.items()}})
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], whole["y"][:, 0], atol=1e-5)


def test_an_initial_file_comes_before_the_default(tmp_path: Path) -> None:
    """--initial says where a state starts, whatever the file says."""
    np.savez(tmp_path / "start.npz", h_in=np.full((1, 3), 2.0))
    _, card, _ = adopted(with_default(one_state(), h_in=START), tmp_path, initial=tmp_path / "start.npz")
    assert card.states[0].initial == 2.0


def test_a_default_that_may_be_a_state_is_asked_about(tmp_path: Path) -> None:
    """An input named as a state that several outputs could feed; --state settles it either way."""
    text = """net (float[batch,3] x, float[1,3] memory) => (float[batch,3] r, float[batch,3] s)
        { r = Add (memory, x)  s = Tanh (r) }"""
    model = with_default(graph(text), memory=START)
    with pytest.raises(AmbiguousError, match="--state memory=r or --state memory=s or --state memory="):
        adopted(model, tmp_path)
    assert [state.name for state in adopted(model, tmp_path, states=["memory=r"])[1].states] == ["memory"]


def test_a_default_that_is_no_state_stays_a_constant(tmp_path: Path) -> None:
    """--state IN= leaves an input at its default; so is one whose name says nothing of a state."""
    _, card, _ = adopted(with_default(one_state(), h_in=START), tmp_path, states=["h_in="])
    assert ([spec.name for spec in card.inputs], card.states) == (["x"], ())


def test_another_default_stays_as_it_is(tmp_path: Path) -> None:
    """A gain or a bias with a default is part of the model: clients do not send it, and it is not fed back."""
    text = """net (float[batch,3] x, float[1,3] gain) => (float[batch,3] y) { y = Mul (x, gain) }"""
    artefact, card, _ = adopted(with_default(graph(text), gain=START), tmp_path)
    assert ([spec.name for spec in card.inputs], card.states) == (["x"], ())
    np.testing.assert_allclose(streamed(artefact, {"x": np.ones((2, 3), np.float32)})["y"], START * 2)


def test_weights_listed_as_inputs_are_no_states(tmp_path: Path) -> None:
    """Files of IR 3 list every weight among the inputs, whatever it is called."""
    model = graph(
        """net (float[batch,5] x, float[batch,5] h) => (float[batch,5] y, float[batch,5] h_out)
        { a = MatMul (h, c)  b = Add (a, cell)  h_out = Add (b, x)  y = Tanh (h_out) }""",
        c=(5, 5),
        cell=(1, 5),
    )
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    _, card, _ = adopted(model, tmp_path)
    assert [state.name for state in card.states] == ["h"]


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("input_2", "output_2"), ("q", "r")])
def test_a_default_whose_name_says_nothing_is_asked_about(source: str, target: str, tmp_path: Path) -> None:
    """Kept as a constant, a state would start again at every step: --state says which it is."""
    model = with_default(one_state(source, target), **{source: START})
    words = f"{source} .* has a default value, and may be a state .*All states in one command: .* --state {source}="
    with pytest.raises(AmbiguousError, match=words):
        adopted(model, tmp_path)
    _, card, _ = adopted(model, tmp_path, states=[f"{source}={target}"])
    assert card.states[0].initial == (5.0, 6.0, 7.0)
    constant = tmp_path / "constant"
    constant.mkdir()
    _, card, _ = adopted(model, constant, states=[f"{source}="])
    assert not card.states


def test_weights_that_are_listed_as_inputs_are_none(tmp_path: Path) -> None:
    """Some exporters list all weights among the inputs: a layer's are not asked about."""
    model = graph(
        """net (float[n,4] x, float[n,4] h) => (float[n,4] y, float[n,4] h_out)
        { a = MatMul (x, W)  s = Add (h, a)  h_out = Tanh (s)  y = Neg (h_out) }""",
        W=(4, 4),
    )
    model.graph.input.append(helper.make_tensor_value_info("W", 1, [4, 4]))
    _, card, _ = adopted(model, tmp_path)
    assert [state.name for state in card.states] == ["h"]
