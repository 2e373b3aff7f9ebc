"""A user's torch module is exported with its recurrent layers' states explicit, or refused with a sentence."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner, Result

from export import ExportOptions
from export.__main__ import app
from export.artefact import read_card
from export.errors import ParityError
from export.module import Example, ModuleError, export_module
from export.reference import Answer, Rows
from export.verify import compare
from models.card import ModelCard
from tests.export import user_modules
from tests.export.user_modules import (
    Bidirectional,
    CellLoop,
    EncoderState,
    LastOnly,
    LooksAhead,
    NormalisedCell,
    OwnCells,
    OwnMaths,
    Projected,
    Residual,
    Tagger,
    TimeMajor,
    Tokens,
    Twice,
    TwoRates,
)

SHAPES: dict[type[nn.Module], tuple[list[str], dict[str, Any]]] = {
    Tagger: (["1x20x6"], {"at_once": True, "states": 4}),
    TimeMajor: (["20x1x4"], {"at_once": True, "states": 1, "time_first": True}),
    Projected: (["1x20x5"], {"at_once": True, "states": 4, "outputs": ["y0"]}),
    LastOnly: (["1x9x3"], {"at_once": False, "states": 1}),
    CellLoop: (["1x9x4"], {"at_once": False, "states": 3}),
    TwoRates: (["1x9x4", "1x9x3"], {"at_once": True, "states": 4, "outputs": ["score", "hidden"]}),
    Tokens: (["1x9:int64:30"], {"at_once": True, "states": 2}),
    Residual: (["1x9x6"], {"at_once": True, "states": 3}),
    OwnCells: (["1x9x3"], {"at_once": False, "states": 1}),
    NormalisedCell: (["1x9x3"], {"at_once": False, "states": 2}),
    OwnMaths: (["1x9x3"], {"at_once": False, "states": 2, "outputs": ["y0"]}),
}


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return kind()


def exported(module: nn.Module, folder: Path, *shapes: str, time_first: bool = False) -> tuple[ModelCard, list[str]]:
    findings: list[str] = []
    examples = [Example.parse(text, time_first=time_first) for text in shapes]
    path = export_module(module, examples, folder, "mine", 1, ExportOptions(on_finding=findings.append))
    return read_card(path), findings


@pytest.mark.parametrize("kind", SHAPES, ids=lambda kind: kind.__name__)
def test_a_module_is_exported_as_users_write_it(kind: type[nn.Module], tmp_path: Path) -> None:
    """Whatever is around the recurrent layers, the artefact equals the module on whole sequences, to 1e-5."""
    shapes, expected = SHAPES[kind]
    card, findings = exported(made(kind), tmp_path, *shapes, time_first=expected.get("time_first", False))
    assert max(card.parity.errors.values()) <= 1e-5
    assert {"one_step_at_a_time", "whole_sequence", "random_chunks", "steps_with_strangers"} <= set(card.parity.errors)
    assert len(card.states) == expected["states"]
    assert [spec.name for spec in card.outputs] == expected.get("outputs", ["y"])
    assert ("several steps run at once" in findings) == expected["at_once"]
    assert card.max_batch == 256
    assert not any("tensor's value" in line for line in findings)


class ReturnsStates(nn.Module):
    """A layer's last states beside the output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 6), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y, (h, c) = self.lstm(x)
        return {"y": self.head(y), "h": h, "c": c}


def test_states_that_are_returned_are_told(tmp_path: Path) -> None:
    """Last states that forward returns are no outputs, which is said."""
    card, findings = exported(made(ReturnsStates), tmp_path, "9x1x2", time_first=True)
    assert [spec.name for spec in card.outputs] == ["y"]
    assert any(text.startswith("h, c, which forward returns: the last states of its layers") for text in findings)


def test_ids_are_bounded_by_the_table_they_choose_from(tmp_path: Path) -> None:
    """The card says how many ids there are, so that the service refuses others."""
    card, _ = exported(made(Tokens), tmp_path, "1x9:int64:30")
    assert (card.inputs[0].dtype, card.inputs[0].vocabulary) == ("int64", 30)


@pytest.mark.parametrize(
    "large",
    [
        lambda y: y.abs().max() > 50,
        lambda y: torch.equal(y, torch.full_like(y, 50)),
        lambda y: y.allclose(torch.full_like(y, 50)),
    ],
    ids=["greater", "equal", "allclose"],
)
def test_a_branch_on_a_value_is_told(large: Callable[[torch.Tensor], bool], tmp_path: Path) -> None:
    """A choice by a tensor's value, which no comparison can rule out, is printed with its line."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.gru(x)[0]
            return 2 * y if large(y) else y

    _, findings = exported(Branching(), tmp_path, "1x9x3")
    assert any(re.match(r"test_module\.py:\d+: does something with a tensor's value", line) for line in findings)


def test_a_learned_initial_state_is_kept(tmp_path: Path) -> None:
    """The state before the first step is the one the module starts from."""
    card, _ = exported(made(CellLoop), tmp_path, "1x9x4")
    initial = {state.name: state.initial for state in card.states}
    assert initial["first.h"] == pytest.approx(0.3)
    assert initial["first.c"] == pytest.approx(np.linspace(-1, 1, 6), abs=1e-6)
    assert initial["second.h"] == 0.0


def test_a_projected_initial_state_is_kept(tmp_path: Path) -> None:
    """An LSTM with a projection may start from an `h` that is not zero."""

    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 8, proj_size=2, batch_first=True)
            self.h = nn.Parameter(torch.tensor([0.4, -0.2]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.h.expand(1, x.shape[0], 2)
            y: torch.Tensor = self.lstm(x, (h, torch.zeros(1, x.shape[0], 8)))[0]
            return y

    card, _ = exported(made(Started), tmp_path, "1x9x3")
    assert max(card.parity.errors.values()) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Bidirectional, "lstm is bidirectional"),
        (LooksAhead, "may look ahead"),
        (EncoderState, "gru starts from a state that depends on the input"),
        (Twice, "gru is called 2 times in one step"),
    ],
)
def test_a_module_that_cannot_be_streamed_is_refused(kind: type[nn.Module], words: str, tmp_path: Path) -> None:
    """What reads the future, or carries what cannot be kept, is refused with the layer's name."""
    with pytest.raises(ModuleError, match=words):
        exported(made(kind), tmp_path / "out", "1x9x3")
    assert not (tmp_path / "out").exists()


def test_a_module_of_other_shapes_is_refused(tmp_path: Path) -> None:
    """An example that the module does not take is named, and so is one too many."""
    with pytest.raises(ModuleError, match=r"does not run on \(2, 3, 7\)"):
        exported(made(Tagger), tmp_path, "1x20x7")
    with pytest.raises(ModuleError, match="cannot be called with 2 examples"):
        exported(made(Tagger), tmp_path, "1x20x6", "1x20x6")


def test_the_card_says_why_rows_run_one_at_a_time(tmp_path: Path) -> None:
    """A module whose rows move each other runs a row at a time, and the card says which output shows it."""

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.gru(x)[0]
            return y * (1 + y.mean(0, keepdim=True))

    card, findings = exported(made(Mixing), tmp_path, "1x9x3")
    assert card.max_batch == 1
    assert "so max_batch is 1: a row's output 'y' depends on the other rows of its batch" in findings[-1]
    assert card.config["findings"] == [findings[-1]]


def test_the_modules_own_weights_are_left_alone(tmp_path: Path) -> None:
    """Export changes neither the module's weights nor how it runs."""
    module = made(CellLoop)
    x = torch.ones(2, 5, 4)
    before = module(x).detach()
    exported(module, tmp_path, "1x9x4")
    assert torch.equal(module(x).detach(), before)


def test_a_wrong_answer_is_noticed(tmp_path: Path) -> None:
    """The comparison fails for an artefact of other weights."""
    card, _ = exported(made(Tagger), tmp_path, "1x20x6")
    data = (tmp_path / "mine/1/model.onnx").read_bytes()

    class Other:
        def draw(self, length: int) -> Rows:
            return {"x": np.random.default_rng(0).normal(size=(1, length, 6)).astype(np.float32)}

        def answer(self, inputs: Rows) -> Answer:
            return Answer({"y": np.zeros((1, inputs["x"].shape[1], 3), np.float32)}, {})

    with pytest.raises(ParityError, match="one_step_at_a_time"):
        compare(Other(), data, card, tolerance=1e-5)


# ---------------------------------------------------------------------- the command


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".checkpoint.pt"])
def test_the_command_loads_weights(suffix: str, tmp_path: Path) -> None:
    """Weights come from a .safetensors file, or a .pt file with a state_dict, alone or under that name."""
    module = made(Tagger)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(module.state_dict(), file)
    else:
        state = module.state_dict()
        torch.save({"state_dict": state, "epoch": 3} if "checkpoint" in suffix else state, file)
    factory = f"{user_modules.__name__}:Tagger"
    result = invoke("module", factory, "--weights", file, "--example", "1x20x6", "--out", tmp_path / "m/1")
    assert result.exit_code == 0, result.output
    assert "lstm: 2 layers, carried from step to step" in result.stdout
    card, _ = exported(module, tmp_path, "1x20x6")
    assert read_card(tmp_path / "m/1/model.onnx").weights_sha256 == card.weights_sha256


class Payload:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil"),))


def test_bad_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that runs code, a foreign, cut or missing file, other weights, and NaN are refused by a sentence."""
    monkeypatch.chdir(tmp_path)
    state = made(Tagger).state_dict()
    torch.save(state, tmp_path / "good.pt")
    torch.save({"w": Payload()}, tmp_path / "evil.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_bytes(b"not weights")
    torch.save(made(Tokens).state_dict(), tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({1: torch.zeros(2)}, tmp_path / "numbers.pt")
    state["head.bias"][1] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    state["head.bias"][1] = -float("inf")
    torch.save(state, tmp_path / "infinite.pt")
    torch.save({**made(Tagger).state_dict(), "head.bias": state["head.bias"] > 0}, tmp_path / "bool.pt")
    for name, words in {
        "evil.pt": "weights alone",
        "cut.pt": "weights alone",
        "text.safetensors": "weights alone",
        "missing.pt": "no such file",
        "other.pt": "Missing key",
        "list.pt": "state_dict",
        "numbers.pt": "names and tensors",
        "nan.pt": "'head.bias' holds NaN",
        "infinite.pt": "'head.bias' holds infinity",
        "bool.pt": "'head.bias' is of bool",
    }.items():
        factory = f"{user_modules.__name__}:Tagger"
        result = invoke(
            "module", factory, "--weights", tmp_path / name, "--example", "1x9x6", "--out", tmp_path / "m/1"
        )
        assert_one_sentence(result, words)
        assert "\x1b" not in result.stderr
        assert "weights_only" not in result.stderr
        assert not re.search(r"\.\.\.|…|\($", result.stderr)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "m").exists()


def test_a_mask_among_the_buffers_may_hold_infinity(tmp_path: Path) -> None:
    """Infinity is refused in what is trained, and kept in a buffer."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)
            self.register_buffer("mask", torch.tensor([0.0, 0.0, 0.0, -float("inf")]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.gru(x)[0] + self.mask, -1)

    card, _ = exported(made(Masked), tmp_path, "1x9x3")
    assert max(card.parity.errors.values()) <= 1e-5


@pytest.mark.parametrize(
    ("factory", "example", "words"),
    [
        ("tests.export.user_modules", "1x9x6", "PACKAGE.MODULE:FACTORY"),
        ("tests.export.nothing:Tagger", "1x9x6", "No module named"),
        ("tests.export.user_modules:Missing", "1x9x6", "cannot be called"),
        ("tests.export.user_modules:torch.get_num_threads", "1x9x6", "returned a int"),
        ("tests.export.user_modules:Tagger", "six", "BATCHxTIMExFEATURES"),
        ("tests.export.user_modules:Tagger", "1x9x0", "at least 1"),
        ("tests.export.user_modules:Tagger", "1x9x6:complex", "BATCHxTIMExFEATURES"),
    ],
)
def test_bad_arguments_are_refused(factory: str, example: str, words: str, tmp_path: Path) -> None:
    """A factory or an example that cannot be used is reported in a sentence, with status 1."""
    assert_one_sentence(invoke("module", factory, "--example", example, "--out", tmp_path / "m/1"), words)


def assert_one_sentence(result: Result, words: str) -> None:
    assert result.exit_code == 1, result.output
    assert words in result.stderr, result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda net, y: y[:, ::2],
        lambda net, y: y[:, 1:],
        lambda net, y: y.reshape(y.shape[0], -1),
        lambda net, y: (y, torch.tensor(1.0)),
        lambda net, y: {"y": y, "weight": net.weight_hh_l0},
    ],
    ids=["every_second", "all_but_one", "flat", "scalar", "weight"],
)
def test_what_has_no_value_a_step_or_row_is_refused(change: Any, tmp_path: Path) -> None:
    """The sentence names the output and its shapes."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            return change(self.lstm, self.lstm(x)[0])

    with pytest.raises(ModuleError, match=r"has the shape \[.* for 2 rows of 3 steps"):
        exported(Other(), tmp_path, "1x9x3")
    assert not (tmp_path / "mine").exists()
