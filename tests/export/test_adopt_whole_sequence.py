"""A file that runs a whole sequence at once is adopted only if the served steps give what that run gives."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import ModelProto
from torch import nn

from export.adopt import AdoptOptions, adopt_model, lift, pipeline
from export.adopt.errors import WholeSequenceError
from export.adopt.lift import Lifted
from export.arena_runner import INITIAL_SLOT, ArenaRunner
from export.artefact import read_card
from export.figure import Figure
from tests.export.served import adopted
from tests.export.test_adopt import assert_refused, invoke
from tests.export.torch_exports import Output
from tests.export.zoo import ZOO, ForeignGraph, write

_STEPS = 40
_LSTM = {"W": (1, 20, 4), "R": (1, 20, 5), "B": (1, 40)}
_STATES = "float[1,n,5] h0, float[1,n,5] c0"
_NEXT = "float[1,n,5] hn, float[1,n,5] cn"


@pytest.fixture
def states_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the comparison see the files as they are: no state is added to them, and nothing else explains a refusal."""
    monkeypatch.setattr(pipeline, "lift_states", Lifted)
    monkeypatch.setattr(lift, "_ahead", lambda model, options, planned: [])


def graph(text: str, **weights: tuple[int, ...]) -> ModelProto:
    """Return a graph in ONNX's text format, its weights drawn from a fixed seed."""
    return ForeignGraph(text, {}, {}, weights=weights).model()


def difference(found: Any, expected: Any) -> float:
    """Return how far two arrays are apart, of the largest value expected."""
    return Figure.of(found, expected).error


def run(model: ModelProto, feeds: dict[str, Any]) -> dict[str, Any]:
    """Run an unchanged file in onnxruntime; inputs that are not given are zeros of batch 1."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zeros = {
        one.name: np.zeros([size if isinstance(size, int) else 1 for size in one.shape], np.float32)
        for one in session.get_inputs()
        if one.name not in feeds
    }
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds | zeros), strict=True))


def run_steps(model: ModelProto, x: Any, axis: int) -> Any:
    """Run a file in onnxruntime on one step after another, h0 fed from hn and c0 from cn; return y of all steps."""
    states: dict[str, Any] = {}
    found = []
    for step in np.split(x, _STEPS, axis):
        outputs = run(model, states | {"x": step})
        states = {source: outputs[target] for source, target in (("h0", "hn"), ("c0", "cn")) if target in outputs}
        found.append(outputs["y"])
    return np.concatenate(found, axis)


def sequence(axis: int, rank: int) -> Any:
    """Return a random sequence of 4 features a step, its time on an axis and every other axis of size 1."""
    shape = [1] * rank
    shape[axis], shape[-1] = _STEPS, 4
    return np.random.default_rng(5).normal(0, 0.5, shape).astype(np.float32)


def streamed(artefact: Path, x: Any, name: str = "x") -> Any:
    """Return the first output of an artefact, (time, *shape), for one sequence in chunks of 1 to 5 steps."""
    card = read_card(artefact)
    runner, random = ArenaRunner(artefact.read_bytes(), card, slots=4), np.random.default_rng(1)
    others = {spec.name: np.ones((1, _STEPS, *spec.shape), spec.dtype) for spec in card.inputs if spec.name != name}
    inputs = others | {name: x.reshape(1, _STEPS, *card.inputs[0].shape)}
    slot, start, outputs = INITIAL_SLOT, 0, []
    while start < _STEPS:
        stop, written = start + int(random.integers(1, 6)), 2 + slot % 2
        chunk = {key: values[:, start:stop] for key, values in inputs.items()}
        outputs.append(runner.run(chunk, np.array([slot]), np.array([written]))[card.outputs[0].name][0])
        slot, start = written, stop
    return np.concatenate(outputs)


def refused(model: ModelProto, folder: Path, words: str, *options: str) -> None:
    """Assert that the command refuses a file with status 1 and one sentence, and writes nothing."""
    file = write(model, folder / "foreign.onnx")
    result = invoke("adopt", file, "--out", folder / "out/m/1", *options)
    assert_refused(
        result, folder, rf"run over the whole sequence .* differs from its steps one after another: .*{words}"
    )


def exported(module: nn.Module, example: torch.Tensor, open_axes: dict[int, str], folder: Path) -> ModelProto:
    """Return what torch.onnx.export makes of a module that takes x and gives y."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (example,),
            folder / "exported.onnx",
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": open_axes, "y": open_axes},
            dynamo=False,
        )
    return onnx.load(folder / "exported.onnx")


BATCH_FIRST = {0: "batch", 1: "time"}


@pytest.mark.usefixtures("states_stay_hidden")
@pytest.mark.parametrize(
    ("layer", "axis", "rank", "open_axes"),
    [
        (nn.LSTM(4, 5, batch_first=True), 1, 3, BATCH_FIRST),
        (nn.LSTM(4, 5, num_layers=2), 0, 3, {0: "time", 1: "batch"}),
        (nn.GRU(4, 5, batch_first=True, bidirectional=True), 1, 3, BATCH_FIRST),
        (nn.RNN(4, 5), 0, 3, {0: "time"}),
        (nn.LSTM(4, 5), 0, 3, {0: "batch"}),
        (nn.LSTM(4, 5, batch_first=True), 1, 3, {1: "time"}),
        (nn.GRU(4, 5), 0, 2, {0: "time"}),
    ],
    ids=["batch_first", "two_layers", "both_ways", "batch_of_one", "time_called_batch", "open_time", "without_batch"],
)
def test_a_torch_layer_without_states_is_refused(
    layer: nn.Module, axis: int, rank: int, open_axes: dict[int, str], tmp_path: Path
) -> None:
    """torch.onnx.export of a layer that takes x and gives y would start from zero at every step."""
    x = sequence(axis, rank)
    model = exported(Output(layer), torch.from_numpy(x[:1] if axis == 0 else x[:, :3]), open_axes, tmp_path)
    assert difference(run_steps(model, x, axis), run(model, {"x": x})["y"]) > 0.1
    refused(model, tmp_path, f"'y' differs by [0-9].*{type(layer).__name__} ")


@pytest.mark.usefixtures("states_stay_hidden")
def test_a_classifier_that_gives_the_last_step_is_refused(tmp_path: Path) -> None:
    """An output without a time axis is compared with the last of the steps."""
    model = exported(Output(nn.GRU(4, 5, batch_first=True), last=True), torch.zeros(1, 3, 4), BATCH_FIRST, tmp_path)
    x = sequence(1, 3)
    assert difference(run(model, {"x": x[:, -1:]})["y"], run(model, {"x": x})["y"]) > 0.1
    refused(model, tmp_path, "'y' differs by [0-9]")


def convolution(pads: str, dilation: int = 1) -> str:
    """Return a convolution of 3 taps over time."""
    return f"""net (float[n,t,4] x) => (float[n,t,4] y)
        {{ narrow = Transpose <perm = [0, 2, 1]> (x)
          wide = Conv <dilations = [{dilation}], pads = [{pads}]> (narrow, K)
          y = Transpose <perm = [0, 2, 1]> (wide) }}"""


HIDDEN = {
    "look_ahead": (convolution("0, 2"), "Conv 'wide'$"),
    "look_back": (convolution("2, 0"), "Conv 'wide'$"),
    "look_far_back": (convolution("50, 0", dilation=25), "Conv 'wide'$"),
    "look_ahead_before_states": (
        f"""net (float[t,n,4] x, {_STATES}) => (float[t,n,5] y, {_NEXT})
        {{ narrow = Transpose <perm = [1, 2, 0]> (x)
          wide = Conv <pads = [1, 1]> (narrow, K)
          major = Transpose <perm = [2, 0, 1]> (wide)
          Y, hn, cn = LSTM <hidden_size = 5> (major, W, R, B, , h0, c0)
          one = Constant <value = int64[1] {{1}}> ()
          y = Squeeze (Y, one) }}""",
        "Conv 'wide', LSTM 'Y, hn, cn'$",
    ),
    "hidden_second_layer": (
        f"""net (float[t,n,4] x, {_STATES}) => (float[t,n,5] y, {_NEXT})
        {{ Y0, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)
          one = Constant <value = int64[1] {{1}}> ()
          between = Squeeze (Y0, one)
          Y = LSTM <hidden_size = 5> (between, W2, R, B)
          y = Squeeze (Y, one) }}""",
        "LSTM 'Y'$",
    ),
    "both_ways_with_states": (
        """net (float[t,n,4] x, float[2,n,5] h0) => (float[t,2,n,5] y, float[2,n,5] hn)
        { y, hn = GRU <hidden_size = 5, direction = "bidirectional"> (x, W3, R3, , , h0) }""",
        r"GRU 'y, hn' \(bidirectional\)$",
    ),
    "states_of_one_row_in_the_file": (
        """net (float[t,n,4] x) => (float[t,n,5] y)
        { Y = LSTM <hidden_size = 5> (x, W, R, B, , start, start)
          one = Constant <value = int64[1] {1}> ()
          y = Squeeze (Y, one) }""",
        "LSTM 'Y'$",
    ),
    "sum_over_time": (
        """net (float[n,t,4] x) => (float[n,t,4] y)
        { one = Constant <value = int64 {1}> ()  y = CumSum (x, one) }""",
        "CumSum 'y'$",
    ),
    "mean_over_time": (
        """net (float[n,t,4] x) => (float[n,t,4] y) { m = ReduceMean <axes = [1]> (x)  y = Sub (x, m) }""",
        r"the tolerance is 1\.\d*e-05$",
    ),
    "every_other_step": (
        """net (float[n,t,4] x) => (float[n,s,4] y)
        { from = Constant <value = int64[1] {0}> ()  to = Constant <value = int64[1] {1000}> ()
          axis = Constant <value = int64[1] {1}> ()  two = Constant <value = int64[1] {2}> ()
          y = Slice (x, from, to, axis, two) }""",
        "'y' differs in shape",
    ),
}
_WEIGHTS = {
    **_LSTM,
    "K": (4, 4, 3),
    "W2": (1, 20, 5),
    "W3": (2, 15, 4),
    "R3": (2, 15, 5),
    "start": (1, 1, 5),
}


def hidden(name: str) -> ModelProto:
    """Return a graph that hides what it carries; it has weights that it does not use as well."""
    return graph(HIDDEN[name][0], **_WEIGHTS)


@pytest.mark.usefixtures("states_stay_hidden")
@pytest.mark.parametrize("name", HIDDEN)
def test_what_no_state_shows_is_refused(name: str, tmp_path: Path) -> None:
    """A layer, a convolution or a sum over time that reaches beyond a step is named, and nothing is written."""
    model = hidden(name)
    axis = 0 if "[t,n,4] x" in HIDDEN[name][0] else 1
    x = sequence(axis, 3)
    assert difference(run_steps(model, x, axis), run(model, {"x": x})["y"]) > 0.1
    refused(model, tmp_path, HIDDEN[name][1])


@pytest.mark.usefixtures("states_stay_hidden")
@pytest.mark.parametrize("name", ["states_of_one_row_in_the_file", "look_ahead", "hidden_second_layer"])
def test_axes_without_names_hide_nothing(name: str, tmp_path: Path) -> None:
    """Where the file does not name its axes, the file is run along each that may be the time."""
    model = hidden(name)
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.Clear()
    refused(model, tmp_path, "")


@pytest.mark.usefixtures("states_stay_hidden")
def test_the_measured_difference_is_in_the_error(tmp_path: Path) -> None:
    """The error carries the figure, which is far beyond the tolerance, and no folder is left behind."""
    file = write(hidden("look_ahead"), tmp_path / "foreign.onnx")
    with pytest.raises(WholeSequenceError) as caught:
        adopt_model(file, tmp_path / "out", "m", 1)
    assert 0.01 < caught.value.difference < 10
    assert not (tmp_path / "out").exists()


# name → (graph, its other inputs for a run over the whole sequence, the time axis of x)
RIGHT: dict[str, tuple[ModelProto, dict[str, Any], int]] = {
    "states_shown": (ZOO["time_first_batch_second"].model(), {}, 0),
    "a_scan": (ZOO["scan"].model(), {}, 0),
    "one_row": (
        graph(
            """net (float[1,frames,4] x, float[1,1,5] h0) => (float[frames,1,5] y, float[1,1,5] hn)
            { major = Transpose <perm = [1, 0, 2]> (x)
              Y, hn = GRU <hidden_size = 5> (major, W, R, B, , h0)
              one = Constant <value = int64[1] {1}> ()
              y = Squeeze (Y, one) }""",
            W=(1, 15, 4),
            R=(1, 15, 5),
            B=(1, 30),
        ),
        {},
        1,
    ),
    "a_cache": (
        graph(
            """net (float[n,t,4] x, float[n,2,4] cache) => (float[n,t,4] y, float[n,2,4] cache_out)
            { all = Concat <axis = 1> (cache, x)
              from = Constant <value = int64[1] {-2}> ()  to = Constant <value = int64[1] {10000}> ()
              axis = Constant <value = int64[1] {1}> ()
              cache_out = Slice (all, from, to, axis)
              narrow = Transpose <perm = [0, 2, 1]> (all)
              wide = Conv (narrow, K)
              y = Transpose <perm = [0, 2, 1]> (wide) }""",
            K=(4, 4, 3),
        ),
        {},
        1,
    ),
    "an_input_for_the_whole_sequence": (
        graph(
            """net (float[n,t,4] x, float[n,4] gain, float[1,n,5] h0) => (float[t,n,5] y, float[1,n,5] hn)
            { one = Constant <value = int64[1] {1}> ()
              wide = Unsqueeze (gain, one)
              loud = Mul (x, wide)
              major = Transpose <perm = [1, 0, 2]> (loud)
              Y, hn = RNN <hidden_size = 5> (major, W, R, , , h0)
              y = Squeeze (Y, one) }""",
            W=(1, 5, 4),
            R=(1, 5, 5),
        ),
        {"gain": np.ones((1, 4), np.float32)},
        1,
    ),
    "lengths_of_the_sequences": (
        graph(
            f"""net (float[t,n,4] x, int32[n] lengths, {_STATES}) => (float[t,n,5] y, {_NEXT})
            {{ Y, hn, cn = LSTM <hidden_size = 5> (x, W, R, B, lengths, h0, c0)
              one = Constant <value = int64[1] {{1}}> ()
              y = Squeeze (Y, one) }}""",
            **_LSTM,
        ),
        {"lengths": np.array([_STEPS], np.int32)},
        0,
    ),
    "no_memory": (ZOO["stateless"].model(), {}, 0),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_file_whose_steps_are_right_is_adopted(name: str, tmp_path: Path) -> None:
    """What is served in chunks is what onnxruntime gives for the file's whole sequence at once."""
    model, feeds, axis = RIGHT[name]
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    x = sequence(axis, rank)
    whole = next(iter(run(model, feeds | {"x": x}).values()))
    artefact = adopt_model(write(model, tmp_path / "foreign.onnx"), tmp_path, "m", 1)
    assert difference(streamed(artefact, x).reshape(whole.shape), whole) <= 1e-5


@pytest.mark.usefixtures("states_stay_hidden")
def test_an_overlap_is_part_of_the_whole_run(tmp_path: Path) -> None:
    """A convolution that takes its left context from an overlap is adopted; with an LSTM behind it, it is refused."""
    text = convolution("0, 0")
    model = graph(text, K=(4, 4, 3))
    options = AdoptOptions.parse(overlaps=["x:2"])
    artefact = adopt_model(write(model, tmp_path / "foreign.onnx"), tmp_path, "m", 1, adopt_options=options)
    x = sequence(1, 3)
    whole = run(model, {"x": np.concatenate([np.zeros((1, 2, 4), np.float32), x], 1)})["y"]
    assert difference(streamed(artefact, x)[None], whole) <= 1e-5
    behind = text.replace("t,4] y", "t,5] y").replace(
        "y = Transpose <perm = [0, 2, 1]> (wide)",
        """major = Transpose <perm = [2, 0, 1]> (wide)
        Y = LSTM <hidden_size = 5> (major, W, R, B)
        one = Constant <value = int64[1] {1}> ()  s = Squeeze (Y, one)  y = Transpose <perm = [1, 0, 2]> (s)""",
    )
    refused(graph(behind, K=(4, 4, 3), **_LSTM), tmp_path, "LSTM 'Y'$", "--overlap", "x:2")


def test_a_size_of_step_that_is_given_stands(tmp_path: Path) -> None:
    """An axis whose --step makes a window of it does not count steps, so nothing is run along it."""
    model = hidden("mean_over_time")
    card = read_card(
        adopt_model(
            write(model, tmp_path / "foreign.onnx"), tmp_path, "m", 1, adopt_options=AdoptOptions.parse(steps=["x=8x4"])
        )
    )
    assert card.inputs[0].shape == (8, 4)


def test_an_axis_that_may_be_the_batch_is_asked_about(tmp_path: Path) -> None:
    """Where rows change each other and there is no state, the sentence names --batch-axis; with it one row runs."""
    text = "net (float[n,4] x) => (float[n,4] y) { m = ReduceMax <keepdims = 0> (x)  y = Sub (x, m) }"
    model = graph(text)
    with pytest.raises(WholeSequenceError, match="if axis 0 of x is the batch: --batch-axis x:0; if the steps"):
        adopted(model, tmp_path)
    _, card, _ = adopted(model, tmp_path, batch_axes=["x:0"])
    assert card.max_batch == 1
