"""Files whose batch is fixed at 1 and whose samples or frames are open: their batch is opened."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from tests.export.served import adopted, graph, reference, streamed

STEPS = 17


def samples(axis: str = "samples") -> ModelProto:
    """Return a window of any length, [1, samples], that moves a state and gives one number."""
    return graph(
        f"""net (float[1,{axis}] input, float[1,4] h0) => (float[1,1] output, float[1,4] hn)
        {{ m = ReduceMean <axes = [1], keepdims = 1> (input)  half = Constant <value = float {{0.5}}> ()
          axis = Constant <value = int64[1] {{1}}> ()
          less = Mul (h0, half)  hn = Add (less, m)  output = ReduceSum <keepdims = 1> (hn, axis) }}"""
    )


@pytest.mark.parametrize("axis", ["samples", "n", "sequence", "batch_size", ""])
def test_a_step_says_how_long_a_window_is(axis: str, tmp_path: Path) -> None:
    """Whatever the open axis is called, --step input=512 cuts windows; each moves the state once."""
    model = samples(axis or "k")
    if not axis:
        model.graph.input[0].type.tensor_type.shape.dim[1].Clear()
    artefact, card, _ = adopted(model, tmp_path, steps=["input=512"])
    assert (card.inputs[0].shape, card.states[0].shape, card.max_batch) == ((512,), (4,), 256)
    x = np.random.default_rng(0).normal(size=(STEPS, 512)).astype(np.float32)
    state, expected = np.zeros((1, 4), np.float32), []
    for window in x:
        found = reference(model, {"input": window[None], "h0": state})
        state = found["hn"]
        expected.append(found["output"][0])
    np.testing.assert_allclose(streamed(artefact, {"input": x})["output"], np.stack(expected), atol=1e-6)


BODY = """Y, h_out = GRU <hidden_size = 4, linear_before_reset = 1> (t, W, R, , , h_in)
    one = Constant <value = int64[1] {1}> ()  s = Squeeze (Y, one)"""

# graph, and whether its input is (1, features, frames)
FRAMES = {
    "frames": (
        f"""net (float[1,frames,3] x, float[1,1,4] h_in) => (float[1,frames,4] y, float[1,1,4] h_out)
        {{ t = Transpose <perm = [1, 0, 2]> (x)  {BODY}  y = Transpose <perm = [1, 0, 2]> (s) }}""",
        False,
    ),
    "no name": (
        f"""net (float[1,q,3] x, float[1,1,4] h_in) => (float[1,q,4] y, float[1,1,4] h_out)
        {{ t = Transpose <perm = [1, 0, 2]> (x)  {BODY}  y = Transpose <perm = [1, 0, 2]> (s) }}""",
        False,
    ),
    "outputs over time first": (
        f"""net (float[1,frames,3] x, float[1,1,4] h_in) => (float[frames,1,4] y, float[1,1,4] h_out)
        {{ t = Transpose <perm = [1, 0, 2]> (x)  {BODY}  y = Identity (s) }}""",
        False,
    ),
    "channels before frames": (
        f"""net (float[1,3,frames] x, float[1,1,4] h_in) => (float[1,4,frames] y, float[1,1,4] h_out)
        {{ t = Transpose <perm = [2, 0, 1]> (x)  {BODY}  y = Transpose <perm = [1, 2, 0]> (s) }}""",
        True,
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_run_at_once_as_one_by_one(name: str, tmp_path: Path) -> None:
    """The graph runs a chunk at once, and gives what the whole sequence gives in one call."""
    text, features_first = FRAMES[name]
    model = graph(text, W=(1, 12, 3), R=(1, 12, 4))
    artefact, card, findings = adopted(model, tmp_path)
    assert (card.inputs[0].shape, card.outputs[0].shape, card.max_batch) == ((3,), (4,), 256)
    assert any("several steps at once" in line for line in findings)
    x = np.random.default_rng(0).normal(size=(STEPS, 3)).astype(np.float32)
    whole = reference(model, {"x": (x.T if features_first else x)[None], "h_in": np.zeros((1, 1, 4), np.float32)})["y"]
    expected = np.moveaxis(whole, whole.shape.index(STEPS), 0).reshape(STEPS, 4)
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], expected, atol=1e-5)
