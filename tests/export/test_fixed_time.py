"""Files that run a fixed number of steps at once: nobody starts from zero in every run without having said so."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from export.adopt.errors import AmbiguousError, NotServableError
from tests.export.served import adopted, graph, reference, streamed

_LSTM = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40), "W2": (1, 20, 5)}
_ONE = "one = Constant <value = int64[1] {1}> ()"
STEPS = 16

FIXED = {
    "time_first": f"""net (float[16,n,4] x) => (float[16,n,5] y)
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B)  {_ONE}  y = Squeeze (Y, one) }}""",
    "batch_first": f"""net (float[n,16,4] x) => (float[n,16,5] y)
        {{ major = Transpose <perm = [1, 0, 2]> (x)  Y = LSTM <hidden_size = 5> (major, W, R, B)
          {_ONE}  s = Squeeze (Y, one)  y = Transpose <perm = [1, 0, 2]> (s) }}""",
    "reshaped": """net (float[1,16,4] x) => (float[1,16,5] y)
        { major = Transpose <perm = [1, 0, 2]> (x)  Y = LSTM <hidden_size = 5> (major, W, R, B)
          sizes = Constant <value = int64[3] {16, 1, 5}> ()  s = Reshape (Y, sizes)
          y = Transpose <perm = [1, 0, 2]> (s) }""",
    "two_layers": f"""net (float[n,16,4] x) => (float[n,16,5] y)
        {{ major = Transpose <perm = [1, 0, 2]> (x)  Y = LSTM <hidden_size = 5> (major, W, R, B)
          {_ONE}  s = Squeeze (Y, one)  Z = LSTM <hidden_size = 5> (s, W2, R, B)  t = Squeeze (Z, one)
          y = Transpose <perm = [1, 0, 2]> (t) }}""",
    "one_state_shown": f"""net (float[n,16,4] x, float[1,n,5] h0, float[1,n,5] c0)
            => (float[n,16,5] y, float[1,n,5] hn, float[1,n,5] cn)
        {{ major = Transpose <perm = [1, 0, 2]> (x)  Y, hn, cn = LSTM <hidden_size = 5> (major, W, R, B, , h0, c0)
          {_ONE}  s = Squeeze (Y, one)  Z = LSTM <hidden_size = 5> (s, W2, R, B)  t = Squeeze (Z, one)
          y = Transpose <perm = [1, 0, 2]> (t) }}""",
}


def model(name: str, steps: int = STEPS) -> ModelProto:
    return graph(FIXED[name].replace("16", str(steps)), **_LSTM)


def whole(name: str, x: Any) -> Any:
    """Return (time, 5) of one sequence of any length, by onnx.reference on the same file made for that length."""
    at = 0 if name == "time_first" else 1
    feeds = {"x": np.expand_dims(x, 1 - at)}
    if name == "one_state_shown":
        feeds |= dict.fromkeys(("h0", "c0"), np.zeros((1, 1, 5), np.float32))
    return reference(model(name, len(x)), feeds)["y"].reshape(len(x), 5)


def sequence(steps: int) -> Any:
    return np.random.default_rng(3).normal(size=(steps, 4)).astype(np.float32)


@pytest.mark.parametrize("name", FIXED)
def test_a_layer_that_restarts_in_every_run_is_asked_about(name: str, tmp_path: Path) -> None:
    """The question names the layer and its steps, and has a --step for windows and one for single steps."""
    words = r"LSTM '.*' runs over 16 steps in every run, and starts again .*\(--step x=16x4\).*\(--step x=4\)"
    with pytest.raises(AmbiguousError, match=words):
        adopted(model(name), tmp_path)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", FIXED)
def test_single_steps_carry_the_state(name: str, tmp_path: Path) -> None:
    """With --step x=4 the axis is opened and the state lifted: 40 steps in chunks are one run over 40 steps."""
    artefact, card, findings = adopted(model(name), tmp_path, steps=["x=4"])
    assert [spec.shape for spec in card.inputs] == [(4,)]
    assert card.max_batch > 1 or name == "reshaped"
    assert "the file runs 16 steps at once: the axis is opened, and with so many it gives what it gave" in findings
    x = sequence(40)
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], whole(name, x), atol=1e-5)


@pytest.mark.parametrize("name", ["time_first", "batch_first", "reshaped", "two_layers"])
def test_windows_start_again_where_the_user_says_so(name: str, tmp_path: Path) -> None:
    """With --step x=16x4 each step is a window of 16, and gives what the file gives for it alone."""
    artefact, card, _ = adopted(model(name), tmp_path, steps=["x=16x4"])
    assert not card.states
    x = sequence(2 * STEPS).reshape(2, STEPS, 4)
    found = streamed(artefact, {"x": x})["y"]
    np.testing.assert_allclose(found[1], whole(name, x[1]), atol=1e-5)


def test_another_step_is_a_question_still(tmp_path: Path) -> None:
    """A --step that is neither the window nor one step settles nothing."""
    with pytest.raises(AmbiguousError, match="runs over 16 steps"):
        adopted(model("batch_first"), tmp_path, steps=["x=8x4"])


def test_a_number_of_steps_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    """Weights for each of the 16 steps: they have no step that could be run alone."""
    text = FIXED["time_first"].replace("y = Squeeze (Y, one)", "s = Squeeze (Y, one)  y = Mul (s, each)")
    with pytest.raises((AmbiguousError, NotServableError), match=r"runs over 16 steps|cannot be opened"):
        adopted(graph(text, **_LSTM, each=(16, 1, 5)), tmp_path, steps=["x=4"])
    assert not (tmp_path / "m").exists()


def test_chunks_with_all_their_states_outside_are_served(tmp_path: Path) -> None:
    """A file for chunks of 16 whose states are inputs and outputs loses nothing between them."""
    text = f"""net (float[n,16,4] x, float[1,n,5] h0, float[1,n,5] c0)
            => (float[n,16,5] y, float[1,n,5] hn, float[1,n,5] cn)
        {{ major = Transpose <perm = [1, 0, 2]> (x)  Y, hn, cn = LSTM <hidden_size = 5> (major, W, R, B, , h0, c0)
          {_ONE}  s = Squeeze (Y, one)  y = Transpose <perm = [1, 0, 2]> (s) }}"""
    artefact, card, _ = adopted(graph(text, **_LSTM), tmp_path)
    assert card.inputs[0].shape == (16, 4)
    x = sequence(3 * STEPS)
    found = streamed(artefact, {"x": x.reshape(3, STEPS, 4)})["y"].reshape(-1, 5)
    np.testing.assert_allclose(found, whole("batch_first", x), atol=1e-5)
