"""A foreign graph, however awkward, is adopted and computes what the original does, or is refused with a sentence."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser
from typer.testing import CliRunner, Result

from export import ExportOptions
from export.__main__ import app
from export.adopt import AdoptOptions, adopt_model
from export.adopt.graph import build_served_graph
from export.adopt.plan import Plan
from export.adopt.planning import make_plan
from export.adopt.reference import OriginalReference
from export.artefact import read_card
from export.errors import ParityError
from export.verify import compare
from models.card import ModelCard, Parity
from tests.export.zoo import ZOO, ForeignGraph, write


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


def adopted(model: ModelProto, folder: Path, **options: Any) -> tuple[ModelCard, list[str]]:
    findings: list[str] = []
    file = write(model, folder / "foreign.onnx")
    path = adopt_model(
        file,
        folder,
        "foreign",
        1,
        ExportOptions(on_finding=findings.append),
        adopt_options=AdoptOptions.parse(**options),
    )
    return read_card(path), findings


def assert_refused(result: Result, folder: Path, words: str) -> None:
    assert result.exit_code == 1, result.output
    assert re.search(words, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def refuse(model: ModelProto, folder: Path, words: str, *options: str) -> None:
    file = write(model, folder / "foreign.onnx")
    assert_refused(invoke("adopt", file, "--out", folder / "out/m/1", *options), folder, words)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_is_adopted(name: str, tmp_path: Path) -> None:
    """Each awkward graph is adopted with the states, shapes and batch it has, and equals the original run directly."""
    graph_case = ZOO[name]
    card, findings = adopted(graph_case.model(), tmp_path, **graph_case.options)
    states = {line.split()[1]: line.split()[3].rstrip(":") for line in findings if line.startswith("state ")}
    assert states == graph_case.states
    shapes = {spec.name: spec.shape for spec in (*card.inputs, *card.outputs)}
    shapes |= {state.name: state.shape for state in card.states}
    assert {name: shapes.get(name) for name in graph_case.shapes} == graph_case.shapes
    assert (card.max_batch > 1) == graph_case.batched
    assert graph_case.native == any("several steps at once" in line for line in findings)
    assert card.parity.errors
    assert max(card.parity.errors.values()) <= 1e-6
    assert graph_case.batched == ("steps_with_strangers" in card.parity.errors)


def test_what_is_found_is_told(tmp_path: Path) -> None:
    """The command prints each state with why it is one, inputs, outputs, constants and the figures."""
    graph_case = ZOO["if_on_a_constant"]
    file = write(graph_case.model(), tmp_path / "foreign.onnx")
    result = invoke("adopt", file, "--out", tmp_path / "m/1", "--constant", "sr=16000")
    assert result.exit_code == 0, result.output
    for words in (
        "state state ← stateN: float32[4], batch on axis 0; the names agree, and shape and dtype; feeding it back",
        "input x: a step is float32[4]",
        "constant sr = 16000",
        "steps_with_strangers",
    ):
        assert words in result.stdout
    shown = invoke("show", tmp_path / "m/1/model.onnx")
    for printed in (result, shown):
        assert "the original and the artefact" in printed.stdout
        assert "torch" not in printed.stdout


def test_the_card_says_why_rows_run_one_at_a_time(tmp_path: Path) -> None:
    """The reason for max_batch 1 is among the card's findings, not on the terminal alone."""
    text = """net (float[1,2] x, float[1,2] h) => (float[1,2] y, float[1,2] h_out)
        { h_out = Add (h, x)  most = ReduceMax <keepdims = 0> (h_out)  y = Sub (h_out, most) }"""
    card, findings = adopted(text_model(text), tmp_path)
    assert card.max_batch == 1
    assert "max_batch is 1: its shapes are fixed to one row" in findings[-1]
    assert card.config["findings"][-1] == findings[-1]


def test_an_initial_state_is_taken_from_a_file(tmp_path: Path) -> None:
    """--initial gives states their values before the first step, with or without the batch axis."""
    np.savez(tmp_path / "start.npz", h0=np.full((1, 1, 5), 0.25), c0=np.linspace(-1, 1, 5).reshape(1, 5))
    card, _ = adopted(ZOO["time_first_batch_second"].model(), tmp_path, initial=tmp_path / "start.npz")
    assert [state.initial for state in card.states] == [0.25, (-1.0, -0.5, 0.0, 0.5, 1.0)]


def test_the_file_is_left_as_it_was(tmp_path: Path) -> None:
    """Adoption reads the original and writes nothing but the artefact."""
    data = write(ZOO["fifo"].model(), tmp_path / "foreign.onnx").read_bytes()
    adopted(ZOO["fifo"].model(), tmp_path)
    assert (tmp_path / "foreign.onnx").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "foreign.onnx"]


def test_data_beside_the_model_is_taken_in(tmp_path: Path) -> None:
    """Weights in a plain file beside the model, as torch writes them, end up inside the artefact."""
    model = ZOO["the_state_is_the_output"].model()
    onnx.save(model, tmp_path / "big.onnx", save_as_external_data=True, location="big.onnx.data", size_threshold=0)
    assert (tmp_path / "big.onnx.data").stat().st_size > 0
    path = adopt_model(tmp_path / "big.onnx", tmp_path, "big", 1)
    (tmp_path / "big.onnx.data").unlink()
    assert max(read_card(path).parity.errors.values()) <= 1e-6


def text_model(text: str) -> ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')


AMBIGUOUS = """net (float[batch,4] x, float[batch,4] p, float[batch,4] q)
    => (float[batch,4] y, float[batch,4] r, float[batch,4] s)
    { r = Add (p, x)  s = Sub (q, x)  y = Mul (r, s) }"""


def test_an_ambiguous_pairing_lists_its_candidates(tmp_path: Path) -> None:
    """Where names do not distinguish equal shapes, the candidates and the option are named; the option decides."""
    refuse(text_model(AMBIGUOUS), tmp_path, r"p float32\[batch, 4\] may be a state.*r float32.*s float32.*--state p=r")
    card, _ = adopted(text_model(AMBIGUOUS), tmp_path, states=["p=r", "q=s"])
    assert [state.name for state in card.states] == ["p", "q"]


def test_an_input_can_be_said_to_be_no_state(tmp_path: Path) -> None:
    """--state IN= makes an input of what could have been a state."""
    card, _ = adopted(text_model(AMBIGUOUS), tmp_path, states=["p=r", "q="])
    assert [spec.name for spec in card.inputs] == ["x", "q"]
    assert [state.name for state in card.states] == ["p"]


def test_a_scalar_that_is_no_state_must_be_a_constant(tmp_path: Path) -> None:
    """A lone number cannot differ between sequences; the option that gives its value is named."""
    refuse(ZOO["if_on_a_constant"].model(), tmp_path, r"sr int64\[\] is one number.*--constant sr=VALUE")


def test_a_step_of_unknown_size_is_asked_for(tmp_path: Path) -> None:
    """An axis that is neither batch nor time needs a size; the option is named."""
    refuse(ZOO["overlap"].model(), tmp_path, r"'samples', of no fixed size.*--step input=SIZE")


WINDOW = """net (float[batch,samples] input) => (float[batch,1] y)
    { one = Constant <value = float[6,1] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> ()  y = MatMul (input, one) }"""


@pytest.mark.parametrize(
    ("samples", "options", "words"),
    [
        ("samples", ("--step", "input=4"), r"--step input=4 gives input float32\[batch, samples\] the shape \(1, 4\)"),
        (
            "samples",
            ("--step", "input=4", "--overlap", "input:5"),
            r"the shape \(1, 9\) \(4 new values behind 5 of the step before",
        ),
        ("6", ("--overlap", "input:6"), "takes 6 values at once, so at most 5 can be of the step before"),
        ("6", ("--step", "input=5", "--overlap", "input:2"), "does not fit"),
    ],
)
def test_sizes_that_the_model_does_not_take_are_told(
    samples: str, options: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    """A --step or --overlap of another size than the nodes take is answered by what it gives, not by onnxruntime."""
    model = text_model(WINDOW.replace("samples", samples))
    refuse(model, tmp_path, words, *options)
    result = invoke("adopt", tmp_path / "foreign.onnx", "--out", tmp_path / "out/m/1", *options)
    assert "onnx" not in result.stderr.lower().replace("foreign.onnx", "")


@pytest.mark.parametrize(("samples", "steps"), [("samples", ["input=4"]), ("6", []), ("6", ["input=4"])])
def test_an_overlap_stands_before_what_is_new(samples: str, steps: list[str], tmp_path: Path) -> None:
    """Whether the axis has a fixed size or not, the model takes the overlap and the step's values together."""
    card, _ = adopted(text_model(WINDOW.replace("samples", samples)), tmp_path, steps=steps, overlaps=["input:2"])
    assert (card.inputs[0].shape, card.states[0].shape) == ((4,), (2,))


def test_an_overlap_is_bounded(tmp_path: Path) -> None:
    """What every session stores and every step runs over is counted in values, not in steps."""
    words = "--overlap x:43691 keeps 131,073 values for each sequence, more than 131,072"
    refuse(ZOO["overlap_in_time"].model(), tmp_path, words, "--overlap", "x:43691")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    """A folder instead of the file is named in a sentence, not by a number of the operating system's."""
    result = invoke("adopt", tmp_path, "--out", tmp_path / "out/m/1")
    assert_refused(result, tmp_path, f"^not adopted: {tmp_path}: it is a folder, where a file is expected$")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--state", "nothing=y"), "no such input"),
        (("--state", "h=nothing"), "no output 'nothing'"),
        (("--state", "h"), "expected IN=OUT"),
        (("--constant", "x=fast"), "no number"),
        (("--constant", "x=[1, NaN]"), "finite"),
        (("--batch-axis", "x:7"), "no such axis"),
        (("--batch-axis", "x:-1"), "whole number"),
        (("--batch-axis", "x:1"), r"this axis of x float32\[batch, 4\] is of a fixed size"),
        (("--batch-axis", "h_out:1"), "the batch is on axis 0 of this output"),
        (("--batch-axis", "h_out:5"), "the batch is on axis 0 of this output"),
        (("--constant", "h=[[1e300, 0, 0, 0, 0]]"), "cannot be held as float32"),
        (("--overlap", "x:0"), "whole number from 1"),
        (("--overlap", "z:3"), "none of this name"),
        (("--step", "x=5"), "does not fit"),
        (("--initial", "missing.npz"), "cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: tuple[str, str], words: str, tmp_path: Path) -> None:
    """An option that names what is not there, or cannot be read, is answered in a sentence."""
    graph_case = ZOO["the_state_is_the_output"]
    text = graph_case.text.replace("hx_out", "h_out").replace("hx", "h")
    model = ForeignGraph(text, {}, {}, weights=graph_case.weights).model()
    refuse(model, tmp_path, words, *options)


def test_an_open_axis_beside_the_time_is_asked_for(tmp_path: Path) -> None:
    """A time that is called one does not hide that another axis has no fixed size either."""
    text = "net (float[batch,time,width] x) => (float[batch,time,width] y) { y = Tanh (x) }"
    refuse(text_model(text), tmp_path, "several axes of no fixed size besides the batch: time; width.*--step x=SIZE")


def test_the_batch_of_one_row_stands_where_an_output_has_it(tmp_path: Path) -> None:
    """--batch-axis names an axis of an output that is of size 1, where the shapes are fixed to one row."""
    text = "net (float[1,2] x) => (float[1,1,2] y) { a = Constant <value = int64[1] {1}> ()  y = Unsqueeze (x, a) }"
    refuse(text_model(text), tmp_path, r"y:2: the output is of shape \(1, 1, 2\)", "--batch-axis", "y:2")
    card, _ = adopted(text_model(text), tmp_path, batch_axes=["y:1"])
    assert card.max_batch == 1


def _npz(folder: Path, **values: Any) -> bytes:
    np.savez_compressed(folder / "whole.npz", **values)
    return (folder / "whole.npz").read_bytes()


def _damaged(kind: str, folder: Path) -> bytes:
    """Return an .npz file that is an array, has a broken stream, is encrypted, of another method, or holds a text."""
    data = bytearray(_npz(folder, h0=np.random.default_rng(0).normal(size=500)))
    central = data.rindex(b"PK\x01\x02")
    if kind == "an array":
        np.save(folder / "array.npy", np.zeros(5))
        return (folder / "array.npy").read_bytes()
    if kind == "a broken stream":
        data[100:300] = b"\xff" * 200
    if kind == "encrypted":
        data[6] |= 1
        data[central + 8] |= 1
    if kind == "another method":
        data[8] = data[central + 10] = 99
    if kind == "a text":
        with zipfile.ZipFile(folder / "text.npz", "w") as archive:
            archive.writestr("h0", "zero")
        return (folder / "text.npz").read_bytes()
    return bytes(data)


@pytest.mark.parametrize("kind", ["an array", "a broken stream", "encrypted", "another method", "a text"])
def test_a_damaged_initial_file_is_refused(kind: str, tmp_path: Path) -> None:
    """Whatever numpy and zipfile make of it, one sentence names the option."""
    (tmp_path / "start.npz").write_bytes(_damaged(kind, tmp_path))
    model = ZOO["time_first_batch_second"].model()
    words = r"--initial .*: (cannot be read|the value of 'h0' is not made of finite numbers)"
    refuse(model, tmp_path, words, "--initial", str(tmp_path / "start.npz"))


def test_an_initial_value_that_the_state_cannot_hold_is_refused(tmp_path: Path) -> None:
    """A number beyond float32 would be infinite in the state."""
    (tmp_path / "start.json").write_text('{"h0": 1e300}')
    model = ZOO["time_first_batch_second"].model()
    refuse(model, tmp_path, "h0 cannot be held as float32", "--initial", str(tmp_path / "start.json"))


def test_a_served_graph_that_computes_something_else_is_noticed() -> None:
    """A weight that differs by a hundredth, deep in the Scan, is over the tolerance, and so is a lost overlap."""
    graph_case = ZOO["overlap"]
    model = graph_case.model()
    planned = make_plan(model, AdoptOptions.parse(**graph_case.options))
    card = _card_for(planned.plan)
    served = build_served_graph(model, planned.plan)
    compare(OriginalReference(planned), served.SerializeToString(), card, tolerance=1e-5)
    (scan,) = (node for node in served.graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
    (window,) = (tensor for tensor in body.initializer if tensor.name.endswith("window"))
    values = numpy_helper.to_array(window)
    for wrong in (values * 1.01, np.concatenate([np.zeros((2, 1), np.float32), values[2:]])):
        window.CopyFrom(numpy_helper.from_array(wrong.astype(np.float32), window.name))
        with pytest.raises(ParityError, match="one_step_at_a_time"):
            compare(OriginalReference(planned), served.SerializeToString(), card, tolerance=1e-5)


def _card_for(plan: Plan) -> ModelCard:
    return ModelCard(
        name="m",
        version=1,
        cell="adopted",
        inputs=tuple(one.spec for one in plan.inputs),
        outputs=tuple(one.spec for one in plan.outputs),
        states=plan.state_specs,
        max_batch=8,
        ragged=False,
        weights_sha256="0" * 64,
        parity=Parity(tolerance=1.0, errors={}),
        created_by="a test",
    )


def test_a_pair_of_different_shapes_is_refused(tmp_path: Path) -> None:
    """A state that grows, as a key-value cache does, cannot be kept in a row; the shapes are named."""
    grows = """net (float[batch,2] x, float[batch,3] cache) => (float[batch,2] y, float[batch,n] cache_out)
        { cache_out = Concat <axis = 1> (cache, x)  y = Neg (x) }"""
    refuse(text_model(grows), tmp_path, r"'cache' grows: .*\(5,\) of \(3,\).*'cache_out'.*slot of fixed size")
    refuse(
        text_model(AMBIGUOUS.replace("float[batch,4] r", "float[batch,2,2] r")),
        tmp_path,
        "cannot be fed",
        "--state",
        "p=r",
    )


def test_a_state_that_names_but_not_shapes_say_is_refused(tmp_path: Path) -> None:
    """h0 of 4 values and hn of 5 are no stateless model, unless --state h0= says so."""
    text = """net (float[batch,2] x, float[batch,4] h0) => (float[batch,2] y, float[batch,5] hn)
        { axis = Constant <value = int64[1] {1}> ()
          sum = ReduceSum (h0, axis)  hn = Concat <axis = 1> (h0, sum)  y = Neg (x) }"""
    refuse(text_model(text), tmp_path, r"h0 float32\[batch, 4\] and the output hn float32\[batch, 5\].*--state h0=$")
    card, _ = adopted(text_model(text), tmp_path, states=["h0="])
    assert ([spec.name for spec in card.inputs], card.states) == (["x", "h0"], ())


@pytest.mark.parametrize("after", ["total", "past", "n"])
def test_a_state_of_open_shape_that_grows_is_told_why_it_cannot_be_served(after: str, tmp_path: Path) -> None:
    """A cache that a step makes longer is found by running it, whatever its axes are called; no file would help."""
    text = f"""net (float[batch,2] x, float[batch,past] cache) => (float[batch,2] y, float[batch,{after}] cache_out)
        {{ cache_out = Concat <axis = 1> (cache, x)  y = Neg (x) }}"""
    refuse(text_model(text), tmp_path, r"'cache' grows: .*Each session's state is held in a slot of fixed size")


def test_a_state_of_open_shape_is_refused_unless_given(tmp_path: Path) -> None:
    """A state whose size is fixed nowhere is refused; --initial gives its size."""
    text = """net (float[batch,2] x, float[batch,width] buf) => (float[batch,2] y, float[batch,width] buf_out)
        { axis = Constant <value = int64[1] {1}> ()
          m = ReduceMean <axes = [1], keepdims = 1> (x)
          buf_out = Add (buf, m)
          s = ReduceMean <axes = [1], keepdims = 1> (buf_out)
          y = Add (x, s) }"""
    refuse(text_model(text), tmp_path, r"'width'.*--initial FILE")
    (tmp_path / "start.json").write_text('{"buf": [0, 0.5, 1]}')
    card, _ = adopted(text_model(text), tmp_path, initial=tmp_path / "start.json")
    assert card.states[0].shape == (3,)


def test_a_model_without_inputs_for_clients_is_refused(tmp_path: Path) -> None:
    """If everything would be a state there is nothing to send."""
    text = "net (float[batch,2] h) => (float[batch,2] h_out) { h_out = Tanh (h) }"
    refuse(text_model(text), tmp_path, "none is left for clients")


def test_types_that_cannot_be_served_are_refused(tmp_path: Path) -> None:
    """Strings, sequences and unsigned bytes are named with the tensor that has them."""
    refuse(text_model("net (string[batch] x) => (string[batch] y) { y = Identity (x) }"), tmp_path, "'x' is of a type")
    refuse(text_model("net (uint8[batch] x) => (uint8[batch] y) { y = Identity (x) }"), tmp_path, "'x' is of a type")
    refuse(
        text_model("net (seq(float[2]) x) => (float[n] y) { y = ConcatFromSequence <axis = 0> (x) }"),
        tmp_path,
        "'x' is no tensor but a sequence",
    )


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """A model that gives NaN on any random input is not adopted."""
    text = "net (float[batch,2] x) => (float[batch,2] y) { z = Sub (x, x)  y = Div (z, z) }"
    refuse(text_model(text), tmp_path, "'y' is not finite")
    refuse(text_model(text.replace("Div (z, z)", "Div (x, z)")), tmp_path, "'y' is not finite")


SATURATED = """net (float[batch,time,4] x, float[1,batch,5] h0, float[1,batch,5] c0)
    => (float[time,batch,5] y, float[1,batch,5] hn, float[1,batch,5] cn)
    { major = Transpose <perm = [1, 0, 2]> (x)
      WT = Transpose <perm = [0, 2, 1]> (V)
      Y, hn, cn = LSTM <hidden_size = 5> (major, WT, R, , , h0, c0)
      one = Constant <value = int64[1] {1}> ()
      y = Squeeze (Y, one) }"""


@pytest.mark.parametrize(("name", "value"), [("V", np.inf), ("R", -np.inf), ("R", np.nan)])
def test_weights_that_are_not_finite_are_refused(name: str, value: float, tmp_path: Path) -> None:
    """Infinity in a layer's weights is refused like NaN, though gates that it saturates give finite outputs."""
    model = ForeignGraph(SATURATED, {}, {}, weights={"V": (1, 4, 20), "R": (1, 20, 5)}).model()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values[0, 3, 2] = value
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    refuse(model, tmp_path, f"the weight '{name}' holds {'NaN' if np.isnan(value) else 'infinity'}")


def step_of(nodes: str) -> ModelProto:
    return text_model(f"net (float[b,4] x, float[b,4] h) => (float[b,4] y, float[b,4] hn) {{ {nodes} y = Tanh (hn) }}")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("z = Elu <alpha = nan> (x)  hn = Add (z, h)", "'alpha' of the node 'z' holds NaN"),
        ("z = LeakyRelu <alpha = -inf> (x)  hn = Add (z, h)", "'alpha' of the node 'z' holds infinity"),
        (
            "q = Constant <value_float = nan> ()  c = Greater (x, q)  w = Where (c, x, h)  hn = Add (h, w)",
            "'value_float' of the node 'q' holds NaN",
        ),
        (
            "q = Constant <value_floats = [1.0, nan, 2.0, 3.0]> ()  c = Greater (x, q)  hn = Where (c, x, h)",
            "'value_floats' of the node 'q' holds NaN",
        ),
    ],
)
def test_settings_that_are_not_finite_are_refused(nodes: str, words: str, tmp_path: Path) -> None:
    """Numbers in a node's attributes are checked too, though the runs may not show them."""
    refuse(step_of(nodes), tmp_path, words)


@pytest.mark.parametrize("low", ["q = Constant <value_float = -inf> ()", "q = Constant <value_floats = [-inf]> ()"])
def test_a_constant_may_be_infinite(low: str, tmp_path: Path) -> None:
    """The start value of a maximum may be minus infinity."""
    card, _ = adopted(step_of(f"{low}  z = Max (x, q)  hn = Add (z, h)"), tmp_path)
    assert card.states[0].name == "h"


def test_the_weights_of_an_einsum_are_weights(tmp_path: Path) -> None:
    """Infinity is found before the model is run, whichever product it is a factor of."""
    text = """net (float[batch,2] x) => (float[batch,2] y)
        <float[2,2] W = {1, 1, 9, 1}> { y = Einsum <equation = "bi,ij->bj"> (x, W) }"""
    model = text_model(text)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([[1, 1], [np.inf, 1]], np.float32), "W"))
    refuse(model, tmp_path, "the weight 'W' holds infinity")


def test_a_mask_may_hold_infinity(tmp_path: Path) -> None:
    """Constants that are added or compared, as an attention's mask is, keep their infinities."""
    text = """net (float[batch,3] x, float[batch,3] h) => (float[batch,3] y, float[batch,3] h_out)
        { h_out = Max (x, h, low)  sum = Add (h_out, mask)  y = Softmax (sum) }"""
    model = text_model(text)
    for name, values in (("low", [-np.inf]), ("mask", [0.0, 0.5, -np.inf])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), name))
    card, _ = adopted(model, tmp_path)
    assert card.states[0].name == "h"


def test_a_model_that_needs_positive_inputs_is_adopted(tmp_path: Path) -> None:
    """Where normal random inputs give no finite output, positive ones are tried."""
    text = """net (float[batch,2] x, float[batch,2] h) => (float[batch,2] y, float[batch,2] h_out)
        { y = Sqrt (x)  h_out = Add (h, y) }"""
    card, _ = adopted(text_model(text), tmp_path)
    assert card.states[0].name == "h"


def test_a_constant_is_checked_against_its_input(tmp_path: Path) -> None:
    """A constant of another shape, or that an integer cannot hold, is refused."""
    model = ZOO["if_on_a_constant"].model()
    refuse(model, tmp_path, "does not fit", "--constant", "sr=[1, 2]")
    refuse(model, tmp_path, "cannot be held as int64", "--constant", "sr=1.5")


def test_a_version_that_exists_needs_force(tmp_path: Path) -> None:
    """An artefact is replaced with --force only, and a bad folder is named."""
    file = write(ZOO["stateless"].model(), tmp_path / "foreign.onnx")
    assert invoke("adopt", file, "--out", tmp_path / "m/1").exit_code == 0
    assert "exists already" in invoke("adopt", file, "--out", tmp_path / "m/1").stderr
    assert invoke("adopt", file, "--out", tmp_path / "m/1", "--force").exit_code == 0
    assert "positive integer" in invoke("adopt", file, "--out", tmp_path / "m/latest").stderr


def test_weights_of_another_model_give_another_digest(tmp_path: Path) -> None:
    """The card's digest tells two sets of weights apart."""
    model = ZOO["stateless"].model()
    (tmp_path / "a").mkdir()
    first, _ = adopted(model, tmp_path / "a")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 5), np.float32), "Wx"))
    (tmp_path / "b").mkdir()
    second, _ = adopted(model, tmp_path / "b")
    assert first.weights_sha256 != second.weights_sha256


def test_one_name_for_two_sizes_is_no_obstacle(tmp_path: Path) -> None:
    """Where a file gives the batch and another axis one name, the runs decide."""
    text = """net (float[n,n,3] x, float[1,n,3] h) => (float[n,n,3] y, float[1,n,3] h_out)
        { Y, h_out = RNN <hidden_size = 3> (x, W, R, , , h)
          one = Constant <value = int64[1] {1}> ()
          y = Squeeze (Y, one) }"""
    card, _ = adopted(ForeignGraph(text, {}, {}, weights={"W": (1, 3, 3), "R": (1, 3, 3)}).model(), tmp_path)
    assert card.max_batch > 1


def test_the_original_need_not_name_its_axes(tmp_path: Path) -> None:
    """Axes without a name are settled by runs alone."""
    model = ZOO["time_first_batch_second"].model()
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.Clear()
    card, findings = adopted(model, tmp_path)
    assert card.max_batch > 1
    assert any("several steps at once" in line for line in findings)
