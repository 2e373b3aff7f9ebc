"""Layers with the batch before the time, and layers that are told how many steps there are, are served as specified."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from export.adopt.recurrent_layers import make_time_major
from tests.export.served import adopted, graph, reference, streamed

STEPS = 13
SIZES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def weights(operator: str, directions: int = 1) -> dict[str, tuple[int, ...]]:
    rows = 5 * SIZES[operator]
    return {"W": (directions, rows, 4), "R": (directions, rows, 5), "B": (directions, 2 * rows)}


def batch_major(operator: str) -> ModelProto:
    """Return a layer of layout 1 with its states: X (n, t, 4), Y (n, t, 1, 5), states (n, 1, 5)."""
    cell = operator == "LSTM"
    return graph(
        f"""net (float[n,t,4] x, float[n,1,5] h0{", float[n,1,5] c0" if cell else ""})
            => (float[n,t,1,5] y, float[n,1,5] hn{", float[n,1,5] cn" if cell else ""})
        {{ y, hn{", cn" if cell else ""} = {operator} <hidden_size = 5, layout = 1>
            (x, W, R, B, , h0{", c0" if cell else ""}) }}""",
        **weights(operator),
    )


def time_major(model: ModelProto, feeds: dict[str, Any]) -> Any:
    """Return the whole sequence's Y, (n, t, 1, 5), by onnx.reference run on a layer of layout 0.

    onnx.reference itself confuses the axes of layout 1 where there are states.
    """
    plain = ModelProto()
    plain.CopyFrom(model)
    (node,) = plain.graph.node
    kept = [attribute for attribute in node.attribute if attribute.name != "layout"]
    del node.attribute[:]
    node.attribute.extend(kept)
    for value in [*plain.graph.input, *plain.graph.output]:
        value.type.tensor_type.ClearField("shape")
    found = reference(plain, {name: np.swapaxes(value, 0, 1) for name, value in feeds.items()})
    return found["y"].transpose(2, 0, 1, 3)


@pytest.mark.parametrize("operator", SIZES)
def test_a_batch_major_layer_is_served(operator: str, tmp_path: Path) -> None:
    """What is served in chunks is the whole sequence's run, several steps at once and rows together."""
    model = batch_major(operator)
    artefact, card, findings = adopted(model, tmp_path)
    assert card.max_batch > 1
    assert any("is of layout 1" in line for line in findings)
    assert any("several steps at once" in line for line in findings)
    x = np.random.default_rng(0).normal(size=(1, STEPS, 4)).astype(np.float32)
    start = {spec.name: np.zeros((1, 1, 5), np.float32) for spec in card.states}
    whole = time_major(model, {"x": x, **start})
    np.testing.assert_allclose(streamed(artefact, {"x": x[0]})["y"], whole[0], atol=1e-5)


def test_a_layer_in_a_branch_is_rewritten_too() -> None:
    """No layer of layout 1 is left in a graph inside a node or in a function."""
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
        net (float[n,t,4] x, bool go) => (float[n,t,1,5] y)
        { y = If (go) <
            then_branch = a () => (float[n,t,1,5] p) { p = GRU <hidden_size = 5, layout = 1> (x, W, R) },
            else_branch = b () => (float[n,t,1,5] q) { q = local.run (x, W, R) }
        > }
        <domain: "local", opset_import: ["" : 17]> run (x, W, R) => (o)
        { o = GRU <hidden_size = 5, layout = 1> (x, W, R) }""")
    assert len(make_time_major(model)) == 2
    assert "layout" not in str(model)
    assert str(model).count('op_type: "Transpose"') == 4


def counted(operator: str, lengths: str, nodes: str, use: str = "x") -> ModelProto:
    """Return a layer that is told the lengths of its sequences by an input that is passed on by `nodes`."""
    return graph(
        f"""net (float[t,n,4] x, {lengths}, float[1,n,5] h0) => (float[t,n,5] y, float[1,n,5] hn)
        {{ one = Constant <value = int64[1] {{1}}> ()
          {nodes}
          Y, hn = {operator} <hidden_size = 5> ({use}, W, R, B, counts, h0)
          y = Squeeze (Y, one) }}""",
        **weights(operator),
    )


COUNTED = {
    "straight": ("GRU", "int32[n] lens", "counts = Identity (lens)", "x"),
    "cast": ("RNN", "int64[n] lens", "counts = Cast <to = 6> (lens)", "x"),
    "squeezed": ("GRU", "int32[n,1] lens", "counts = Squeeze (lens, one)", "x"),
    "read elsewhere": (
        "GRU",
        "int64[n] lens",
        """counts = Cast <to = 6> (lens)  f = Cast <to = 1> (lens)  zero = Constant <value = float {0.0}> ()
        none = Mul (f, zero)  last = Unsqueeze (none, one)  unused = Identity (last)""",
        "x",
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_lengths_are_the_number_of_steps(name: str, tmp_path: Path) -> None:
    """Clients send no lengths; the served steps are the run over the whole sequence with its length given."""
    model = counted(*COUNTED[name])
    artefact, card, findings = adopted(model, tmp_path)
    assert [spec.name for spec in card.inputs] == ["x"]
    assert any("lens is the number of steps" in line for line in findings)
    assert card.max_batch > 1
    x = np.random.default_rng(0).normal(size=(STEPS, 1, 4)).astype(np.float32)
    port = model.graph.input[1].type.tensor_type
    dtype = np.int32 if port.elem_type == onnx.TensorProto.INT32 else np.int64
    lens = np.full([1] * len(port.shape.dim), STEPS, dtype)
    whole = reference(model, {"x": x, "lens": lens, "h0": np.zeros((1, 1, 5), np.float32)})
    np.testing.assert_allclose(streamed(artefact, {"x": x[:, 0]})["y"], whole["y"][:, 0], atol=1e-5)


def test_an_lstm_with_both_is_served(tmp_path: Path) -> None:
    """Layout 1 and lengths in one node; int32 lengths of the batch."""
    model = graph(
        """net (float[n,t,4] x, int32[n] lens, float[n,1,5] h0, float[n,1,5] c0)
            => (float[n,t,1,5] y, float[n,1,5] hn, float[n,1,5] cn)
        { y, hn, cn = LSTM <hidden_size = 5, layout = 1> (x, W, R, B, lens, h0, c0) }""",
        **weights("LSTM"),
    )
    artefact, card, _ = adopted(model, tmp_path)
    assert [spec.name for spec in card.inputs] == ["x"]
    x = np.random.default_rng(0).normal(size=(1, STEPS, 4)).astype(np.float32)
    plain = batch_major("LSTM")
    zeros = np.zeros((1, 1, 5), np.float32)
    whole = time_major(plain, {"x": x, "h0": zeros, "c0": zeros})
    np.testing.assert_allclose(streamed(artefact, {"x": x[0]})["y"], whole[0], atol=1e-5)


def test_lengths_that_the_user_gives_stay_a_constant(tmp_path: Path) -> None:
    """--constant lens=1 says how many steps one run has."""
    model = counted(*COUNTED["straight"])
    _, card, findings = adopted(model, tmp_path, constants=["lens=1"])
    assert "constant lens = [1]" in findings
    assert [spec.name for spec in card.inputs] == ["x"]
