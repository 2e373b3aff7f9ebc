"""Graphs that must be refused or asked about, each with the error's type and a part of its sentence."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from export.adopt.errors import (
    AmbiguousError,
    GrowingStateError,
    NotServableError,
    OpenStateError,
    SettlingStateError,
    UnsettledStatesError,
    WholeSequenceError,
)
from tests.export.zoo import ForeignGraph

_LSTM = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40)}
_STATES = "float[1,n,5] h0, float[1,n,5] c0"
_NEXT = "float[1,n,5] hn, float[1,n,5] cn"
_ONE = "one = Constant <value = int64[1] {1}> ()"


@dataclass(frozen=True, slots=True)
class RefusedGraph:
    """A graph, the error it ends in, and a pattern of the sentence. `defaults` are values of inputs."""

    text: str
    error: type[Exception]
    words: str
    weights: dict[str, tuple[int, ...]] = field(default_factory=lambda: _LSTM)
    defaults: dict[str, Any] = field(default_factory=dict)
    unnamed: bool = False

    def model(self) -> ModelProto:
        """Return the graph with weights drawn from a fixed seed."""
        model = ForeignGraph(self.text, {}, {}, weights=self.weights).model()
        for name, values in self.defaults.items():
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        for value in (*model.graph.input, *model.graph.output) if self.unnamed else ():
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param:
                    dim.Clear()
        return model


def _layer(before: str, call: str, after: str = "y = Squeeze (Y, one)", states: str = _NEXT) -> str:
    return f"net (float[t,n,4] x, {_STATES}) => (float[t,n,5] y, {states}) {{ {_ONE}  {before}  {call}  {after} }}"


REFUSED = {
    "states_that_fit_two_ways": RefusedGraph(
        """net (float[batch,4] x, float[batch,4] p, float[batch,4] q)
            => (float[batch,4] y, float[batch,4] r, float[batch,4] s)
        { r = Add (p, x)  s = Sub (q, x)  y = Mul (r, s) }""",
        UnsettledStatesError,
        "--state p=r",
    ),
    "generic_inputs": RefusedGraph(
        """net (float[batch,4] input_1, float[batch,4] input_2) => (float[batch,4] output_1, float[batch,4] output_2)
        { output_2 = Add (input_1, input_2)  output_1 = Tanh (output_2) }""",
        UnsettledStatesError,
        "--state input_",
    ),
    "cache_that_grows": RefusedGraph(
        """net (float[batch,1,3] x, float[batch,past,3] cache) => (float[batch,3] y, float[batch,all,3] cache_next)
        { axis = Constant <value = int64[1] {1}> ()  cache_next = Concat <axis = 1> (cache, x)
          y = ReduceSum <keepdims = 0> (cache_next, axis) }""",
        GrowingStateError,
        "'cache' grows",
        {},
    ),
    "cache_of_any_size": RefusedGraph(
        """net (float[batch,1,3] x, float[batch,past,3] cache) => (float[batch,3] y, float[batch,past,3] cache_next)
        { axis = Constant <value = int64[1] {1}> ()  to = Constant <value = int64[1] {2147483647}> ()
          all = Concat <axis = 1> (cache, x)  cache_next = Slice (all, axis, to, axis)
          y = ReduceSum <keepdims = 0> (cache_next, axis) }""",
        OpenStateError,
        "'past'.*--initial FILE",
        {},
    ),
    "mean_of_a_cache_that_settles": RefusedGraph(
        """net (float[batch,1,3] x, float[batch,past,3] cache) => (float[batch,3] y, float[batch,kept,3] cache_next)
        { from = Constant <value = int64[1] {-6}> ()  to = Constant <value = int64[1] {2147483647}> ()
          axis = Constant <value = int64[1] {1}> ()  all = Concat <axis = 1> (cache, x)
          cache_next = Slice (all, from, to, axis)  y = ReduceMean <axes = [1], keepdims = 0> (cache_next) }""",
        SettlingStateError,
        "settles at 6×3",
        {},
    ),
    "state_of_two_shapes": RefusedGraph(
        """net (float[batch,2] x, float[batch,4] h0) => (float[batch,2] y, float[batch,5] hn)
        { axis = Constant <value = int64[1] {1}> ()  sum = ReduceSum (h0, axis)
          hn = Concat <axis = 1> (h0, sum)  y = Neg (x) }""",
        NotServableError,
        "one state by their names, but not by shape",
        {},
    ),
    "two_open_axes": RefusedGraph(
        "net (float[batch,time,width] x) => (float[batch,time,width] y) { y = Tanh (x) }",
        AmbiguousError,
        "several axes of no fixed size",
        {},
    ),
    "default_that_two_outputs_could_feed": RefusedGraph(
        """net (float[batch,3] x, float[1,3] memory) => (float[batch,3] r, float[batch,3] s)
        { r = Add (memory, x)  s = Tanh (r) }""",
        UnsettledStatesError,
        "--state memory=r or --state memory=s",
        {},
        {"memory": [[5.0, 6.0, 7.0]]},
    ),
    "default_with_a_name_that_says_nothing": RefusedGraph(
        """net (float[batch,3] x, float[1,3] i17) => (float[batch,3] y, float[batch,3] i140)
        { less = Tanh (i17)  i140 = Add (less, x)  y = Neg (i140) }""",
        UnsettledStatesError,
        "'?i17.* default value.*--state i17=i140 or --state i17=y or --state i17=",
        {},
        {"i17": [[0.0, 0.0, 0.0]]},
    ),
    "state_fed_by_what_does_not_depend_on_it": RefusedGraph(
        """net (float[batch,4] audio, float[batch,4] state) => (float[batch,4] y, float[batch,4] a)
        { a = Tanh (audio)  b = Add (a, state)  y = Neg (b) }""",
        UnsettledStatesError,
        "'a' does not depend on the other",
        {},
    ),
    "input_that_nothing_but_its_shape_calls_a_state": RefusedGraph(
        """net (float[batch,5] x, float[batch,5] conditioning) => (float[batch,5] y, float[batch,5] a)
        { hw = MatMul (conditioning, M)  a = Add (x, hw)  y = Tanh (a) }""",
        UnsettledStatesError,
        "nothing shows that the one is fed back .*--state conditioning=a or --state conditioning=",
        {"M": (5, 5)},
    ),
    "outputs_joined_over_rows_that_are_steps": RefusedGraph(
        """net (float[4,n,4] x) => (float[4,n,5] y)
        { turned = Transpose <perm = [1, 0, 2]> (x)  Y = GRU <hidden_size = 5> (turned, W, R)
          one = Constant <value = int64[1] {1}> ()  s = Squeeze (Y, one)  back = Transpose <perm = [1, 0, 2]> (s)
          shape = Constant <value = int64[3] {1, -1, 5}> ()  y = Reshape (back, shape) }""",
        WholeSequenceError,
        "axis 1 of x",
        {"W": (1, 15, 4), "R": (1, 15, 5)},
    ),
    "both_axes_called_a_batch": RefusedGraph(
        """net (float[n,batch,4] x) => (float[n,batch,4] y)
        { one = Transpose <perm = [0, 2, 1]> (x)  wide = Conv <pads = [4, 0], dilations = [2]> (one, K)
          other = Transpose <perm = [2, 1, 0]> (wide)  again = Conv <pads = [2, 0]> (other, K)
          y = Transpose <perm = [2, 0, 1]> (again) }""",
        WholeSequenceError,
        "Conv",
        {"K": (4, 4, 3)},
    ),
    "cell_state_fed_by_the_hidden_one": RefusedGraph(
        """net (float[1,n,4] x, float[1,n,5] conditioning) => (float[1,n,5] y, float[1,n,5] hn)
        { Y, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , , conditioning)
          one = Constant <value = int64[1] {1}> ()  y = Squeeze (Y, one) }""",
        UnsettledStatesError,
        "the layer that starts from 'conditioning' ends in another value",
    ),
    "one_number_for_the_whole_batch": RefusedGraph(
        """net (float[batch,4] x, float[batch,4] h, float level) => (float[batch,4] y, float[batch,4] h_out)
        { a = Mul (x, level)  h_out = Add (a, h)  y = Tanh (h_out) }""",
        AmbiguousError,
        "--constant level=VALUE",
        {},
    ),
    "both_ways_with_states": RefusedGraph(
        """net (float[t,n,4] x, float[2,n,5] h0) => (float[t,2,n,5] y, float[2,n,5] hn)
        { y, hn = GRU <hidden_size = 5, direction = "bidirectional"> (x, W, R, , , h0) }""",
        Exception,
        r"backwards \(bidirectional\)",
        {"W": (2, 15, 4), "R": (2, 15, 5)},
    ),
    "exchanged_states": RefusedGraph(
        _layer("", "Y, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , c0, h0)"), WholeSequenceError, "LSTM 'Y, hn, cn'"
    ),
    "start_that_is_changed": RefusedGraph(
        _layer("start = Tanh (c0)", "Y, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , h0, start)"),
        WholeSequenceError,
        "LSTM 'Y, hn, cn'",
    ),
    "one_state_for_two_layers": RefusedGraph(
        _layer(
            "",
            "Y0, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)  s = Squeeze (Y0, one)",
            "Y = LSTM <hidden_size = 5> (s, W2, R, B, , h0, c0)  y = Squeeze (Y, one)",
        ),
        WholeSequenceError,
        "LSTM",
        _LSTM | {"W2": (1, 20, 5)},
    ),
    "lengths_in_the_file": RefusedGraph(
        _layer(
            "three = Constant <value = int32[1] {3}> ()",
            "Y, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, three, h0, c0)",
        ),
        Exception,
        "LSTM|does not run",
    ),
    "layer_along_what_is_called_the_batch": RefusedGraph(
        """net (float[batch,time,4] x) => (float[batch,time,5] y)
        { Y = LSTM <hidden_size = 5> (x, W, R, B)  one = Constant <value = int64[1] {1}> ()  y = Squeeze (Y, one) }""",
        AmbiguousError,
        "--batch-axis x:0 or --batch-axis x:1",
    ),
    "something_along_both_open_axes": RefusedGraph(
        """net (float[a,b,4] x) => (float[a,b,5] y)
        { narrow = Transpose <perm = [0, 2, 1]> (x)  wide = Conv <pads = [2, 0]> (narrow, K)
          back = Transpose <perm = [0, 2, 1]> (wide)  Y = LSTM <hidden_size = 5> (back, W, R, B)
          one = Constant <value = int64[1] {1}> ()  y = Squeeze (Y, one) }""",
        WholeSequenceError,
        "Conv 'wide'",
        _LSTM | {"K": (4, 4, 3)},
        unnamed=True,
    ),
    "output_without_the_last_step": RefusedGraph(
        """net (float[n,t,4] x) => (float[n,s,4] y)
        { zero = Constant <value = int64[1] {0}> ()  last = Constant <value = int64[1] {-1}> ()
          axis = Constant <value = int64[1] {1}> ()  y = Slice (x, zero, last, axis) }""",
        NotServableError,
        "'y' has no values for one step of x",
        {},
    ),
    "first_step_alone": RefusedGraph(
        """net (float[n,t,4] x) => (float[n,4] y)
        { zero = Constant <value = int64 {0}> ()  y = Gather <axis = 1> (x, zero) }""",
        WholeSequenceError,
        "'y' differs",
        {},
    ),
    "not_finite": RefusedGraph(
        "net (float[batch,2] x) => (float[batch,2] y) { z = Sub (x, x)  y = Div (z, z) }",
        NotServableError,
        "'y' is not finite",
        {},
    ),
    "nothing_to_send": RefusedGraph(
        "net (float[batch,2] h) => (float[batch,2] h_out) { h_out = Tanh (h) }", NotServableError, "none is left", {}
    ),
    "text": RefusedGraph(
        "net (string[batch] x) => (string[batch] y) { y = Identity (x) }", NotServableError, "'x' is of a type", {}
    ),
    "complex_numbers": RefusedGraph(
        "net (complex64[batch,2] x) => (complex64[batch,2] y) { y = Identity (x) }", NotServableError, "complex", {}
    ),
}
"""The error's type is `Exception` where several types say the same."""
