"""A state that a module keeps inside, and compiled modules, are refused by a sentence that says what to do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from export.__main__ import app
from export.module import ModuleError
from tests.export.served_module import export, inventory
from tests.export.stateful_modules import FEATURES, WIDTH

ACCEPTED = "forward(x, state=None) → (y, state)"


class Loop(nn.Module):
    """A cell over the steps of a sequence, from a state that a subclass keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(FEATURES, WIDTH)

    def run(self, x: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs = []
        for step in x.unbind(1):
            h = self.cell(step, h)
            outputs.append(h)
        return torch.stack(outputs, 1), outputs[-1]


class Attribute(Loop):
    """It keeps self.h."""

    def __init__(self) -> None:
        super().__init__()
        self.h: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, self.h = self.run(x, self.h)
        return y


class Private(Loop):
    """It keeps an attribute that it makes as it first runs."""

    def forward(self, x: Tensor) -> Tensor:
        y, self._memory = self.run(x, getattr(self, "_memory", None))
        return y


class Replaced(Loop):
    """It keeps a buffer for one row, which it replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y, self.memory = self.run(x, self.memory.expand(len(x), -1) if len(self.memory) == 1 else self.memory)
        return y


class InPlace(Loop):
    """It keeps a buffer for one row, which it writes into."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.run(x, self.memory)
        self.memory.copy_(h)
        return y


class Listed(Loop):
    """It keeps a list of what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.mean())
        return self.run(x, None)[0] + torch.stack(self.seen).sum()


class Dictionary(Loop):
    """It keeps a dictionary, which it writes into."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        y, self.cache["h"] = self.run(x, self.cache.get("h"))
        return y


class Counter(Loop):
    """It counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.run(x, None)[0] / self.calls


class Inside(nn.Module):
    """A part of it keeps its state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(FEATURES, FEATURES), Attribute())

    def forward(self, x: Tensor) -> Any:
        return self.encoder(x)


class Step(nn.Module):
    """Single steps, with the state in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(FEATURES, WIDTH)
        self.hidden: Tensor | None = None

    def forward(self, obs: Tensor) -> Any:
        self.hidden = self.cell(obs, self.hidden)
        return self.hidden


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Attribute, "the attribute 'h'"),
        (Private, "the attribute '_memory'"),
        (Replaced, "the buffer 'memory'"),
        (InPlace, "the buffer 'memory'"),
        (Listed, "the attribute 'seen'"),
        (Dictionary, "the attribute 'cache'"),
        (Counter, "the attribute 'calls'"),
        (Inside, "the attribute 'encoder.1.h'"),
        (Step, "the attribute 'hidden'"),
    ],
)
def test_a_state_kept_inside_is_named(kind: type[nn.Module], words: str, tmp_path: Path) -> None:
    """The sentence names the attribute or buffer and what to do instead, and the module is as it was."""
    module = kind()
    before = inventory(module)
    with pytest.raises(ModuleError) as caught:
        export(module, tmp_path / "out", f"1x1x{FEATURES}")
    assert f"keeps its state in {words} from one call to the next" in str(caught.value)
    assert ACCEPTED in str(caught.value)
    assert inventory(module) == before
    assert not (tmp_path / "out").exists()


def test_an_attribute_that_changes_nothing_is_no_state(tmp_path: Path) -> None:
    """A module may note what it did last, as long as what it returns does not follow from it."""

    class Notes(Attribute):
        def forward(self, x: Tensor) -> Tensor:
            y, self.h = self.run(x, None)
            return y

    export(Notes(), tmp_path, f"1x6x{FEATURES}")


# ---------------------------------------------------------------------- TorchScript


def scripted() -> Any:
    """Return a compiled module."""
    return torch.jit.script(nn.Linear(3, 2))


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torch_script_is_refused_with_what_to_give(tmp_path: Path) -> None:
    """A compiled module, its file as the factory, and its file as weights are told from others."""
    file = tmp_path / "model.pt"
    torch.jit.save(scripted(), file)
    out = ("--example", "1x6x3", "--out", tmp_path / "m/1")
    factory = f"{__name__}:scripted"
    for result in (
        invoke("module", file, *out),
        invoke("module", factory, *out),
        invoke("module", "tests.export.user_modules:Tagger", "--weights", file, *out),
    ):
        assert result.exit_code == 1, result.output
        assert "is TorchScript, compiled code in which recurrent layers" in result.stderr
        assert "as PACKAGE.MODULE:FACTORY, and its weights" in result.stderr
        assert result.stderr.count("\n") == 1
    with pytest.raises(ModuleError, match="the module is TorchScript"):
        export(scripted(), tmp_path / "n", "1x6x3")
    assert not (tmp_path / "m").exists()


def test_a_file_of_weights_as_the_factory_is_told(tmp_path: Path) -> None:
    """A file in the factory's position is named as one."""
    file = tmp_path / "weights.pt"
    torch.save(nn.Linear(2, 2).state_dict(), file)
    result = invoke("module", file, "--example", "1x6x3", "--out", tmp_path / "m/1")
    assert result.exit_code == 1
    assert "is a file: give the Python class or function" in result.stderr
