"""Graphs that are awkward in the ways that other people's exports are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper, parser

Weights = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ForeignGraph:
    """A graph, the options it needs, and what adoption should find: state → output, shapes without the batch."""

    text: str
    states: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    opset: int = 17
    ir: int = 8
    batched: bool = True
    native: bool = False
    half: bool = False
    edit: Callable[[ModelProto], None] = lambda model: None

    def model(self) -> ModelProto:
        """Return the graph with weights drawn from a fixed seed."""
        head = f'<ir_version: {self.ir}, opset_import: ["" : {self.opset}, "local" : 1]>'
        model = parser.parse_model(f"{head}\n{self.text}")
        if not model.functions:
            del model.opset_import[1:]
        random = np.random.default_rng(3)
        for name, shape in self.weights.items():
            values = random.normal(0, 0.4, shape).astype(np.float16 if self.half else np.float32)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        self.edit(model)
        return model


def _list_weights_as_inputs(model: ModelProto) -> None:
    """Do as files of IR 3 do: every weight stands among the inputs."""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _lying_shapes(model: ModelProto) -> None:
    """Say of every output a shape that it has not, as exporters do."""
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.dim_param = f"Add{output.name}_dim_{id(dim) % 7}"


_LSTM = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40)}

ZOO: dict[str, ForeignGraph] = {
    "time_first_batch_second": ForeignGraph(
        """net (float[t,n,4] x, float[1,n,5] h0, float[1,n,5] c0) => (float[t,n,5] y, float[1,n,5] hn, float[1,n,5] cn)
        { Y, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)
          one = Constant <value = int64[1] {1}> ()
          y = Squeeze (Y, one) }""",
        {"h0": "hn", "c0": "cn"},
        {"x": (4,), "y": (5,), "h0": (1, 5), "c0": (1, 5)},
        weights=_LSTM,
        native=True,
    ),
    "batch_first_any_length": ForeignGraph(
        """net (float[batch,frames,4] feats, float[1,batch,5] hidden_in, float[1,batch,5] cell_in)
            => (float[batch,frames,5] logits, float[1,batch,5] hidden_out, float[1,batch,5] cell_out)
        { major = Transpose <perm = [1, 0, 2]> (feats)
          Y, hidden_out, cell_out = LSTM <hidden_size = 5> (major, W, R, B, , hidden_in, cell_in)
          logits_ = Transpose <perm = [2, 0, 1, 3]> (Y)
          two = Constant <value = int64[1] {2}> ()
          shape = Constant <value = int64[3] {0, -1, 5}> ()
          logits = Reshape (logits_, shape) }""",
        {"hidden_in": "hidden_out", "cell_in": "cell_out"},
        {"feats": (4,), "logits": (5,)},
        weights=_LSTM,
        native=True,
    ),
    "batch_on_axis_2": ForeignGraph(
        """net (float[batch,3] x, float[2,3,batch] state) => (float[batch,3] y, float[2,3,batch] next_state)
        { xt = Transpose <perm = [1, 0]> (x)
          half = Constant <value = float {0.5}> ()
          kept = Mul (state, half)
          next_state = Add (kept, xt)
          axis = Constant <value = int64[1] {0}> ()
          sum = ReduceSum <keepdims = 0> (next_state, axis)
          y = Transpose <perm = [1, 0]> (sum) }""",
        {"state": "next_state"},
        {"x": (3,), "state": (2, 3)},
    ),
    "state_of_rank_5": ForeignGraph(
        """net (float[batch,2,3,2,2] x, float[batch,2,3,2,2] memory)
            => (float[batch,2,3,2,2] y, float[batch,2,3,2,2] memory_out)
        { half = Constant <value = float {0.7}> ()
          kept = Mul (memory, half)
          memory_out = Add (kept, x)
          y = Tanh (memory_out) }""",
        {"memory": "memory_out"},
        {"x": (2, 3, 2, 2), "memory": (2, 3, 2, 2)},
    ),
    "names_in_the_other_order": ForeignGraph(
        # equal shapes, outputs listed differently than inputs, and sorted differently by name (Triton's issue 8586)
        """net (float[batch,4] x, float[batch,5] h_prev, float[batch,5] c_prev)
            => (float[batch,5] y, float[batch,5] new_c, float[batch,5] next_h)
        { xw = MatMul (x, Wx)
          hw = MatMul (h_prev, Wh)
          a = Add (xw, hw)
          g = Tanh (a)
          half = Constant <value = float {0.9}> ()
          kept = Mul (c_prev, half)
          new_c = Add (kept, g)
          next_h = Tanh (new_c)
          y = Neg (next_h) }""",
        {"h_prev": "next_h", "c_prev": "new_c"},
        {"x": (4,), "y": (5,)},
        weights={"Wx": (4, 5), "Wh": (5, 5)},
    ),
    "if_on_a_constant": ForeignGraph(
        """net (float[batch,4] x, float[batch,4] state, int64 sr) => (float[batch,4] y, float[batch,4] stateN)
        { rate = Constant <value = int64 {16000}> ()
          fast = Equal (sr, rate)
          stateN = If (fast) <
            then_branch = wide () => (float[batch,4] a) { s = Add (x, state)  a = Tanh (s) },
            else_branch = narrow () => (float[batch,4] b) { b = Sub (x, state) }
          >
          y = Neg (stateN) }""",
        {"state": "stateN"},
        {"x": (4,)},
        options={"constants": ["sr=16000"]},
    ),
    "fifo": ForeignGraph(
        """net (float[batch,3] x, float[batch,6,3] cache) => (float[batch,3] y, float[batch,6,3] cache_out)
        { one = Constant <value = int64[1] {1}> ()
          end = Constant <value = int64[1] {100}> ()
          row = Unsqueeze (x, one)
          all = Concat <axis = 1> (cache, row)
          cache_out = Slice (all, one, end, one)
          y = ReduceMean <axes = [1], keepdims = 0> (cache_out) }""",
        {"cache": "cache_out"},
        {"x": (3,), "cache": (6, 3)},
    ),
    "integers_and_booleans": ForeignGraph(
        """net (float[batch,2] x, int64[batch] count, bool[batch,2] seen)
            => (float[batch,2] y, int64[batch] count_out, bool[batch,2] seen_out)
        { one = Constant <value = int64 {1}> ()
          zero = Constant <value = float {0.0}> ()
          last = Constant <value = int64[1] {1}> ()
          count_out = Add (count, one)
          up = Greater (x, zero)
          seen_out = Or (seen, up)
          f = Cast <to = 1> (count_out)
          c = Unsqueeze (f, last)
          s = Cast <to = 1> (seen_out)
          y_ = Mul (x, c)
          y = Add (y_, s) }""",
        {"count": "count_out", "seen": "seen_out"},
        {"x": (2,), "count": (), "seen": (2,)},
    ),
    "one_row_in_its_shapes": ForeignGraph(
        """net (float[1,1,4] x, float[1,1,5] h0, float[1,1,5] c0) => (float[1,1,5] y, float[1,1,5] hn, float[1,1,5] cn)
        { Y, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)
          one = Constant <value = int64[1] {1}> ()
          y = Squeeze (Y, one) }""",
        {"h0": "hn", "c0": "cn"},
        {"x": (4,), "y": (5,)},
        weights=_LSTM,
    ),
    "one_row_no_batch_axis": ForeignGraph(
        """net (float[4] x, float[5] h, int64 position) => (float[5] y, float[5] h_out, int64 position_out)
        { xw = MatMul (x, Wx)
          hw = MatMul (h, Wh)
          a = Add (xw, hw)
          one = Constant <value = int64 {1}> ()
          position_out = Add (position, one)
          p = Cast <to = 1> (position_out)
          h_out = Tanh (a)
          y = Mul (h_out, p) }""",
        {"h": "h_out", "position": "position_out"},
        {"x": (4,), "h": (5,), "position": ()},
        weights={"Wx": (4, 5), "Wh": (5, 5)},
        batched=False,
    ),
    "rows_that_mix": ForeignGraph(
        """net (float[batch,4] x, float[batch,4] h) => (float[batch,4] y, float[batch,4] h_out)
        { mean = ReduceMean <axes = [0], keepdims = 1> (x)
          half = Constant <value = float {0.5}> ()
          kept = Mul (h, half)
          h_out = Add (kept, mean)
          y = Tanh (h_out) }""",
        {"h": "h_out"},
        {"x": (4,)},
        batched=False,
    ),
    "the_state_is_the_output": ForeignGraph(
        """net (float[batch,4] x, float[batch,5] hx) => (float[batch,5] hx_out)
        { xw = MatMul (x, Wx)
          hw = MatMul (hx, Wh)
          a = Add (xw, hw)
          hx_out = Tanh (a) }""",
        {"hx": "hx_out"},
        {"x": (4,), "hx_out": (5,)},
        weights={"Wx": (4, 5), "Wh": (5, 5)},
    ),
    "an_output_beside_the_same_state": ForeignGraph(
        """net (float[batch,5] x, float[batch,5] h) => (float[batch,5] y, float[batch,5] hn)
        { hw = MatMul (h, Wh)
          a = Add (x, hw)
          hn = Tanh (a)
          y = Identity (hn) }""",
        {"h": "hn"},
        {"x": (5,), "y": (5,)},
        weights={"Wh": (5, 5)},
    ),
    "three_inputs": ForeignGraph(
        """net (float[batch,4] audio, float[batch,1] gain, int64[batch] token, float[batch,4] state)
            => (float[batch,4] y, float[batch] level, float[batch,4] new_state)
        { e = Gather (table, token)
          s = Mul (audio, gain)
          a = Add (s, e)
          b = Add (a, state)
          new_state = Tanh (b)
          y = Neg (new_state)
          level = ReduceMax <axes = [1], keepdims = 0> (new_state) }""",
        {"state": "new_state"},
        {"audio": (4,), "gain": (1,), "token": (), "y": (4,), "level": ()},
        weights={"table": (7, 4)},
    ),
    "loop": ForeignGraph(
        """net (float[batch,4] x, float[batch,4] h) => (float[batch,4] y, float[batch,4] h_out)
        { trips = Constant <value = int64 {3}> ()
          go = Constant <value = bool {1}> ()
          h_out = Loop (trips, go, h) <
            body = turn (int64 i, bool c, float[batch,4] s) => (bool c_out, float[batch,4] s_out)
            { w = MatMul (s, Wh)  a = Add (w, x)  s_out = Tanh (a)  c_out = Identity (c) }
          >
          y = Neg (h_out) }""",
        {"h": "h_out"},
        {"x": (4,)},
        weights={"Wh": (4, 4)},
    ),
    "scan": ForeignGraph(
        """net (float[t,batch,4] x, float[batch,4] h) => (float[t,batch,4] y, float[batch,4] h_out)
        { h_out, y = Scan <num_scan_inputs = 1,
            body = turn (float[batch,4] s, float[batch,4] xt) => (float[batch,4] s_out, float[batch,4] yt)
            { w = MatMul (s, Wh)  a = Add (w, xt)  s_out = Tanh (a)  yt = Neg (s_out) }
          > (h, x) }""",
        {"h": "h_out"},
        {"x": (4,), "y": (4,)},
        weights={"Wh": (4, 4)},
        native=True,
    ),
    "opset_9_ir_3": ForeignGraph(
        """net (float[batch,4] x, float[batch,5] h) => (float[batch,5] y, float[batch,5] h_out)
        { xw = MatMul (x, Wx)
          hw = MatMul (h, Wh)
          a = Add (xw, hw)
          h_out = Tanh (a)
          y_ = Unsqueeze <axes = [1]> (h_out)
          y = Squeeze <axes = [1]> (y_) }""",
        {"h": "h_out"},
        {"x": (4,), "y": (5,)},
        weights={"Wx": (4, 5), "Wh": (5, 5)},
        opset=9,
        ir=3,
        edit=_list_weights_as_inputs,
    ),
    "half": ForeignGraph(
        """net (float16[batch,4] x, float16[batch,5] h) => (float16[batch,5] y, float16[batch,5] h_out)
        { xw = MatMul (x, Wx)
          hw = MatMul (h, Wh)
          a = Add (xw, hw)
          h_out = Tanh (a)
          y = Neg (h_out) }""",
        {"h": "h_out"},
        {"x": (4,), "y": (5,)},
        weights={"Wx": (4, 5), "Wh": (5, 5)},
        half=True,
    ),
    "half_transposed": ForeignGraph(
        """net (float16[batch,2,4] x, float16[batch,5] h) => (float16[batch,5] y, float16[batch,5] h_out)
        { parts = Transpose <perm = [1, 0, 2]> (x)
          xw = MatMul (parts, Wx)
          zero = Constant <value = int64[1] {0}> ()
          sum = ReduceSum <keepdims = 0> (xw, zero)
          hw = MatMul (h, Wh)
          a = Add (sum, hw)
          h_out = Tanh (a)
          y = Neg (h_out) }""",
        {"h": "h_out"},
        {"x": (2, 4), "y": (5,)},
        weights={"Wx": (4, 5), "Wh": (5, 5)},
        half=True,
    ),
    "overlap": ForeignGraph(
        """net (float[batch,samples] input, float[batch,1] state) => (float[batch,1] output, float[batch,1] stateN)
        { w = Identity (window)
          s = MatMul (input, w)
          half = Constant <value = float {0.5}> ()
          kept = Mul (state, half)
          stateN = Add (kept, s)
          output = Sigmoid (stateN) }""",
        {"state": "stateN"},
        {"input": (4,), "output": (1,)},
        options={"overlaps": ["input:2"], "steps": ["input=4"]},
        weights={"window": (6, 1)},
    ),
    "overlap_in_time": ForeignGraph(
        """net (float[batch,t,3] x, float[batch,3] h) => (float[batch,3] y, float[batch,3] h_out)
        { m = ReduceMean <axes = [1], keepdims = 0> (x)
          half = Constant <value = float {0.5}> ()
          kept = Mul (h, half)
          h_out = Add (kept, m)
          y = Tanh (h_out) }""",
        {"h": "h_out"},
        {"x": (3,), "y": (3,)},
        options={"overlaps": ["x:4"]},
    ),
    "stateless": ForeignGraph(
        """net (float[batch,4] x) => (float[batch,5] y) { a = MatMul (x, Wx)  y = Tanh (a) }""",
        {},
        {"x": (4,), "y": (5,)},
        weights={"Wx": (4, 5)},
    ),
    "names_that_are_taken": ForeignGraph(
        """net (float[batch,4] lengths, float[batch,4] read_slots)
            => (float[batch,4] finite, float[batch,4] write_slots)
        { half = Constant <value = float {0.5}> ()
          kept = Mul (read_slots, half)
          write_slots = Add (kept, lengths)
          finite = Tanh (write_slots) }""",
        {"read_slots": "write_slots"},
        {"model_lengths": (4,), "model_finite": (4,)},
        options={"states": ["read_slots=write_slots"]},
    ),
    "function": ForeignGraph(
        """net (float[batch,4] x, float[batch,4] h) => (float[batch,4] y, float[batch,4] h_out)
        { h_out = local.step (x, h)  y = Neg (h_out) }
        <domain: "local", opset_import: ["" : 17]> step (x, h) => (o) { a = Add (x, h)  o = Tanh (a) }""",
        {"h": "h_out"},
        {"x": (4,)},
    ),
    "names_that_say_nothing": ForeignGraph(
        """net (float[a,b,4] p, float[1,c,5] q) => (float[a,b,5] 101, float[1,c,5] 102)
        { major = Transpose <perm = [1, 0, 2]> (p)
          Y, 102 = GRU <hidden_size = 5> (major, W, R, B, , q)
          back = Transpose <perm = [2, 0, 1, 3]> (Y)
          shape = Constant <value = int64[3] {0, -1, 5}> ()
          101 = Reshape (back, shape) }""".replace("101", "o101").replace("102", "o102"),
        {"q": "o102"},
        {"p": (4,), "o101": (5,)},
        weights={"W": (1, 15, 4), "R": (1, 15, 5), "B": (1, 30)},
        native=True,
    ),
    "shapes_that_lie": ForeignGraph(
        """net (float[batch,4] x, float[2,batch,4] state) => (float[u,v] output, float[p,q,r] stateN)
        { half = Constant <value = float {0.5}> ()
          kept = Mul (state, half)
          stateN = Add (kept, x)
          zero = Constant <value = int64 {0}> ()
          output = Gather <axis = 0> (stateN, zero) }""",
        {"state": "stateN"},
        {"x": (4,), "output": (4,), "state": (2, 4)},
        edit=_lying_shapes,
    ),
    "time_axis_fixed_to_1": ForeignGraph(
        """net (float[n,1,3] frame, float[n,3] past) => (float[n,1,3] mask, float[n,3] present)
        { axis = Constant <value = int64[1] {1}> ()
          x = Squeeze (frame, axis)
          half = Constant <value = float {0.5}> ()
          kept = Mul (past, half)
          present = Add (kept, x)
          m = Sigmoid (present)
          mask = Unsqueeze (m, axis) }""",
        {"past": "present"},
        {"frame": (3,), "mask": (3,)},
    ),
}


def write(model: ModelProto, path: Any) -> Any:
    """Write a model to a file and return its path."""
    onnx.save(model, path)
    return path
