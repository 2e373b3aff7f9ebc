"""What keeps a user's module from being exported is told in one sentence, and nothing else is printed or written."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from export.__main__ import app
from export.artefact import read_card
from tests.export import odd_modules

STEPS_FOR_ROWS = "it takes the steps for rows"
FOLDED = "folded into the batch cannot be carried"
CHANGES = "gives something else when it is run again on the same input"

REFUSED = {
    "BatchFirstForgotten": f"layer runs over 3 rows where the example has 2 rows of 3 steps: {STEPS_FOR_ROWS}",
    "StackForgotten": STEPS_FOR_ROWS,
    "ProjectedTimeFirst": STEPS_FOR_ROWS,
    "GRUForgotten": STEPS_FOR_ROWS,
    "Bands": f"layer runs over 8 rows where the example has 2 rows of 3 steps: the states of rows that are {FOLDED}",
    "FoldedCell": FOLDED,
    "Unbatched": "layer is given [1, 4], which has no batch axis",
    "Packed": "layer runs over a packed sequence",
    "Exits": "does not run on (2, 3, 4), as it must on any number of rows and steps: SystemExit: 7",
    "ExitsLater": "SystemExit: 5",
    "Asserts": "any number of rows and steps: AssertionError: odd_modules.py:",
    "ShortTable": "does not run on (1, 24, 4), as it must on any number of rows and steps: IndexError",
    "Squeezes": "'y' has the shape [2, 3] for 2 rows of 3 steps, [4, 5] for 4 rows of 5 steps, [] for 1 row of 1 step",
    "Lazy": "'head.weight' has no shape yet",
    "Meta": "Cannot copy out of meta tensor",
    "NoEval": "out of training: ValueError: always in training",
    "NoCopy": "the module cannot be copied, as it must be to be exported: TypeError",
    "Derived": "the module cannot be copied, as it must be to be exported: RuntimeError",
    "Sparse": "'few' is sparse",
    "NoForward": "forward cannot be called",
    "ExtraState": "'_extra_state' of its state_dict is a dict and no tensor",
    "OwnObject": "returns a SimpleNamespace, in which there is no tensor",
    "NamedAsState": "'layer.h' has the name of one of its inputs or states",
    "Noise": CHANGES,
    "Remembers": CHANGES,
    "Normalised": "remove_parametrizations",
    "NormalisedByHooks": "remove_weight_norm",
    "Chooses": "or choose by a tensor's value in odd_modules.py:",
    "FlipsOneStep": "layer is given [2, 1, 4], time first, where the example has 2 rows",
    "Complex": "torch cannot export the module: Exporting the operator 'aten::complex'",
}


def invoke(name: str, out: Path, *args: object, example: str = "1x20x4") -> Result:
    words = ["module", f"{odd_modules.__name__}:{name}", "--example", example, "--out", out / "m/1", *args]
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def assert_refused(result: Result, words: str, out: Path) -> None:
    """Check that one sentence with these words was all there was."""
    assert result.exit_code == 1, result.output
    assert words in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
    assert not (out / "m").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_is_refused_in_one_sentence(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It says what and where; neither torch nor the module's own code prints anything, in Python or below it."""
    assert_refused(invoke(name, tmp_path), REFUSED[name], tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_layer_that_takes_the_batch_first_is_refused_what_has_the_time_first(tmp_path: Path) -> None:
    """--time-first for a module that is batch first is told, before any layer writes beyond its states."""
    assert_refused(invoke("Base", tmp_path, "--time-first", example="20x1x4"), STEPS_FOR_ROWS, tmp_path)


def write_weights(folder: Path) -> None:
    good = odd_modules.Base().state_dict()
    torch.save(good, folder / "good.pt")
    torch.save({**good, "layer.bias_hh_l0": torch.zeros(15, dtype=torch.complex64)}, folder / "complex.pt")
    torch.save({"model_state_dict": good, "epoch": 3}, folder / "checkpoint.pt")
    torch.save({f"module.{name}": value for name, value in good.items()}, folder / "parallel.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "scripted.pt")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("Base", "complex.pt", "'layer.bias_hh_l0' is complex"),
        ("Base", "checkpoint.pt", "save what stands under 'model_state_dict' alone"),
        ("Base", "parallel.pt", "begins with 'module.'"),
        ("Base", "scripted.pt", "is TorchScript, compiled code"),
        ("Base", ".", "is no file"),
        ("NoLoad", "good.pt", "cannot be loaded: KeyError: 'layer.weight'"),
    ],
)
def test_odd_weights_are_refused_in_one_sentence(
    name: str,
    file: str,
    words: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """It says what is wrong, and what to save where that can be told; torch's own warnings are not shown."""
    write_weights(tmp_path)
    assert_refused(invoke(name, tmp_path, "--weights", tmp_path / file), words, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["Keywords", "Prints", "Fields", "ConvTail"])
def test_an_odd_module_is_exported(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """What can be carried is, and what the module prints is not shown."""
    result = invoke(name, tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "of the user's" not in result.stdout
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")
    assert max(read_card(tmp_path / "m/1/model.onnx").parity.errors.values()) <= 1e-5


def test_a_state_beside_the_layers_own_is_taken_and_returned(tmp_path: Path) -> None:
    """Where the layers' states are not all that is carried, the state that forward takes and returns is."""
    assert "forward takes and returns its state: state0, state1" in invoke("ConvTail", tmp_path).stdout
    assert [spec.shape for spec in read_card(tmp_path / "m/1/model.onnx").states] == [(4, 2), (1, 5)]


def test_the_fields_of_a_dataclass_name_the_outputs(tmp_path: Path) -> None:
    """A dataclass is taken like a dictionary."""
    assert invoke("Fields", tmp_path).exit_code == 0
    assert [spec.name for spec in read_card(tmp_path / "m/1/model.onnx").outputs] == ["score", "rest_y0"]


def test_rounding_is_not_called_looking_ahead(tmp_path: Path) -> None:
    """A tolerance below what float32 can hold allows what float32 is off by itself, and the table says both."""
    result = invoke("Base", tmp_path, "--tolerance", "1e-9")
    assert result.exit_code == 0, result.output
    assert "float32 itself" in result.stdout
    parity = read_card(tmp_path / "m/1/model.onnx").parity
    assert 1e-9 < max(parity.errors.values()) < 8 * parity.float32 < 1e-5
