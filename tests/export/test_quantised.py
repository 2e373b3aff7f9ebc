"""Quantised files: what quantisation alone changes is measured and told, anything more is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from export import ExportOptions
from export.adopt import adopt_model, lift_recurrent, pipeline, quantised
from export.adopt.errors import WholeSequenceError
from export.adopt.float_twin import float_twin
from export.adopt.lift import Lifted
from export.artefact import read_card
from tests.export.hidden_states import Hidden
from tests.export.served import graph
from tests.export.test_adopt_whole_sequence import difference, run
from tests.export.test_lift import streamed
from tests.export.torch_exports import TORCH
from tests.export.zoo import write

_TOLD = "the scales of quantisation are those of what is run together"


def quantised_file(model: ModelProto, folder: Path, **options: Any) -> Path:
    """Write a model with its weights in int8, its inputs scaled as they come."""
    write(model, folder / "plain.onnx")
    quantize_dynamic(folder / "plain.onnx", folder / "foreign.onnx", **options)
    return folder / "foreign.onnx"


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", ["lstm", "learned_start", "token_ids", "between_other_layers"])
def test_a_quantised_model_is_adopted(name: str, per_channel: bool, tmp_path: Path) -> None:
    """Without any option: the card says what quantisation changes, and what is served is near the float file."""
    plain = TORCH[name].exported("script", tmp_path)
    file = quantised_file(plain, tmp_path, per_channel=per_channel)
    card = read_card(path := adopt_model(file, tmp_path, "m", 1))
    (told,) = (line for line in card.config["findings"] if line.startswith(_TOLD))
    assert "differ by" in told
    assert card.states
    assert card.max_batch == 1
    x = TORCH[name].sequence()
    whole = run(plain, {"x": x})["y"]
    found = streamed(path, x, 1)
    assert difference(found.reshape(-1)[-whole.size :], whole.reshape(-1)) < 0.1


def test_a_tolerance_that_is_given_stands(tmp_path: Path) -> None:
    """Where the difference is within the user's own tolerance, nothing is said of quantisation."""
    file = quantised_file(TORCH["lstm"].exported("script", tmp_path), tmp_path)
    card = read_card(adopt_model(file, tmp_path, "m", 1, ExportOptions(tolerance=0.05)))
    assert not any(line.startswith(_TOLD) for line in card.config["findings"])
    assert [state.name for state in card.states] == ["layer_LSTM_quant.h", "layer_LSTM_quant.c"]


def test_a_quantised_state_that_is_lost_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float twin loses the state as well, and shows that quantisation is not what differs."""
    monkeypatch.setattr(pipeline, "lift_states", Lifted)
    file = quantised_file(TORCH["lstm"].exported("script", tmp_path), tmp_path)
    with pytest.raises(WholeSequenceError, match="DynamicQuantizeLSTM"):
        adopt_model(file, tmp_path, "m", 1)
    assert not (tmp_path / "m").exists()


def test_quantised_states_that_are_swapped_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small weights make h and c nearly alike: the difference is small, and still more than quantisation's."""
    monkeypatch.setattr(lift_recurrent, "_SLOTS", {"h": (5, 2), "c": (6, 1)})
    file = quantised_file(TORCH["lstm"].exported("script", tmp_path), tmp_path)
    with pytest.raises(WholeSequenceError):
        adopt_model(file, tmp_path, "m", 1)


def test_a_small_look_ahead_behind_quantisation_is_refused(tmp_path: Path) -> None:
    """A convolution whose weight of the next step is a hundredth of the others': less than quantisation changes."""
    case = Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { narrow = Transpose <perm = [0, 2, 1]> (x)  wide = Conv <pads = [1, 1]> (narrow, K)
          back = Transpose <perm = [0, 2, 1]> (wide)  y = MatMul (back, M) }""",
        (),
        weights={"K": (4, 4, 3), "M": (4, 4)},
    )
    model = case.model()
    kernel = next(one for one in model.graph.initializer if one.name == "K")
    values = numpy_helper.to_array(kernel).copy()
    values[:, :, 0], values[:, :, 2] = 0.0, 0.01 * values[:, :, 2]
    kernel.CopyFrom(numpy_helper.from_array(values, "K"))
    file = quantised_file(model, tmp_path, op_types_to_quantize=["MatMul"])
    with pytest.raises(WholeSequenceError):
        adopt_model(file, tmp_path, "m", 1)


def test_more_than_quantisation_may_change_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that quantisation has made into another is not excused by it."""
    monkeypatch.setattr(quantised, "_MOST", 1e-4)
    file = quantised_file(TORCH["lstm"].exported("script", tmp_path), tmp_path)
    with pytest.raises(WholeSequenceError):
        adopt_model(file, tmp_path, "m", 1)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", ["lstm", "learned_start", "between_other_layers", "dilated_convolutions"])
def test_the_twin_has_the_weights_of_the_quantised_model(name: str, per_channel: bool, tmp_path: Path) -> None:
    """The twin is nearer to the float file than the quantised model is, and has no quantised node left."""
    plain = TORCH[name].exported("script", tmp_path)
    quantised_file(plain, tmp_path, per_channel=per_channel)

    model = onnx.load(tmp_path / "foreign.onnx")
    twin = float_twin(model)
    assert twin is not None
    assert not any("uantize" in node.op_type or "Integer" in node.op_type for node in twin.graph.node)
    x = {"x": TORCH[name].sequence()}
    whole, found, quantised_whole = (run(one, x)["y"] for one in (plain, twin, model))
    assert difference(found, whole) <= difference(quantised_whole, whole) < 0.1


def test_files_without_a_twin_have_none() -> None:
    """A float file, and a quantised operator of which no twin is known."""
    assert float_twin(graph("net (float[n,4] x) => (float[n,4] y) { y = Tanh (x) }")) is None
    integers = helper.make_tensor_value_info("q", TensorProto.UINT8, ["n", 4])
    product = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node("QLinearMatMul", ["q", "s", "z", "w", "s", "z", "s", "z"], ["p"]),
            ],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [integers],
            [
                numpy_helper.from_array(np.array(0.1, np.float32), "s"),
                numpy_helper.from_array(np.array(128, np.uint8), "z"),
                numpy_helper.from_array(np.ones((4, 4), np.uint8), "w"),
            ],
        )
    )
    assert float_twin(product) is None
