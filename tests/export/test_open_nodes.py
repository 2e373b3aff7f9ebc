"""Nodes whose constants hold a batch of 1 follow the number of rows: a session gives what a run of the file gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from export.arena_runner import INITIAL_SLOT, ArenaRunner
from export.artefact import read_card
from tests.export.served import adopted, graph, reference

STEPS, ROWS = 12, 3


def coordinates(*shape: int, at: tuple[int, int]) -> np.ndarray:
    """Return the indices of all elements, as exporters write x[…, i] = y; those of axis `at[0]` begin at `at[1]`."""
    found = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), -1)
    found[..., at[0]] += at[1]
    return found.astype(np.int64)


def with_constants(model: ModelProto, **values: Any) -> ModelProto:
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def cache() -> ModelProto:
    """Return a step that keeps its last two inputs in a cache, whose halves it writes at constant indices."""
    model = graph(
        """net (float[1,4] x, float[1,4,2] cache) => (float[1,4] y, float[1,4,2] cache_out)
        { last = Slice (cache, one, two, axis)  first = ScatterND (cache, old, last)
          column = Unsqueeze (x, axis)  cache_out = ScatterND (first, new, column)
          y = ReduceSum <keepdims = 0> (cache_out, axis) }"""
    )
    ones = {"one": [1], "two": [2], "axis": [2]}
    return with_constants(
        model,
        old=coordinates(1, 4, 1, at=(2, 0)),
        new=coordinates(1, 4, 1, at=(2, 1)),
        **{name: np.array(value, np.int64) for name, value in ones.items()},
    )


def stacked() -> ModelProto:
    """Return a step whose two layers keep their states in one tensor of three axes of size 1 beside it."""
    return with_constants(
        graph(
            """net (float[1,1,4] x, float[2,1,1,4] states) => (float[1,1,4] y, float[2,1,1,4] states_out)
            { h0 = Gather <axis = 0> (states, zero)  h1 = Gather <axis = 0> (states, one)
              m = Transpose <perm = [1, 0, 2]> (x)
              Y0, n0 = GRU <hidden_size = 4> (m, W, R, , , h0)  q0 = Squeeze (Y0, axis)
              Y1, n1 = GRU <hidden_size = 4> (q0, W, R, , , h1)  q1 = Squeeze (Y1, axis)
              r0 = Reshape (n0, shape)  r1 = Reshape (n1, shape)
              s0 = ScatterND (states, at0, r0)  states_out = ScatterND (s0, at1, r1)
              y = Transpose <perm = [1, 0, 2]> (q1) }""",
            W=(1, 12, 4),
            R=(1, 12, 4),
        ),
        zero=np.int64(0),
        one=np.int64(1),
        axis=np.array([1], np.int64),
        shape=np.array([1, 1, 1, 4], np.int64),
        at0=np.array([[0]], np.int64),
        at1=np.array([[1]], np.int64),
    )


def bands() -> ModelProto:
    """Return a step of 6 bands: a layer over the bands, from zeros, and one over time, with a state for each band."""
    return with_constants(
        graph(
            """net (float[1,6,4] x, float[1,6,4] h) => (float[1,6,4] y, float[1,6,4] h_out)
            { over = Transpose <perm = [1, 0, 2]> (x)
              Y0 = GRU <hidden_size = 4> (over, W, R, , , start)  q0 = Squeeze (Y0, axis)
              back = Transpose <perm = [1, 0, 2]> (q0)
              folded = Reshape (back, fold)  m = Transpose <perm = [1, 0, 2]> (folded)
              Y1, n = GRU <hidden_size = 4> (m, W, R, , , h)  q1 = Squeeze (Y1, axis)
              t = Transpose <perm = [1, 0, 2]> (q1)  y = Reshape (t, unfold)  h_out = Reshape (n, unfold) }""",
            W=(1, 12, 4),
            R=(1, 12, 4),
        ),
        start=np.full((1, 1, 4), 0.3, np.float32),
        axis=np.array([1], np.int64),
        fold=np.array([6, -1, 4], np.int64),
        unfold=np.array([1, 6, 4], np.int64),
    )


def silent_bands() -> ModelProto:
    """Return the same with zeros as the start of the layer over the bands."""
    model = bands()
    start = next(tensor for tensor in model.graph.initializer if tensor.name == "start")
    start.CopyFrom(numpy_helper.from_array(np.zeros((1, 1, 4), np.float32), "start"))
    return model


BANDS = ["x=6x4"]
"""A layer that runs over bands looks as one that runs over steps: it is asked about."""

GRAPHS = {made.__name__: made for made in (cache, stacked, bands, silent_bands)}


@pytest.mark.parametrize("name", GRAPHS)
def test_rows_together_give_what_the_file_gives_for_each(name: str, tmp_path: Path) -> None:
    """Three sessions that run together, each from its own slot, give what onnx.reference gives for one at a time."""
    model = GRAPHS[name]()
    artefact, card, findings = adopted(model, tmp_path, steps=BANDS if "bands" in name else [])
    assert card.max_batch > 1
    assert any("made for a batch of 1" in line for line in findings)
    spec, (source, target) = card.inputs[0], (model.graph.input[1].name, model.graph.output[1].name)
    x = np.random.default_rng(0).normal(size=(ROWS, STEPS, *spec.shape)).astype(np.float32)
    runner, slots = (
        ArenaRunner(artefact.read_bytes(), read_card(artefact), slots=2 + 2 * ROWS),
        np.full(ROWS, INITIAL_SLOT),
    )
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    states = [np.zeros(shapes[source], np.float32)] * ROWS
    for step in range(STEPS):
        written = 2 + np.arange(ROWS) + ROWS * (step % 2)
        found = runner.run({spec.name: x[:, step : step + 1]}, slots, written)[card.outputs[0].name]
        slots = written
        for row in range(ROWS):
            expected = reference(model, {"x": x[row, step].reshape(shapes["x"]), source: states[row]})
            states[row] = expected[target]
            np.testing.assert_allclose(found[row, 0].reshape(-1), expected["y"].reshape(-1), atol=1e-5)


def test_a_state_of_its_own_for_each_band_is_not_taken_for_one_of_each_row(tmp_path: Path) -> None:
    """Where a layer starts from constants that differ from band to band, one row runs at a time."""
    model = bands()
    layer = next(node for node in model.graph.node if node.op_type == "GRU" and node.input[5] == "h")
    layer.input[5] = "fixed"
    values = np.random.default_rng(1).normal(size=(1, 6, 4)).astype(np.float32)
    model = with_constants(model, fixed=values)
    del model.graph.input[1:], model.graph.output[1:]
    model.graph.input.append(helper.make_tensor_value_info("s", 1, [1, 4]))
    model.graph.output.append(helper.make_tensor_value_info("s_out", 1, [1, 4]))
    model.graph.node.append(helper.make_node("Tanh", ["s"], ["s_out"]))
    _, card, _ = adopted(model, tmp_path, states=["s=s_out"], steps=BANDS)
    assert card.max_batch == 1
