"""What the owner of a file decides or is told: --frame-by-frame, --explain, warnings, and files of other formats."""

import io
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from typer.testing import CliRunner, Result

from export.__main__ import app
from export.adopt.errors import NotCausalError, NotServableError, UnsafeFileError
from export.adopt.foreign_file import read_foreign
from export.adopt.foreign_model import port_of
from tests.export.served import adopted, graph, reference, streamed
from tests.export.zoo import ZOO, write


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


LOOK_AHEAD = """net (float[n,t,4] x) => (float[n,t,4] y)
    { narrow = Transpose <perm = [0, 2, 1]> (x)  wide = Conv <pads = [0, 2]> (narrow, K)
      y = Transpose <perm = [0, 2, 1]> (wide) }"""
MEAN = "net (float[n,t,4] x) => (float[n,t,4] y) { m = ReduceMean <axes = [1]> (x)  y = Sub (x, m) }"
FAR_AHEAD = LOOK_AHEAD.replace("pads = [0, 2]", "dilations = [25], pads = [0, 50]")


@pytest.mark.parametrize("text", [LOOK_AHEAD, MEAN, FAR_AHEAD])
def test_frame_by_frame_settles_what_whole_and_stepwise_differ_in(text: str, tmp_path: Path) -> None:
    """Refused without the option; with it each step is what the original gives for that step, and the card says so."""
    model = graph(text, K=(4, 4, 3))
    with pytest.raises(NotCausalError, match="--frame-by-frame"):
        adopted(model, tmp_path)
    artefact, card, findings = adopted(model, tmp_path, frame_by_frame=True)
    assert "served frame by frame, as --frame-by-frame says" in findings[-1]
    assert card.config["findings"][-1] == findings[-1]
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    expected = np.concatenate([reference(model, {"x": row[None, None]})["y"][0] for row in x])
    np.testing.assert_allclose(streamed(artefact, {"x": x})["y"], expected, atol=1e-6)


def test_frame_by_frame_says_nothing_where_nothing_differs(tmp_path: Path) -> None:
    """The option of a file whose steps are right adds no finding."""
    _, _, findings = adopted(ZOO["scan"].model(), tmp_path, frame_by_frame=True)
    assert not any("frame by frame" in line for line in findings)


def test_explain_prints_and_writes_nothing(tmp_path: Path) -> None:
    """States, figures and what would be served are printed; no file or folder is made, and --out is not asked for."""
    file = write(ZOO["fifo"].model(), tmp_path / "foreign.onnx")
    result = invoke("adopt", "--explain", file)
    assert result.exit_code == 0, result.output
    for words in ("state cache ← cache_out", "one_step_at_a_time", "nothing was written", "max_batch 256 and 1 state"):
        assert words in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["foreign.onnx"]


def test_explain_tells_why_a_file_is_refused(tmp_path: Path) -> None:
    """What was found is printed, the reason is a sentence on stderr, and the exit status is 1."""
    file = write(graph(MEAN), tmp_path / "foreign.onnx")
    result = invoke("adopt", "--explain", file)
    assert result.exit_code == 1
    assert "no state" in result.stdout
    assert "depends on later ones: ReduceMean 'm' takes all steps" in result.stderr


def test_without_explain_a_folder_is_needed(tmp_path: Path) -> None:
    """The usage error names --out."""
    file = write(ZOO["fifo"].model(), tmp_path / "foreign.onnx")
    assert "--out" in invoke("adopt", file).output


WINDOWS = {
    "Conv": "wide = Unsqueeze (x, one)  c = Conv (wide, K)  y = ReduceMean <axes = [1, 2], keepdims = 0> (c)",
    "STFT": """frames = STFT <onesided = 1> (x, hop, , size)
        y = ReduceMean <axes = [1, 2, 3], keepdims = 0> (frames)""",
    "MaxPool": """wide = Unsqueeze (x, one)  c = MaxPool <kernel_shape = [3]> (wide)
        y = ReduceMean <axes = [1, 2], keepdims = 0> (c)""",
}


@pytest.mark.parametrize("operator", WINDOWS)
def test_a_step_without_an_overlap_before_a_window_is_warned_of(operator: str, tmp_path: Path) -> None:
    """A convolution or an STFT that reads a step first computes from values that the step before held."""
    text = f"""net (float[batch,samples] x) => (float[batch] y)
        {{ one = Constant <value = int64[1] {{1}}> ()  hop = Constant <value = int64 {{8}}> ()
          size = Constant <value = int64 {{16}}> ()  {WINDOWS[operator]} }}"""
    _, card, findings = adopted(graph(text, K=(2, 1, 3)), tmp_path, steps=["x=64"])
    (warning,) = (line for line in findings if line.startswith("warning"))
    assert operator in warning
    assert "--overlap x:SAMPLES" in warning
    assert warning in card.config["findings"]


def test_a_product_over_a_step_is_not_warned_of(tmp_path: Path) -> None:
    """A matrix product takes its window as a whole."""
    text = "net (float[batch,samples] x) => (float[batch,1] y) { y = MatMul (x, K) }"
    _, _, findings = adopted(graph(text, K=(64, 1)), tmp_path, steps=["x=64"])
    assert not any(line.startswith("warning") for line in findings)


def archive(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return data.getvalue()


OTHERS = {
    "TorchScript": (archive("m/code/a.py", "m/constants.pkl", "m/data.pkl"), "TorchScript file.*torch.onnx.export"),
    "weights": (archive("m/data.pkl", "m/version"), "a pickle.*export module"),
    "old weights": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "a pickle.*torch.onnx.export"),
    "program": (archive("m/archive_format", "m/models/model.json"), "torch.export.save"),
    "Keras": (archive("config.json", "model.weights.h5"), "a Keras file"),
    "Keras HDF5": (b"\x89HDF\r\n\x1a\n\0\0", "an HDF5 file"),
    "archive": (archive("model.onnx"), "a zip archive"),
    "ORT": (b"\x18\0\0\0ORTM\0\0\0\0", "ORT format.*the .onnx file"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite"),
    "safetensors": (b"\x02\0\0\0\0\0\0\0{}", "safetensors.*no graph"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_format_is_named(name: str, tmp_path: Path) -> None:
    """One sentence says what the file is and what to do; no code from it is run."""
    data, words = OTHERS[name]
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(UnsafeFileError, match=words):
        read_foreign(tmp_path / "model.onnx")


def test_what_torch_and_onnxruntime_write_is_named(tmp_path: Path) -> None:
    """Files of the real writers: torch.save, and onnxruntime's ORT format."""
    torch.save({"w": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(UnsafeFileError, match="a pickle"):
        read_foreign(tmp_path / "weights.pt")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(ZOO["fifo"].model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    with pytest.raises(UnsafeFileError, match="ORT format"):
        read_foreign(tmp_path / "model.ort")


def test_complex_numbers_are_named() -> None:
    """An input of complex numbers is told what to be instead."""
    value = helper.make_tensor_value_info("s", TensorProto.COMPLEX64, ["batch", 4])
    with pytest.raises(NotServableError, match=r"complex numbers.*real and imaginary"):
        port_of(value, "input")
