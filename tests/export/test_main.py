from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from export.__main__ import app
from export.artefact import read_card
from tests.export.networks import make_network


def invoke(*args: object) -> Result:
    # wide enough that no sentence is broken over two lines
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    make_network(num_layers=1).save(path)
    return path


def test_a_bare_checkpoint_is_exported(checkpoint: Path, tmp_path: Path) -> None:
    """`python -m export CHECKPOINT --out …/NAME/VERSION` writes the artefact and prints the figures."""
    out = tmp_path / "artifacts" / "demo" / "4"
    result = invoke(checkpoint, "--out", out, "--description", "a demonstration", "--max-batch", 8)
    assert result.exit_code == 0, result.output
    assert "one_step_at_a_time" in result.stdout
    card = read_card(out / "model.onnx")
    assert (card.name, card.version, card.description, card.max_batch) == ("demo", 4, "a demonstration", 8)


def test_options_may_stand_before_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """The order of options and checkpoint does not matter."""
    out = tmp_path / "demo" / "1"
    assert invoke("--out", out, checkpoint).exit_code == 0
    assert (out / "model.onnx").is_file()


def test_show_prints_the_card_of_a_whole_file_only(checkpoint: Path, tmp_path: Path) -> None:
    """`show` prints the card, and refuses a damaged file with status 2 and one sentence."""
    out = tmp_path / "demo" / "1"
    invoke(checkpoint, "--out", out)
    result = invoke("show", out / "model.onnx")
    assert result.exit_code == 0
    assert "demo 1" in result.stdout
    assert "layer0.c" in result.stdout
    (out / "model.onnx").write_bytes((out / "model.onnx").read_bytes()[:-1])
    assert_one_sentence(invoke("show", out / "model.onnx"), 2, "checksum")


def test_help_names_both_forms() -> None:
    """Asking for help, or giving nothing, tells how to export and how to show."""
    for args in (["--help"], []):
        output = invoke(*args).output
        assert "python -m export CHECKPOINT --out" in output
        assert "show" in output
    assert "--max-batch" in invoke("network", "--help").output


def test_over_the_tolerance_the_status_is_1(checkpoint: Path, tmp_path: Path) -> None:
    """When torch and onnxruntime disagree, the failing comparison is named, nothing is written, and the status is 1."""
    result = invoke(checkpoint, "--out", tmp_path / "demo" / "1", "--tolerance", "1e-12")
    assert_one_sentence(result, 1, "whole_sequence")
    assert not (tmp_path / "demo").exists()


def test_bad_input_is_answered_in_a_sentence(checkpoint: Path, tmp_path: Path) -> None:
    """A missing, foreign or truncated checkpoint, or a bad folder, gives one sentence on stderr and status 2."""
    out = tmp_path / "demo" / "1"
    assert_one_sentence(invoke(tmp_path / "nothing", "--out", out), 2, "no such file")
    assert_one_sentence(
        invoke(checkpoint, "--out", tmp_path / "demo" / "latest"), 2, "positive integer, and is 'latest'"
    )
    assert_one_sentence(invoke("show", tmp_path), 2, "cannot be read")
    assert invoke(checkpoint).exit_code == 2
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"PK\x03\x04 a zip, perhaps")
    assert_one_sentence(invoke(foreign, "--out", out), 2, "not a whole safetensors file")
    foreign.write_bytes(checkpoint.read_bytes()[:-5])
    assert_one_sentence(invoke(foreign, "--out", out), 2, "not a whole safetensors file")
    assert not out.exists()


def test_an_existing_version_needs_force(checkpoint: Path, tmp_path: Path) -> None:
    """A version that exists is refused with status 2 and replaced with --force."""
    out = tmp_path / "demo" / "1"
    assert invoke(checkpoint, "--out", out).exit_code == 0
    assert_one_sentence(invoke(checkpoint, "--out", out), 2, "exists already")
    assert invoke(checkpoint, "--out", out, "--force").exit_code == 0


def assert_one_sentence(result: Result, status: int, words: str) -> None:
    assert result.exit_code == status, result.output
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output
