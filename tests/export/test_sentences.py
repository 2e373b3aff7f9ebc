"""Whatever an option, a file or another library says, one printable line is printed, and the exit status is 1."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from export.__main__ import app
from export.sentences import clipped, foreign_error, printable
from tests.export.zoo import ZOO, write

DEEP = "[" * 100_000
LONG = "9" * 5_000


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


def assert_one_sentence(result: Result, words: str) -> None:
    assert result.exit_code == 1, result.output
    assert words in result.stderr
    assert result.stderr.removesuffix("\n").isprintable(), result.stderr
    assert len(result.stderr) < 700


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tolerance", "0"], "the tolerance must lie between 0 and 1"),
        (["--tolerance", "1"], "the tolerance must lie between 0 and 1"),
        (["--tolerance", "nan"], "the tolerance must lie between 0 and 1"),
        (["--step", "x=99999999999999999999"], "expected a whole number from 1"),
        (["--step", "x=99999x99999"], "at most 16,777,216 values"),
        (["--step", f"x={LONG}"], "expected a whole number from 1"),
        (["--overlap", "x:99999999999999999999"], "expected a whole number from 1"),
        (["--overlap", f"x:{LONG}"], "expected a whole number from 1"),
        (["--step", "x=\uff14"], "expected a whole number from 1"),
        (["--state", "hx=hx_out", "--state", "hx="], "--state hx=: hx is settled by an earlier --state"),
        (["--step", "x=4", "--step", "x=5"], "--step x=5: x is settled by an earlier --step"),
        (["--batch-axis", f"x:{LONG}"], "expected a whole number from 0"),
        (["--constant", f"x={LONG}"], "is no number"),
        (["--constant", f"x={DEEP}"], "is no number"),
        (["--state", "\x1b[31m\n=y"], "no such input"),
    ],
)
def test_extreme_options_of_adopt(options: list[str], words: str, tmp_path: Path) -> None:
    """A number or a nesting that no model has is reported in one sentence."""
    file = write(ZOO["the_state_is_the_output"].model(), tmp_path / "foreign.onnx")
    assert_one_sentence(invoke("adopt", file, "--out", tmp_path / "m/1", *options), words)
    assert not (tmp_path / "m").exists()


def test_a_file_nested_too_deep(tmp_path: Path) -> None:
    """--initial refuses what Python cannot read."""
    file = write(ZOO["the_state_is_the_output"].model(), tmp_path / "foreign.onnx")
    (tmp_path / "deep.json").write_text('{"h": ' + DEEP)
    result = invoke("adopt", file, "--out", tmp_path / "m/1", "--initial", tmp_path / "deep.json")
    assert_one_sentence(result, "cannot be read")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04" + b"\0" * 40)
    result = invoke("adopt", file, "--out", tmp_path / "m/1", "--initial", tmp_path / "half.npz")
    assert_one_sentence(result, "cannot be read")


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ("1x20x8:int64:0", "at least 1 id"),
        (f"1x20x{LONG}", "more than 9 digits"),
        (f"1x20:int64:{LONG}", "more than 9 digits"),
        ("1x20x99999x99999", "at most 16,777,216 values"),
    ],
)
def test_extreme_examples(example: str, words: str, tmp_path: Path) -> None:
    """So is an example that no module takes."""
    result = invoke("module", "torch.nn:Identity", "--example", example, "--out", tmp_path / "m/1")
    assert_one_sentence(result, words)
    assert json.dumps(words) not in result.stdout


def test_foreign_text_is_one_printable_line() -> None:
    """White space is one space, an escape code a mark, and an ellipsis ends what is too long."""
    assert printable("a\n\tb\x1b[31m c") == "a b\ufffd[31m c"
    assert clipped("x" * 90) == "x" * 79 + "…"


def test_the_runtimes_own_marks_are_left_out() -> None:
    """Codes and source files of onnxruntime are left out."""
    said = (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Reshape node. "
        "Name:'r' Status Message: /onnxruntime_src/onnxruntime/core/providers/cpu/tensor/reshape_helper.h:47 "
        "onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, onnxruntime::TensorShapeVector&, "
        "bool) input_shape_size == size was false. The input tensor cannot be reshaped"
    )
    told = foreign_error(RuntimeError(said))
    reason = "input_shape_size == size was false. The input tensor cannot be reshaped"
    assert told == f"Reshape 'r': {reason}"
    assert foreign_error(RuntimeError(said.replace("'r'", "''"))) == f"Reshape: {reason}"
