"""Ways to take and return a state: each is exported as it computes, or the sentence shows the accepted one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from export.module import ModuleError
from tests.export import stateful_modules as mine
from tests.export.served_module import ROWS, Exported, assert_serves, export, inventory
from tests.export.stateful_modules import FEATURES, WIDTH

SEQUENCES: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    mine.RequiredLayer: lambda m, x: m(x, None)[0],
    mine.RequiredPair: lambda m, x: m(x, torch.zeros(2, ROWS, WIDTH), torch.zeros(2, ROWS, WIDTH))[0],
    mine.RequiredWithMethod: lambda m, x: m(x, m.init_hidden(ROWS))[0],
    mine.Apart: lambda m, x: m(x)[0],
    mine.ApartFirst: lambda m, x: m(x)[2],
    mine.First: lambda m, x: m(x)[1],
    mine.Flat: lambda m, x: m(x)[0],
    mine.TakenFirst: lambda m, x: m(None, x)[0],
    mine.KeywordOnly: lambda m, x: m(x)[0],
    mine.AnyArguments: lambda m, x: m(x)[0],
    mine.AllKeywords: lambda m, x: m(x=x)[0],
    mine.Dicts: lambda m, x: m(x)["y"],
    mine.Named: lambda m, x: m(x)[0],
    mine.Dataclass: lambda m, x: m(x)[0],
    mine.Learned: lambda m, x: m(x)[0],
}
STEPS: dict[type[nn.Module], Callable[[Any, Tensor, Any], tuple[Tensor, Any]]] = {
    mine.Policy: lambda m, x, state: m(x, state),
    mine.SameWidth: lambda m, x, state: m(x, state),
    mine.SameWidthFirst: lambda m, x, state: m(x, state)[::-1],
    mine.BareCell: lambda m, x, state: (m(x, state),) * 2,
    mine.Spikes: lambda m, x, state: m(x, state),
    mine.RowMaker: lambda m, x, state: m(x, torch.zeros(ROWS, WIDTH) if state is None else state),
}


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(4)
    return kind()


def exported_unchanged(module: nn.Module, folder: Path, *shapes: str) -> Exported:
    before = inventory(module)
    exported = export(module, folder, *shapes)
    assert inventory(module) == before
    return exported


@pytest.mark.parametrize("kind", SEQUENCES, ids=lambda kind: kind.__name__)
def test_a_state_is_found_in_the_signature(kind: type[nn.Module], tmp_path: Path) -> None:
    """Which argument and which result is the state is found by running; what is served equals whole sequences."""
    module = made(kind)
    exported = exported_unchanged(module, tmp_path, f"1x6x{FEATURES}")
    assert len(exported.card.states) == (1 if kind is mine.RequiredLayer else 2)
    assert len(exported.card.outputs) == 1
    assert_serves(exported, lambda x: SEQUENCES[kind](module, x))


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
def test_a_module_of_single_steps_is_carried(kind: type[nn.Module], tmp_path: Path) -> None:
    """A module that takes (batch, features) is served like a loop that feeds its state back."""
    module = made(kind)

    def whole(x: Tensor) -> Tensor:
        state, outputs = None, []
        for t in range(x.shape[1]):
            y, state = STEPS[kind](module, x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, 1)

    assert_serves(exported_unchanged(module, tmp_path, f"1x1x{FEATURES}"), whole)


def test_an_input_may_stand_behind_the_state(tmp_path: Path) -> None:
    """A policy that is told where episodes start has two inputs, with the state between them."""
    module = made(mine.EpisodeStarts)
    exported = exported_unchanged(module, tmp_path, f"1x6x{FEATURES}", "1x6:bool")
    assert [(spec.name, spec.shape) for spec in exported.card.inputs] == [("obs", (FEATURES,)), ("episode_starts", ())]

    def whole(obs: Tensor, starts: Tensor) -> Tensor:
        zeros = torch.zeros(1, ROWS, WIDTH)
        return module(obs, (zeros, zeros), starts)[0]  # type: ignore[no-any-return]

    assert_serves(exported, whole)


def test_an_option_behind_the_state_may_be_an_input(tmp_path: Path) -> None:
    """An argument is no state because another one is: with two examples a flag is the second input."""
    module = made(mine.Resets)
    exported = exported_unchanged(module, tmp_path, f"1x1x{FEATURES}", "1x1:bool")
    assert [spec.name for spec in exported.card.inputs] == ["x", "done"]

    def whole(x: Tensor, done: Tensor) -> Tensor:
        h, outputs = None, []
        for t in range(x.shape[1]):
            y, h = module(x[:, t], h, done[:, t])
            outputs.append(y)
        return torch.stack(outputs, 1)

    assert_serves(exported, whole)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, partial(torch.compile, backend="eager")], ids=["parallel", "compiled"]
)
def test_a_wrapped_module_is_exported_as_the_one_inside(wrap: Callable[[nn.Module], Any], tmp_path: Path) -> None:
    """torch.compile and nn.DataParallel change neither names nor answers."""
    module = made(mine.Apart)
    exported = exported_unchanged(wrap(module), tmp_path, f"1x6x{FEATURES}")
    assert [spec.name for spec in exported.card.states] == ["h", "c"]
    assert_serves(exported, lambda x: module(x)[0])


def test_zeros_for_a_required_state_are_told(tmp_path: Path) -> None:
    """Where forward does not run without a state, the export says from which one sessions start."""
    exported = export(made(mine.RequiredPair), tmp_path, f"1x6x{FEATURES}")
    assert "forward takes and returns its state: h, c (it requires one: sessions start from zeros)" in exported.findings


class StartsFromInput(mine.Maths):
    """Without a state, it starts from one that it computes from its first step."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h, c = (x[:, 0, :1].expand(-1, WIDTH), torch.zeros(len(x), WIDTH)) if state is None else state
        y, h, c = self.run(x, h, c)
        return y, (h, c)


class Grows(nn.Module):
    """Its state is all that it has seen."""

    def forward(self, x: Tensor, cache: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen = x if cache is None else torch.cat([cache, x], 1)
        return seen.cumsum(1)[:, -x.shape[1] :], seen


class Counts(mine.Maths):
    """A number of Python's is part of its state."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h, c, count = (*self.start(len(x)), 0) if state is None else state
        y, h, c = self.run(x / (1 + count), h, c)
        return y, (h, c, count + x.shape[1])


class RequiredUnknown(mine.Maths):
    """A required state, and nothing that says of which shape it is."""

    def forward(self, x: Tensor, hidden: Any) -> tuple[Tensor, Any]:
        y, h, c = self.run(x, *hidden)
        return y, (h, c)


class Forgets(mine.Maths):
    """It takes two states and returns one of them."""

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        zero_h, zero_c = self.start(len(x))
        y, h, c = self.run(x, zero_h if h is None else h, zero_c if c is None else c)
        return y, h


class Undecided(nn.Module):
    """Single steps, and two results of one shape, of which neither is computed from the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRUCell(FEATURES, WIDTH), nn.GRUCell(FEATURES, WIDTH)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.a(x, h), self.b(x, h)


REFUSED: dict[type[nn.Module], tuple[str, str]] = {
    StartsFromInput: ("1x6x4", "starts neither from zeros nor from a state that it holds"),
    Grows: ("1x6x4", r"has the shape \[2, 1, 4\] after 1 step and \[2, 3, 4\] after 3: a state keeps its shape"),
    Counts: ("1x6x4", "give something else than one run over all steps"),
    RequiredUnknown: ("1x6x4", "cannot|does not run on .* NoneType"),
    Forgets: ("1x6x4", "give something else than one run over all steps"),
    Undecided: ("1x1x4", "several of the tensors that it returns have the state's shape"),
}


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_read_is_refused_with_the_accepted_signature(kind: type[nn.Module], tmp_path: Path) -> None:
    """The sentence says what is wrong and shows what is taken; nothing is written, and the module is as it was."""
    shape, words = REFUSED[kind]
    module = made(kind)
    before = inventory(module)
    with pytest.raises(ModuleError, match=words) as caught:
        export(module, tmp_path / "out", shape)
    assert "forward(x, state=None) → (y, state)" in str(caught.value)
    assert inventory(module) == before
    assert not (tmp_path / "out").exists()


class FailsAtItsStep(nn.Module):
    """Runs single steps, of which it unpacks the axes, and is given a state of the wrong size by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(FEATURES, WIDTH)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, _ = x.shape
        h = self.cell(x, x.new_zeros(rows, WIDTH + 1) if state is None else state)
        return h, h


def test_why_a_single_step_does_not_run_is_told(tmp_path: Path) -> None:
    """With an example of one step, the sentence has the error of a step, not that of a sequence."""
    with pytest.raises(ModuleError, match="hidden"):
        export(made(FailsAtItsStep), tmp_path, f"1x1x{FEATURES}")
