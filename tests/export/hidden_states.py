"""Graphs and torch modules that carry something over time without showing it as a state, and ones that look ahead."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import nn

from tests.export.zoo import ForeignGraph

STEPS = 40


class Output(nn.Module):
    """A recurrent layer of torch's that gives y alone, or its last step."""

    def __init__(self, layer: nn.Module, *, last: bool = False) -> None:
        super().__init__()
        self.layer, self.last = layer, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)[0]
        return y[:, -1] if self.last else y


class Start(nn.Module):
    """An LSTM of two layers that starts from zeros by the batch size, or from learned values."""

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.start = nn.Parameter(torch.linspace(-0.5, 0.5, 10).reshape(2, 1, 5), requires_grad=learned)
        self.learned = learned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        h = self.start.expand(2, rows, 5).contiguous() if self.learned else torch.zeros(2, rows, 5)
        y: torch.Tensor = self.layer(x, (h, 0.5 * h))[0]
        return y


class Between(nn.Module):
    """A causal convolution, a GRU, a LayerNorm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Conv1d(4, 6, 3, dilation=2), nn.LayerNorm(5)
        self.layer, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.relu(self.inner(nn.functional.pad(x.transpose(1, 2), (4, 0))))
        y: torch.Tensor = self.head(self.norm(self.layer(wide.transpose(1, 2))[0]))
        return y


class Dilated(nn.Module):
    """Residual causal convolutions that are padded on both sides and cut behind, each of twice the dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.pads = [2 * 2**i for i in range(3)]
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=pad, dilation=pad // 2) for pad in self.pads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.transpose(1, 2)
        for layer, pad in zip(self.layers, self.pads, strict=True):
            y = y + torch.tanh(layer(y)[:, :, :-pad])
        return y.transpose(1, 2)


class Words(nn.Module):
    """Token ids, an embedding, an LSTM and the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(11, 4), nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(self.table(x))[0][:, -1]
        return y


class Bands(nn.Module):
    """A GRU over time for each of three bands, which are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, time, 3, 4)
        rows, steps = x.shape[0], x.shape[1]
        y: torch.Tensor = self.layer(x.permute(1, 0, 2, 3).reshape(steps, rows * 3, 4))[0]
        return y.reshape(steps, rows, 3, 5).permute(1, 0, 2, 3)


@dataclass(frozen=True, slots=True)
class TorchCase:
    """A module, the exporters that write it, and the axis of its time; `ids` for token ids."""

    module: nn.Module
    exporters: tuple[str, ...] = ("script", "dynamo")
    axis: int = 1
    shape: tuple[int, ...] = (4,)
    ids: bool = False

    def sequence(self, rows: int = 1, steps: int = STEPS) -> Any:
        """Return random inputs of so many rows and steps."""
        random = np.random.default_rng(5)
        sizes = (rows, steps) if self.axis == 1 else (steps, rows)
        if self.ids:
            return random.integers(0, 11, sizes)
        return random.normal(0, 0.5, (*sizes, *self.shape)).astype(np.float32)

    def exported(self, exporter: str, folder: Path) -> ModelProto:
        """Return what an exporter of torch's makes of the module."""
        example = torch.from_numpy(self.sequence(2, 7))
        names = {self.axis: "time", 1 - self.axis: "batch"}
        how: dict[str, Any] = {"dynamo": False, "dynamic_axes": {"x": names}}
        if exporter == "dynamo":
            how = {"dynamo": True, "dynamic_shapes": (dict.fromkeys(names, torch.export.Dim.DYNAMIC),)}
            how["verbose"] = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.module.eval(), (example,), folder / "e.onnx", input_names=["x"], output_names=["y"], **how
            )
        return onnx.load(folder / "e.onnx")


torch.manual_seed(0)
# where the newer exporter is missing, it cannot export the layer with open axes
TORCH = {
    "lstm": TorchCase(Output(nn.LSTM(4, 5, batch_first=True))),
    "lstm_time_first": TorchCase(Output(nn.LSTM(4, 5, num_layers=2)), ("script",), 0),
    "gru": TorchCase(Output(nn.GRU(4, 5, num_layers=2, batch_first=True))),
    "gru_time_first": TorchCase(Output(nn.GRU(4, 5)), ("script",), 0),
    "rnn": TorchCase(Output(nn.RNN(4, 5, nonlinearity="relu", batch_first=True)), ("script",)),
    "zeros_by_batch_size": TorchCase(Start(learned=False)),
    "learned_start": TorchCase(Start(learned=True), ("script",)),
    "between_other_layers": TorchCase(Between()),
    "dilated_convolutions": TorchCase(Dilated()),
    "token_ids": TorchCase(Words(), ids=True),
    "bands": TorchCase(Bands(), ("script",), shape=(3, 4)),
    "last_step": TorchCase(Output(nn.GRU(4, 5, batch_first=True), last=True)),
}

_LAYER = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40), "W2": (1, 20, 5), "start": (1, 1, 5), "K": (4, 4, 3)}
_GRU = {"W": (1, 15, 4), "R": (1, 15, 5), "B": (1, 30)}
_STATES = "float[1,n,5] h0, float[1,n,5] c0"
_NEXT = "float[1,n,5] hn, float[1,n,5] cn"
_ONE = "one = Constant <value = int64[1] {1}> ()"


@dataclass(frozen=True, slots=True)
class Hidden:
    """A graph over x, the axis of its time, and the states that are to be added; `batched` if rows run together."""

    text: str
    added: tuple[str, ...]
    axis: int = 0
    weights: dict[str, tuple[int, ...]] = field(default_factory=lambda: _LAYER)
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


def _over_time(inside: str) -> str:
    return f"""net (float[n,t,4] x) => (float[n,t,4] y)
        {{ narrow = Transpose <perm = [0, 2, 1]> (x)
          {inside}
          y = Transpose <perm = [0, 2, 1]> (wide) }}"""


_BODY = """<num_scan_inputs = 1, body = step (float[n,4] before, float[n,4] now) => (float[n,4] next, float[n,4] out)
    { half = Constant <value = float {0.5}> ()  kept = Mul (before, half)
      sum = Add (kept, now)  next = Tanh (sum)  out = Neg (next) }>"""

HIDDEN = {
    "absent": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B)  {_ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
    ),
    "one_row_in_the_file": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B, , start, start)  {_ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
    ),
    "second_layer": Hidden(
        f"""net (float[t,n,4] x, {_STATES}) => (float[t,n,5] y, {_NEXT})
        {{ Y0, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)  {_ONE}
          between = Squeeze (Y0, one)
          Y = LSTM <hidden_size = 5> (between, W2, R, B)  y = Squeeze (Y, one) }}""",
        ("Y.h", "Y.c"),
    ),
    "cell_state": Hidden(
        f"""net (float[t,n,4] x, float[1,n,5] h0) => (float[t,n,5] y, float[1,n,5] hn)
        {{ Y, hn = LSTM <hidden_size = 5> (x, W, R, B, , h0)  {_ONE}  y = Squeeze (Y, one) }}""",
        ("Y.c",),
    ),
    "final_state_shown": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y, float[1,n,5] final)
        {{ Y, final = GRU <hidden_size = 5> (x, W, R, B)  {_ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h",),
        weights=_GRU,
    ),
    "without_batch": Hidden(
        f"""net (float[t,4] x) => (float[t,5] y)
        {{ {_ONE}  row = Unsqueeze (x, one)  Y = LSTM <hidden_size = 5> (row, W, R, B)
          both = Constant <value = int64[2] {{1, 2}}> ()  y = Squeeze (Y, both) }}""",
        ("Y.h", "Y.c"),
        batched=False,
        rank=2,
    ),
    "activations_and_clip": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = GRU <hidden_size = 5, clip = 0.7, activations = ["HardSigmoid", "Tanh"]> (x, W, R, B)
          {_ONE}  y = Squeeze (Y, one) }}""",
        ("Y.h",),
        weights=_GRU,
    ),
    "causal_convolution": Hidden(_over_time("wide = Conv <pads = [2, 0]> (narrow, K)"), ("wide.context",), 1),
    "dilated_convolution": Hidden(
        _over_time("wide = Conv <pads = [50, 0], dilations = [25]> (narrow, K)"), ("wide.context",), 1
    ),
    "pad_of_ones": Hidden(
        _over_time(
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
          Y = LSTM <hidden_size = 5> (back, W, R, B)  {_ONE}  y = Squeeze (Y, one) }}""",
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
        {{ Y = LSTM <hidden_size = 5> (x, W, R, B, lengths)  {_ONE}  y = Squeeze (Y, one) }}""",
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

_BOTH = {"W": (2, 15, 4), "R": (2, 15, 5), "B": (2, 30)}

AHEAD = {
    "bidirectional": Hidden(
        """net (float[t,n,4] x) => (float[t,2,n,5] y)
        { y = GRU <hidden_size = 5, direction = "bidirectional"> (x, W, R, B) }""",
        (r"GRU 'y' runs over the sequence backwards \(bidirectional\)",),
        weights=_BOTH,
    ),
    "reverse": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ Y = GRU <hidden_size = 5, direction = "reverse"> (x, W, R, B)  {_ONE}  y = Squeeze (Y, one) }}""",
        (r"GRU 'Y' runs over the sequence backwards \(reverse\)",),
        weights=_GRU,
    ),
    "one_step": Hidden(
        _over_time("wide = Conv <pads = [1, 1]> (narrow, K)"), ("Conv 'wide' looks 1 step ahead",), axis=1
    ),
    "six_steps": Hidden(
        _over_time("wide = Conv <pads = [6, 6], dilations = [6]> (narrow, K)"),
        ("Conv 'wide' looks 6 steps ahead",),
        axis=1,
    ),
    "one_step_before_a_layer": Hidden(
        f"""net (float[t,n,4] x, {_STATES}) => (float[t,n,5] y, {_NEXT})
        {{ narrow = Transpose <perm = [1, 2, 0]> (x)  wide = Conv <pads = [0, 2]> (narrow, K)
          back = Transpose <perm = [2, 0, 1]> (wide)
          Y, hn, cn = LSTM <hidden_size = 5> (back, W, R, B, , h0, c0)  {_ONE}  y = Squeeze (Y, one) }}""",
        ("Conv 'wide' looks 2 steps ahead",),
    ),
    "pooling": Hidden(
        _over_time("wide = MaxPool <kernel_shape = [3], pads = [1, 1]> (narrow)"),
        ("MaxPool 'wide' looks 1 step ahead",),
        axis=1,
    ),
    "mean": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y) { m = ReduceMean <axes = [1]> (x)  y = Sub (x, m) }""",
        ("ReduceMean 'm' takes all steps of the sequence together",),
        axis=1,
    ),
    "attention": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { keys = Transpose <perm = [0, 2, 1]> (x)  scores = MatMul (x, keys)
          shares = Softmax <axis = 2> (scores)  y = MatMul (shares, x) }""",
        ("MatMul 'scores' takes all steps of the sequence together",),
        axis=1,
    ),
    "normalisation": Hidden(
        _over_time("wide = InstanceNormalization (narrow, scale, bias)"),
        ("InstanceNormalization 'wide' needs the whole sequence",),
        axis=1,
        weights={"scale": (4,), "bias": (4,)},
    ),
    "backwards": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { from = Constant <value = int64[1] {-1}> ()  to = Constant <value = int64[1] {-100000}> ()
          axis = Constant <value = int64[1] {1}> ()  step = Constant <value = int64[1] {-1}> ()
          turned = Slice (x, from, to, axis, step)  y = Add (x, turned) }""",
        ("Slice 'turned' needs the whole sequence",),
        axis=1,
    ),
}

WHOLE = {
    "start_computed_from_the_input": Hidden(
        f"""net (float[t,n,4] x) => (float[t,n,5] y)
        {{ zero = Constant <value = int64[1] {{0}}> ()  first = Gather <axis = 0> (x, zero)
          start = MatMul (first, M)  Y = GRU <hidden_size = 5> (x, W, R, B, , start)  {_ONE}
          y = Squeeze (Y, one) }}""",
        ("GRU 'Y'",),
        weights=_GRU | {"M": (4, 5)},
    ),
    "reflected": Hidden(
        _over_time(
            """ahead = Constant <value = int64[6] {0, 0, 2, 0, 0, 0}> ()
            padded = Pad <mode = "edge"> (narrow, ahead)  wide = Conv (padded, K)"""
        ),
        ("Pad 'padded'",),
        axis=1,
    ),
    "sum": Hidden(
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { one = Constant <value = int64 {1}> ()  y = CumSum (x, one) }""",
        ("CumSum 'y'",),
        axis=1,
    ),
    "every_other_step": Hidden(
        _over_time("wide = Conv <pads = [2, 0], strides = [2]> (narrow, K)"), ("Conv 'wide'",), axis=1
    ),
}
