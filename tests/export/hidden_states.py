"""Graphs that carry something over time without showing it as a state, and ones that look ahead."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from tests.export.zoo import ForeignGraph

STEPS = 40


LAYER = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40), "W2": (1, 20, 5), "start": (1, 1, 5), "K": (4, 4, 3)}
GRU = {"W": (1, 15, 4), "R": (1, 15, 5), "B": (1, 30)}
STATES = "float[1,n,5] h0, float[1,n,5] c0"
NEXT = "float[1,n,5] hn, float[1,n,5] cn"
ONE = "one = Constant <value = int64[1] {1}> ()"


@dataclass(frozen=True, slots=True)
class Hidden:
    """A graph over x, the axis of its time, and the states that are to be added; `batched` if rows run together."""

    text: str
    added: tuple[str, ...]
    axis: int = 0
    weights: dict[str, tuple[int, ...]] = field(default_factory=lambda: LAYER)
    opset: int = 17
    batched: bool = True
    rank: int = 3

    def model(self) -> ModelProto:
        """Return the graph with weights drawn from a fixed seed."""
        return ForeignGraph(self.text, {}, {}, weights=self.weights, opset=self.opset).model()

    def sequence(self) -> Any:
        """Return a random sequence of one row."""
        shape = [1] * self.rank
        shape[self.axis], shape[-1] = STEPS, 4
        return np.random.default_rng(5).normal(0, 0.5, shape).astype(np.float32)


def over_time(inside: str) -> str:
    return f"""net (float[n,t,4] x) => (float[n,t,4] y)
        {{ narrow = Transpose <perm = [0, 2, 1]> (x)
          {inside}
          y = Transpose <perm = [0, 2, 1]> (wide) }}"""


_BODY = """<num_scan_inputs = 1, body = step (float[n,4] before, float[n,4] now) => (float[n,4] next, float[n,4] out)
    { half = Constant <value = float {0.5}> ()  kept = Mul (before, half)
      sum = Add (kept, now)  next = Tanh (sum)  out = Neg (next) }>"""

_ALONG_ONE = _BODY.replace("<num", "<scan_input_axes = [1], scan_output_axes = [1], num")

HIDDEN = {
    "absent": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B)  {ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
    ),
    "one_row_in_the_file": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B, , start, start)  {ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
    ),
    "second_layer": Hidden(
        f"""net (float[t,n,4] x, {STATES}) => (float[t,n,5] y, {NEXT})
        {{ Y0, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)  {ONE}
          between = Squeeze (Y0, one)
          Y = LSTM <hidden_size = 5> (between, W2, R, B)  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
    ),
    "cell_state": Hidden(
        f"""net (float[t,n,4] x, float[1,n,5] h0) => (float[t,n,5] y, float[1,n,5] hn)
        {{ Y, hn = LSTM <hidden_size = 5> (x, W, R, B, , h0)  {ONE}  y = Squeeze (Y, one) }}""",
        ("Y.c",),
    ),
    "final_state_shown": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y, float[1,n,5] final)
        {{ Y, final = GRU <hidden_size = 5> (x, W, R, B)  {ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h",),
        weights=GRU,
    ),
    "without_batch": Hidden(
        f"""net (float[t,4] x) => (float[t,5] y)
        {{ {ONE}  row = Unsqueeze (x, one)  Y = LSTM <hidden_size = 5> (row, W, R, B)
          both = Constant <value = int64[2] {{1, 2}}> ()  y = Squeeze (Y, both) }}""",
        ("Y.h", "Y.c"),
        rank=2,
    ),
    "activations_and_clip": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = GRU <hidden_size = 5, clip = 0.7, activations = ["HardSigmoid", "Tanh"]> (x, W, R, B)
          {ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h",),
        weights=GRU,
    ),
    "causal_convolution": Hidden(over_time("wide = Conv <pads = [2, 0]> (narrow, K)"), ("wide.context",), 1),
    "dilated_convolution": Hidden(
        over_time("wide = Conv <pads = [50, 0], dilations = [25]> (narrow, K)"), ("wide.context",), 1
    ),
    "pad_of_ones": Hidden(
        over_time(
            """ahead = Constant <value = int64[6] {0, 0, 2, 0, 0, 0}> ()  fill = Constant <value = float {1.0}> ()
            padded = Pad (narrow, ahead, fill)  wide = Conv (padded, K)"""
        ),
        ("padded.context",),
        1,
    ),
    "pad_before_the_transpose": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { ahead = Constant <value = int64[6] {0, 2, 0, 0, 0, 0}> ()  padded = Pad (x, ahead)
          narrow = Transpose <perm = [0, 2, 1]> (padded)  wide = Conv (narrow, K)
          y = Transpose <perm = [0, 2, 1]> (wide) }""",
        ("padded.context",),
        1,
    ),
    "delay": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { shift = Constant <value = int64[6] {0, 1, 0, 0, -1, 0}> ()  old = Pad (x, shift)  y = Sub (x, old) }""",
        ("old.context",),
        1,
    ),
    "two_dimensions": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { one = Constant <value = int64[1] {1}> ()  image = Unsqueeze (x, one)
          wide = Conv <pads = [1, 1, 0, 1]> (image, K2)  y = Squeeze (wide, one) }""",
        ("wide.context",),
        1,
        weights={"K2": (1, 1, 2, 3)},
    ),
    "convolution_and_layer": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ narrow = Transpose <perm = [1, 2, 0]> (x)  wide = Conv <pads = [2, 0]> (narrow, K)
          back = Transpose <perm = [2, 0, 1]> (wide)
          Y = LSTM <hidden_size = 5> (back, W, R, B)  {ONE}  y = Squeeze (Y, one) }}""",
        ("wide.context", "Y.h", "Y.c"),
    ),
    "zeros_in_front": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { shape = Shape <start = 0, end = 1> (x)  rest = Constant <value = int64[2] {2, 4}> ()
          sizes = Concat <axis = 0> (shape, rest)  zeros = ConstantOfShape (sizes)
          all = Concat <axis = 1> (zeros, x)  narrow = Transpose <perm = [0, 2, 1]> (all)
          wide = Conv (narrow, K)  y = Transpose <perm = [0, 2, 1]> (wide) }""",
        ("all.context",),
        1,
    ),
    "scan": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,4] y)
        {{ shape = Shape <start = 1, end = 3> (x)  zeros = ConstantOfShape (shape)
          last, y = Scan {_BODY} (zeros, x) }}""",
        ("last.state0",),
    ),
    "scan_behind_a_transpose": Hidden(
        f"""net (float[n,t,4] x) => (float[n,t,4] y)
        {{ major = Transpose <perm = [1, 0, 2]> (x)  shape = Shape <start = 1, end = 3> (major)
          zeros = ConstantOfShape (shape)  last, out = Scan {_BODY} (zeros, major)
          y = Transpose <perm = [1, 0, 2]> (out) }}""",
        ("last.state0",),
        1,
    ),
    "scan_along_the_second_axis": Hidden(
        f"""net (float[n,t,4] x) => (float[n,t,4] y)
        {{ shape = Shape (x)  outer = Constant <value = int64[2] {{0, 2}}> ()  sizes = Gather (shape, outer)
          zeros = ConstantOfShape (sizes)
          last, y = Scan {_ALONG_ONE} (zeros, x) }}""",
        ("last.state0",),
        1,
    ),
    "sizes_by_slice_and_concat": Hidden(
        f"""net (float[n,t,4] x) => (float[n,t,5] y)
        {{ major = Transpose <perm = [1, 0, 2]> (x)  shape = Shape (x)  zero = Constant <value = int64[1] {{0}}> ()
          {ONE}  rows = Slice (shape, zero, one, zero)  five = Constant <value = int64[1] {{5}}> ()
          sizes = Concat <axis = 0> (rows, five)  zeros = ConstantOfShape (sizes)  first = Unsqueeze (zeros, zero)
          Y, yh, yc = LSTM <hidden_size = 5> (major, W, R, B, , first, first)  flat = Squeeze (Y, one)
          y = Transpose <perm = [1, 0, 2]> (flat) }}""",
        ("Y.h", "Y.c"),
        1,
    ),
    "reshape_of_zeros_and_ones": Hidden(
        """net (float[t,n,4] x) => (float[t,n,5] y)
        { Y = LSTM <hidden_size = 5> (x, W, R, B)  sizes = Constant <value = int64[3] {0, -1, 5}> ()
          y = Reshape (Y, sizes) }""",
        ("Y.h", "Y.c"),
    ),
    "height_of_one": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { ahead = Constant <value = int64[6] {0, 2, 0, 0, 0, 0}> ()  padded = Pad (x, ahead)
          narrow = Transpose <perm = [0, 2, 1]> (padded)  two = Constant <value = int64[1] {2}> ()
          image = Unsqueeze (narrow, two)  wide = Conv <kernel_shape = [1, 3]> (image, K4)
          flat = Squeeze (wide, two)  y = Transpose <perm = [0, 2, 1]> (flat) }""",
        ("padded.context",),
        1,
        weights={"K4": (4, 4, 1, 3)},
    ),
    "loop": Hidden(
        """net (float[t,n,4] x) => (float[t,n,4] y)
        { shape = Shape <start = 1, end = 3> (x)  zeros = ConstantOfShape (shape)
          steps = Shape <start = 0, end = 1> (x)  none = Constant <value = int64[1] {0}> ()
          count = Squeeze (steps, none)  go = Constant <value = bool {1}> ()
          last, y = Loop <body = step (int64 i, bool more, float[n,4] before) =>
              (bool on, float[n,4] next, float[n,4] out)
            { on = Identity (more)  now = Gather <axis = 0> (x, i)  sum = Add (before, now)
              next = Tanh (sum)  out = Neg (next) }> (count, go, zeros) }""",
        ("last.state2",),
    ),
    "lengths": Hidden(
        f"""net (float[t,n,4] x, int32[n] lengths) => (float[t,n,5] y)
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B, lengths)  {ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
    ),
    "batch_first": Hidden(
        """net (float[n,t,4] x) => (float[n,t,5] y)
        { Y = LSTM <hidden_size = 5, layout = 1> (x, W, R, B)
          two = Constant <value = int64[1] {2}> ()  y = Squeeze (Y, two) }""",
        ("Y.h", "Y.c"),
        1,
    ),
}
