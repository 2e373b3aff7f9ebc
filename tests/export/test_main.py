import json
from pathlib import Path

import pytest
from safetensors.torch import save_file
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


def test_options_may_come_before_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """Options may come before or after the checkpoint."""
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
    """The help, also shown without arguments, says how to export and how to show."""
    for args in (["--help"], []):
        output = invoke(*args).output
        assert "python -m export CHECKPOINT --out" in output
        assert "show" in output
    assert "--max-batch" in invoke("network", "--help").output


def test_over_the_tolerance_the_status_is_1(checkpoint: Path, tmp_path: Path) -> None:
    """When torch and onnxruntime disagree, the failing comparison is named, nothing is written, and the status is 1."""
    out = tmp_path / "demo" / "1"
    result = invoke(checkpoint, "--out", out, "--dtype", "float16", "--tolerance", "1e-12")
    assert_one_sentence(result, 1, "one_step_at_a_time")
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


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("1", "does not say which model and which version"),
        ("", "does not say which model and which version"),
        ("m/x", "must be the version, a positive integer, and is 'x'"),
        ("m/0", "must be the version, a positive integer, and is '0'"),
        ("…/x", "must be the version, a positive integer, and is 'x'"),
        ("…/1", "'…' cannot be a model's name"),
        ("m/1000000000000000000", "the version has 19 digits, and the service reads no more than 18"),
        ("m/" + "9" * 5000, "the version has 5000 digits"),
    ],
)
@pytest.mark.parametrize("command", ["network", "adopt", "module", "chain"])
def test_a_bad_folder_is_told_with_an_example(
    command: str, out: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--out that names no model and version the service would read is refused before anything is read or written."""
    monkeypatch.chdir(tmp_path)
    of = {
        "network": ["network", "missing"],
        "adopt": ["adopt", "missing"],
        "chain": ["chain", "missing", "more"],
        "module": ["module", "no.thing:Here", "--example", "1x2x3"],
    }
    result = invoke(*of[command], "--out", out)
    assert_one_sentence(result, 2 if command == "network" else 1, words)
    assert "expected artifacts/NAME/VERSION, an integer version, such as artifacts/detector/1" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_module_that_fails_when_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--import of a module that registers no name, or raises anything else, gives a sentence and no traceback."""
    (tmp_path / "nameless.py").write_text("from models.cells import register_cell\nregister_cell(None, None)\n")
    monkeypatch.chdir(tmp_path)
    result = invoke("missing", "--out", "m/1", "--import", "nameless")
    assert result.exit_code == 2
    assert "None cannot be a cell's name" in result.stderr
    assert "Traceback" not in result.output


def test_a_crafted_checkpoint_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A configuration that names a size among the cell's options reaches no constructor."""
    network = make_network(num_layers=1)
    config = network.config.model_dump(mode="json") | {"cell_options": {"input_size": 3}}
    path = tmp_path / "network.safetensors"
    save_file(network.state_dict(), path, metadata={"cellstream.network": json.dumps(config)})
    assert_one_sentence(invoke(path, "--out", tmp_path / "demo/1"), 2, "cell_options.input_size")


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
