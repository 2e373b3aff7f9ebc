"""Files that run the steps of one sequence along their first axis, and have no batch: many sessions run together."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from export.adopt.errors import AdoptError
from export.arena_runner import INITIAL_SLOT, ArenaRunner
from tests.export.served import adopted, graph, reference, streamed

STEPS, ROWS = 15, 3
WEIGHTS = {"K": (6, 1, 3), "W": (1, 20, 6), "R": (1, 20, 5), "B": (1, 40), "P": (5, 1)}


def sequence(
    middle: str = "m = Identity (p)", layer: str = "LSTM <hidden_size = 5> (t, W, R, B, , h, c)"
) -> ModelProto:
    """Return a network over (steps, 8): a convolution inside of each step, an LSTM over the steps, one probability."""
    return graph(
        f"""net (float[length,8] x, float[1,1,5] h, float[1,1,5] c)
            => (float[length] y, float[1,1,5] hn, float[1,1,5] cn)
        {{ one = Constant <value = int64[1] {{1}}> ()  last = Constant <value = int64[1] {{-1}}> ()
          u = Unsqueeze (x, one)  k = Conv (u, K)  p = ReduceMax <axes = [2], keepdims = 0> (k)  {middle}
          shape = Constant <value = int64[3] {{-1, 1, 6}}> ()  t = Reshape (m, shape)
          Y, hn, cn = {layer}
          flat = Constant <value = int64[2] {{-1, 5}}> ()  f = Reshape (Y, flat)
          z = MatMul (f, P)  s = Sigmoid (z)  y = Squeeze (s, last) }}""",
        **WEIGHTS,
    )


def test_sessions_run_together(tmp_path: Path) -> None:
    """Three sessions in one run give what onnx.reference gives for each whole sequence in one call."""
    model = sequence()
    artefact, card, findings = adopted(model, tmp_path)
    assert (card.max_batch, [spec.shape for spec in card.states]) == (256, [(1, 5), (1, 5)])
    assert any("steps of one sequence along its first axis" in line for line in findings)
    x = np.random.default_rng(0).normal(size=(ROWS, STEPS, 8)).astype(np.float32)
    runner, slots = ArenaRunner(artefact.read_bytes(), card, slots=2 + 2 * ROWS), np.full(ROWS, INITIAL_SLOT)
    found = []
    for start in range(0, STEPS, 4):
        written = 2 + np.arange(ROWS) + ROWS * (start // 4 % 2)
        found.append(runner.run({"x": x[:, start : start + 4]}, slots, written)["y"])
        slots = written
    zeros = np.zeros((1, 1, 5), np.float32)
    expected = [reference(model, {"x": row, "h": zeros, "c": zeros})["y"] for row in x]
    np.testing.assert_allclose(np.concatenate(found, 1), expected, atol=1e-5)


ALL_AT_ONCE = "w = ReduceMean <axes = [0], keepdims = 1> (p)  m = Sub (p, w)"
DELAYED = """i = Constant <value = int64[1] {0}> ()  n = Constant <value = int64[1] {-30}> ()
    a = Constant <value = int64[1] {0}> ()  pads = Constant <value = int64[4] {30, 0, 0, 0}> ()
    zero = Constant <value = float {0.0}> ()  w = Pad (p, pads, zero)  v = Slice (w, i, n, a)  m = Add (p, v)"""


def test_steps_that_need_the_others_are_no_rows(tmp_path: Path) -> None:
    """Where a step depends on later ones, nothing is written."""
    with pytest.raises(AdoptError, match="takes all steps of the sequence together"):
        adopted(sequence(ALL_AT_ONCE), tmp_path)
    assert not (tmp_path / "m").exists()


def test_steps_that_reach_far_back_are_no_rows(tmp_path: Path) -> None:
    """Where a step depends on the one 30 before it, that is carried too, and sessions run one at a time."""
    model = sequence(DELAYED)
    artefact, card, _ = adopted(model, tmp_path)
    assert (card.max_batch, len(card.states)) == (1, 3)
    x = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    start = np.zeros((1, 1, 5), np.float32)
    expected = reference(model, {"x": x, "h": start, "c": start})["y"]
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"].reshape(-1), expected, atol=1e-5)
