"""A file that is made for a batch of 1 is served for many rows where they are shown to be independent."""

from pathlib import Path

import pytest
from onnx import ModelProto

from export.adopt import adopt_model
from export.adopt.dependencies import reads
from export.artefact import read_card
from tests.export.hidden_states import Hidden
from tests.export.test_lift import assert_served
from tests.export.zoo import ZOO, write

_WEIGHTS = {"W": (1, 15, 4), "R": (1, 15, 5), "B": (1, 30), "K": (4, 4, 3)}
_FREED = "made for a batch of 1"


def case(text: str, axis: int = 1) -> Hidden:
    return Hidden(text, (), axis, weights=_WEIGHTS)


INDEPENDENT = {
    "declared_sizes": case(
        """net (float[t,1,4] x) => (float[t,1,5] y)
        { Y = GRU <hidden_size = 5> (x, W, R, B)  one = Constant <value = int64[1] {1}> ()  y = Squeeze (Y, one) }""",
        0,
    ),
    "states": case(
        """net (float[1,t,4] x, float[1,1,5] h0) => (float[1,t,5] y, float[1,1,5] hn)
        { m = Transpose <perm = [1, 0, 2]> (x)  Y, hn = GRU <hidden_size = 5> (m, W, R, B, , h0)
          s = Constant <value = int64[3] {-1, 1, 5}> ()  r = Reshape (Y, s)  y = Transpose <perm = [1, 0, 2]> (r) }"""
    ),
    "reshapes_on_both_sides": case(
        """net (float[1,t,4] x) => (float[1,t,5] y)
        { m = Transpose <perm = [1, 0, 2]> (x)  s0 = Constant <value = int64[3] {-1, 1, 4}> ()
          r0 = Reshape (m, s0)  Y = GRU <hidden_size = 5> (r0, W, R, B)
          s = Constant <value = int64[3] {-1, 1, 5}> ()  r = Reshape (Y, s)  y = Transpose <perm = [1, 0, 2]> (r) }"""
    ),
    "features_apart": case(
        """net (float[1,t,4] x) => (float[1,t,4] y)
        { s0 = Constant <value = int64[4] {1, -1, 2, 2}> ()  m = Reshape (x, s0)  n = Tanh (m)
          s = Constant <value = int64[3] {1, -1, 4}> ()  z = Reshape (n, s)
          k = Transpose <perm = [0, 2, 1]> (z)  c = Conv <pads = [2, 0]> (k, K)
          y = Transpose <perm = [0, 2, 1]> (c) }"""
    ),
}

DEPENDENT = {
    "largest_of_the_batch": case(
        """net (float[1,t,4] x) => (float[1,t,4] y)
        { m = ReduceMax <axes = [0, 2]> (x)  d = Sub (x, m)
          k = Transpose <perm = [0, 2, 1]> (d)  c = Conv <pads = [2, 0]> (k, K)
          y = Transpose <perm = [0, 2, 1]> (c) }"""
    ),
    "time_and_batch_are_mixed": case(
        """net (float[1,t,4] x) => (float[1,t,5] y)
        { s0 = Constant <value = int64[3] {-1, 1, 4}> ()  m = Reshape (x, s0)
          Y = GRU <hidden_size = 5> (m, W, R, B)
          s = Constant <value = int64[3] {1, -1, 5}> ()  y = Reshape (Y, s) }"""
    ),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_rows_of_a_fixed_batch_run_together(name: str, tmp_path: Path) -> None:
    """The declared sizes and the shapes of Reshape nodes are opened, and the card says so."""
    graph = INDEPENDENT[name]
    card = read_card(assert_served(graph.model(), graph.sequence(), graph.axis, tmp_path))
    assert card.max_batch > 1
    assert "steps_with_strangers" in card.parity.errors
    assert _FREED in card.config["findings"][-1]


@pytest.mark.parametrize("name", DEPENDENT)
def test_rows_that_would_change_each_other_run_alone(name: str, tmp_path: Path) -> None:
    """Where rows together are not what they are alone, one runs at a time, and the card has the reason."""
    graph = DEPENDENT[name]
    card = read_card(assert_served(graph.model(), graph.sequence(), graph.axis, tmp_path))
    assert card.max_batch == 1
    assert "max_batch is 1" in card.config["findings"][-1]


def test_states_keep_why_they_were_found(tmp_path: Path) -> None:
    """A state whose batch was opened is still said to be found by its names."""
    model: ModelProto = ZOO["one_row_in_its_shapes"].model()
    card = read_card(adopt_model(write(model, tmp_path / "foreign.onnx"), tmp_path, "m", 1))
    told = [line for line in card.config["findings"] if line.startswith("state ")]
    assert len(told) == 2
    assert all("the names agree" in line for line in told)


def test_names_inside_a_loop_are_not_those_outside(tmp_path: Path) -> None:
    """A value of a Scan's body may have the name of one that is computed from the Scan: no node waits for itself."""
    text = """net (float[1,t,4] x) => (float[1,t,4] y)
        { zero = Constant <value = float[1,4] {0, 0, 0, 0}> ()  major = Transpose <perm = [1, 0, 2]> (x)
          last, between = Scan <num_scan_inputs = 1, body = step (float[n,4] before, float[n,4] now)
            => (float[n,4] next, float[n,4] out) { next = Add (before, now)  out = Tanh (next) }> (zero, major)
          shape = Constant <value = int64[3] {-1, 1, 4}> ()  out = Reshape (between, shape)
          y = Transpose <perm = [1, 0, 2]> (out) }"""
    model = case(text).model()
    scan = next(node for node in model.graph.node if node.op_type == "Scan")
    assert set(reads(scan)) == {"zero", "major"}
    file = write(model, tmp_path / "foreign.onnx")
    card = read_card(adopt_model(file, tmp_path, "m", 1))
    assert len(card.states) == 1
