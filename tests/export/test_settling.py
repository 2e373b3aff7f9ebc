"""States of open size: one that settles is adopted or asked for with its size, one that grows is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from export.adopt.errors import GrowingStateError, OpenStateError, SettlingStateError
from tests.export.served import adopted, graph, reference, streamed


def cache(
    keep: int, sizes: str = "batch,past,3", output: str = "ReduceSum <keepdims = 0> (cache_next, axis)"
) -> ModelProto:
    """Return a cache that keeps the newest `keep` of what it is given, one more at each step."""
    one, size, features = sizes.split(",")
    return graph(
        f"""net (float[{one},1,3] x, float[{one},{size},{features}] cache)
            => (float[{one},3] y, float[{one},kept,{features}] cache_next)
        {{ from = Constant <value = int64[1] {{-{keep}}}> ()  to = Constant <value = int64[1] {{2147483647}}> ()
          axis = Constant <value = int64[1] {{1}}> ()
          all = Concat <axis = 1> (cache, x)  cache_next = Slice (all, from, to, axis)
          y = {output} }}"""
    )


def stepwise(model: ModelProto, x: Any, start: Any) -> Any:
    """Return y of each step by onnx.reference, the cache fed back by hand."""
    found = []
    state = start
    for row in x:
        outputs = reference(model, {"x": row[None, None], "cache": state})
        state = outputs["cache_next"]
        found.append(outputs["y"][0])
    return np.stack(found)


@pytest.mark.parametrize("keep", [1, 2, 5, 64, 300])
def test_a_cache_that_keeps_its_newest_is_adopted(keep: int, tmp_path: Path) -> None:
    """Zeros of the settled size give what an empty cache gives, over twice as many steps as it keeps."""
    artefact, card, findings = adopted(cache(keep), tmp_path)
    assert card.states[0].shape == (keep, 3)
    assert any(f"settles at {keep}×3" in line for line in findings)
    assert card.max_batch > 1
    x = np.random.default_rng(0).normal(size=(min(2 * keep + 3, 400), 3)).astype(np.float32)
    expected = stepwise(cache(keep), x, np.zeros((1, 0, 3), np.float32))
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], expected, atol=1e-4)


@pytest.mark.parametrize("sizes", ["1,past,3", "1,cache_len,3"])
def test_a_cache_of_one_row_is_adopted(sizes: str, tmp_path: Path) -> None:
    """A leading 1 is the batch where the other size is called a length."""
    artefact, card, _ = adopted(cache(7, sizes), tmp_path)
    assert (card.states[0].shape, card.max_batch) == ((7, 3), 256)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    expected = stepwise(cache(7, sizes), x, np.zeros((1, 0, 3), np.float32))
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], expected, atol=1e-5)


MEAN = "ReduceMean <axes = [1], keepdims = 0> (cache_next)"


@pytest.mark.parametrize("keep", [2, 6, 64])
def test_a_cache_whose_start_matters_is_asked_for(keep: int, tmp_path: Path) -> None:
    """A mean over fewer values is no mean over zeros: the settled size is in the question, and a file answers it."""
    with pytest.raises(SettlingStateError, match=rf"'cache' settles at {keep}×3 .*--initial FILE"):
        adopted(cache(keep, output=MEAN), tmp_path)
    start = np.random.default_rng(1).normal(size=(keep, 3)).astype(np.float32)
    np.savez(tmp_path / "start.npz", cache=start)
    artefact, _, _ = adopted(cache(keep, output=MEAN), tmp_path, initial=tmp_path / "start.npz")
    x = np.random.default_rng(0).normal(size=(keep + 5, 3)).astype(np.float32)
    expected = stepwise(cache(keep, output=MEAN), x, start[None])
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], expected, atol=1e-5)


def broadcast(sizes: str) -> ModelProto:
    """Return a state that is of the input's size after the first step, whatever it is broadcast from."""
    return graph(
        f"""net (float[batch,2,4] x, float[{sizes}] r_in) => (float[batch,2,4] y, float[batch,p,q] r_out)
        {{ half = Constant <value = float {{0.5}}> ()
          less = Mul (r_in, half)  r_out = Add (less, x)  y = Tanh (r_out) }}"""
    )


@pytest.mark.parametrize("start", [[[0.0]], [[3.0]], [[1.0, 2.0, 3.0, 4.0]], [[1.0], [-2.0]], [[[3.0]]]])
def test_a_state_that_is_broadcast_is_taken(start: Any, tmp_path: Path) -> None:
    """A value of 1×1, of a row or of a column becomes one of the settled size."""
    np.savez(tmp_path / "one.npz", r_in=np.array(start, np.float32))
    model = broadcast("batch,c,w")
    artefact, card, _ = adopted(model, tmp_path, initial=tmp_path / "one.npz")
    assert card.states[0].shape == (2, 4)
    x = np.random.default_rng(0).normal(size=(9, 2, 4)).astype(np.float32)
    state, expected = np.array(start, np.float32), []
    state = state if state.ndim == 3 else state[None]
    for row in x:
        found = reference(model, {"x": row[None], "r_in": state})
        state = found["r_out"]
        expected.append(found["y"][0])
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], np.stack(expected), atol=1e-6)


def test_a_broadcast_state_without_a_value_starts_from_zeros(tmp_path: Path) -> None:
    """The runs show the size that the file does not say."""
    _, card, findings = adopted(broadcast("batch,c,w"), tmp_path)
    assert card.states[0].shape == (2, 4)
    assert any("settles at 2×4" in line for line in findings)


def test_a_cache_that_drops_nothing_grows(tmp_path: Path) -> None:
    """It is longer after every step, whatever it starts with."""
    text = """net (float[batch,1,3] x, float[batch,past,3] cache) => (float[batch,3] y, float[batch,total,3] cache_next)
        { axis = Constant <value = int64[1] {1}> ()
          cache_next = Concat <axis = 1> (cache, x)  y = ReduceSum <keepdims = 0> (cache_next, axis) }"""
    with pytest.raises(GrowingStateError, match="'cache' grows"):
        adopted(graph(text), tmp_path)


def test_a_state_that_keeps_any_size_is_asked_for(tmp_path: Path) -> None:
    """A cache that drops the oldest for each new one has the size that it starts with, which only the owner knows."""
    text = """net (float[batch,1,3] x, float[batch,past,3] cache) => (float[batch,3] y, float[batch,past,3] cache_next)
        { axis = Constant <value = int64[1] {1}> ()  to = Constant <value = int64[1] {2147483647}> ()
          all = Concat <axis = 1> (cache, x)  cache_next = Slice (all, axis, to, axis)
          y = ReduceSum <keepdims = 0> (cache_next, axis) }"""
    with pytest.raises(OpenStateError, match="'past'"):
        adopted(graph(text), tmp_path)


def test_two_open_states_settle_together(tmp_path: Path) -> None:
    """Each has a size of its own."""
    text = """net (float[batch,1,3] x, float[batch,p,3] a_cache, float[batch,q,3] b_cache)
            => (float[batch,3] y, float[batch,r,3] a_cache_out, float[batch,s,3] b_cache_out)
        { two = Constant <value = int64[1] {-2}> ()  five = Constant <value = int64[1] {-5}> ()
          to = Constant <value = int64[1] {2147483647}> ()  axis = Constant <value = int64[1] {1}> ()
          a = Concat <axis = 1> (a_cache, x)  a_cache_out = Slice (a, two, to, axis)
          b = Concat <axis = 1> (b_cache, x)  b_cache_out = Slice (b, five, to, axis)
          m = ReduceSum <keepdims = 0> (a_cache_out, axis)  n = ReduceSum <keepdims = 0> (b_cache_out, axis)
          y = Sub (m, n) }"""
    _, card, _ = adopted(graph(text), tmp_path)
    assert [state.shape for state in card.states] == [(2, 3), (5, 3)]
