"""Windows over several axes get what precedes a step from the state, along the axis that --step or the sizes show."""

from pathlib import Path

import numpy as np
import pytest

from export.adopt.errors import AmbiguousError, BadOptionError
from tests.export.served import adopted, graph, reference, streamed

_K = {"K": (6, 1, 12, 8)}
_IMAGE = """net (float[n,76,32,1] x) => (float[n,1,1,6] y)
    { first = Transpose <perm = [0, 3, 1, 2]> (x)  wide = Conv <strides = [8, 4]> (first, K)  up = Relu (wide)
      m = ReduceMean <axes = [2, 3], keepdims = 1> (up)  y = Transpose <perm = [0, 2, 3, 1]> (m) }"""
_OPEN = _IMAGE.replace("float[n,76,", "float[n,f,")


@pytest.mark.parametrize(("text", "steps"), [(_IMAGE, []), (_IMAGE, ["x=8x32x1"]), (_OPEN, ["x=8x32x1"])])
def test_a_window_of_several_axes_overlaps(text: str, steps: list[str], tmp_path: Path) -> None:
    """76 frames of 32 bands, 8 of them new: what is served is the file's run on each window of the sequence."""
    model = graph(text, **_K)
    artefact, card, _ = adopted(model, tmp_path, overlaps=["x:68"], steps=steps)
    assert card.inputs[0].shape == (8, 32, 1)
    assert [state.shape for state in card.states] == [(68, 32, 1)]
    x = np.random.default_rng(0).normal(size=(12 * 8, 32, 1)).astype(np.float32)
    padded = np.concatenate([np.zeros((68, 32, 1), np.float32), x])
    windows = [padded[at : at + 76] for at in range(0, len(x), 8)]
    expected = np.stack([reference(model, {"x": window[None]})["y"][0] for window in windows])
    found = streamed(artefact, {"x": x.reshape(-1, 8, 32, 1)})["y"]
    np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=1e-5)


def test_an_overlap_along_one_of_several_axes_is_asked_about(tmp_path: Path) -> None:
    """Where more than one axis is long enough, the steps are listed; one that is given decides."""
    model = graph(_IMAGE, **_K)
    with pytest.raises(AmbiguousError, match=r"several axes of x .*: 66x32x1; 76x22x1\. Settle it with --step x="):
        adopted(model, tmp_path, overlaps=["x:10"])
    _, card, _ = adopted(model, tmp_path, overlaps=["x:10"], steps=["x=76x22x1"])
    assert [state.shape for state in card.states] == [(76, 10, 1)]
    (tmp_path / "other").mkdir()
    with pytest.raises(BadOptionError, match="at most 75 can be of the step before"):
        adopted(model, tmp_path / "other", overlaps=["x:76"])
