# mypy: disable-error-code="no-any-return"
"""A step need be no row of features: ids, numbers, flags, matrices and images are exported with the known axes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from export.module import ModuleError
from tests.export.served_module import Exported, assert_serves, export, inventory

WIDTH = 6


class Tokens(nn.Module):
    """The tutorials' classifier: what follows from the last step of an LSTM over embedded ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(30, 5), nn.LSTM(5, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.table(ids))[0][:, -1])


class TokensLastState(Tokens):
    """The same by the layer's last state."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.table(ids))[1][0][-1])


class Bags(nn.Module):
    """Several ids in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Embedding(30, 5), nn.GRU(5, WIDTH, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.gru(self.table(ids).mean(2))[0]


class Numbers(nn.Module):
    """A number in each step, in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, WIDTH, batch_first=True), nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unsqueeze(-1).float())[0]).squeeze(-1)


class NumbersTimeFirst(nn.Module):
    """A number in each step, (time, batch)."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.unsqueeze(-1))[0]


class Summed(nn.Module):
    """A sum over time of one number, whose state is one number."""

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x)) if state is None else state
        y = total[:, None] + x.cumsum(1)
        return y, y[:, -1]


class Matrices(nn.Module):
    """A matrix in each step, in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(12, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.flatten(2))[0].reshape(x.shape[0], x.shape[1], 2, WIDTH // 2)


class OneByFeatures(nn.Module):
    """A matrix of one row in each step: its leading 1 is no time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h, outputs = None, []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t, 0], h)
            outputs.append(h.unsqueeze(1))
        return torch.stack(outputs, 1)


class Images(nn.Module):
    """An image in each step, before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv2d(1, 2, 3), nn.LSTM(2 * 3 * 3, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        rows, steps = x.shape[:2]
        return self.lstm(self.conv(x.flatten(0, 1)).reshape(rows, steps, -1))[0]


class ConvLSTM(nn.Module):
    """Images as states, in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1 + 2, 4 * 2, 3, padding=1)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        rows, steps, _, height, width = x.shape
        h, c = (x.new_zeros(rows, 2, height, width) for _ in range(2)) if state is None else state
        outputs = []
        for t in range(steps):
            i, f, o, g = self.conv(torch.cat([x[:, t], h], 1)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 1), (h, c)


class Several(nn.Module):
    """An id, an image and a row of features in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Embedding(9, 2), nn.GRU(2 + 4 + 3, WIDTH, batch_first=True)

    def forward(self, ids: Tensor, image: Tensor, row: Tensor) -> Tensor:
        return self.gru(torch.cat([self.table(ids), image.flatten(2), row], -1))[0]


def steps_of(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return what a module that gives the last step alone gives after each step."""
    return torch.stack([module(x[:, : t + 1]) for t in range(x.shape[1])], 1)


SEQUENCES: dict[type[nn.Module], tuple[list[str], list[tuple[int, ...]], Callable[..., Tensor]]] = {
    Tokens: (["1x9:int64:30"], [()], steps_of),
    TokensLastState: (["1x9:int64:30"], [()], steps_of),
    Bags: (["1x9x4:int64:30"], [(4,)], lambda m, x: m(x)),
    Numbers: (["1x9"], [()], lambda m, x: m(x)),
    Summed: (["1x9"], [()], lambda m, x: m(x)[0]),
    Matrices: (["1x9x3x4"], [(3, 4)], lambda m, x: m(x)),
    OneByFeatures: (["1x9x1x4"], [(1, 4)], lambda m, x: m(x)),
    Images: (["1x9x1x5x5"], [(1, 5, 5)], lambda m, x: m(x)),
    ConvLSTM: (["1x9x1x4x5"], [(1, 4, 5)], lambda m, x: m(x)[0]),
    Several: (["1x9:int64:9", "1x9x2x2", "1x9x3"], [(), (2, 2), (3,)], lambda m, *xs: m(*xs)),
}


def exported_unchanged(module: nn.Module, folder: Path, *shapes: str, time_first: bool = False) -> Exported:
    before = inventory(module)
    exported = export(module, folder, *shapes, time_first=time_first)
    assert inventory(module) == before
    return exported


@pytest.mark.parametrize("kind", SEQUENCES, ids=lambda kind: kind.__name__)
def test_steps_of_any_shape_are_exported(kind: type[nn.Module], tmp_path: Path) -> None:
    """The card's steps have the example's shape, and what is served equals the module's run over whole sequences."""
    torch.manual_seed(3)
    module = kind()
    shapes, steps, whole = SEQUENCES[kind]
    exported = exported_unchanged(module, tmp_path, *shapes)
    assert [spec.shape for spec in exported.card.inputs] == steps
    assert_serves(exported, lambda *xs: whole(module, *xs))


@pytest.mark.parametrize("dtype", ["bool", "int32:5", "int64:7"])
def test_flags_and_counts_are_exported(dtype: str, tmp_path: Path) -> None:
    """A flag or a whole number in each step keeps its dtype."""
    module = Numbers()
    exported = exported_unchanged(module, tmp_path, f"1x9:{dtype}")
    assert (exported.card.inputs[0].dtype, exported.card.inputs[0].shape) == (dtype.partition(":")[0], ())
    assert_serves(exported, module)


def test_numbers_may_have_the_time_first(tmp_path: Path) -> None:
    """--time-first holds for steps of any shape."""
    module = NumbersTimeFirst()
    exported = exported_unchanged(module, tmp_path, "9x1", time_first=True)
    assert_serves(exported, lambda x: module(x).transpose(0, 1))


class ImagePolicy(nn.Module):
    """A policy of single steps that sees an image and returns actions and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.cell = nn.Conv2d(3, 2, 3), nn.LSTMCell(2 * 3 * 3, WIDTH)
        self.actions, self.value = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, 1)

    def forward(self, image: Tensor, state: Any = None) -> tuple[Tensor, Tensor, Any]:
        h, c = self.cell(self.conv(image).flatten(1), state)
        return self.actions(h), self.value(h).squeeze(-1), (h, c)


class TokenStep(nn.Module):
    """A decoder that takes one id."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell, self.head = nn.Embedding(20, 4), nn.GRUCell(4, WIDTH), nn.Linear(WIDTH, 20)

    def forward(self, token: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden = self.cell(self.table(token), hidden)
        return self.head(hidden), hidden


@pytest.mark.parametrize(
    ("kind", "shape", "output"), [(ImagePolicy, "1x1x3x5x5", "y1"), (TokenStep, "1x1:int64:20", "y0")]
)
def test_single_steps_of_any_shape_are_exported(kind: type[nn.Module], shape: str, output: str, tmp_path: Path) -> None:
    """A module of single steps may take an image or an id, and return a number for each row."""
    module = kind()

    def whole(x: Tensor) -> Tensor:
        state, outputs = None, []
        for t in range(x.shape[1]):
            *found, state = module(x[:, t], state)
            outputs.append(found[int(output[1])])
        return torch.stack(outputs, 1)

    assert_serves(exported_unchanged(module, tmp_path, shape), whole, output)


class Crowd(nn.Module):
    """A flag of the first row moves all rows: of a few random rows the flags may well be the same."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.float().unsqueeze(-1))[0] + x[:1].float().unsqueeze(-1)


def test_rows_that_differ_beside_others_run_one_at_a_time(tmp_path: Path) -> None:
    """Where only the comparison with strangers shows that rows move each other, max_batch is 1, with the reason."""
    module = Crowd()
    exported = exported_unchanged(module, tmp_path, "1x9:bool")
    assert exported.card.max_batch == 1
    assert "so max_batch is 1" in exported.card.config["findings"][0]
    assert_serves(exported, module)


class Positions(nn.Module):
    """It adds a table of positions, which starts anew with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = nn.Parameter(torch.randn(40, 1)), nn.GRU(1, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.unsqueeze(-1) + self.table[: x.shape[1]])[0]


class Centred(nn.Module):
    """It takes the mean over all steps off each number."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru((x - x.mean(1, keepdim=True)).unsqueeze(-1))[0]


class OverTime(nn.Module):
    """A convolution over images and time sees the next image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv3d(1, 1, 3, padding=1), nn.GRU(4, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2).flatten(2))[0]


class Mixes(nn.Module):
    """Whole sequences are normalised together."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 4, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.softmax(self.lstm(self.table(ids))[0], 1)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(Positions, "1x9"), (Centred, "1x9"), (OverTime, "1x9x1x2x2"), (Mixes, "1x9:int64:9")],
)
def test_what_depends_on_other_steps_is_refused(kind: type[nn.Module], shape: str, tmp_path: Path) -> None:
    """A module whose steps of any shape depend on more than a state is refused in a sentence; nothing is written."""
    torch.manual_seed(3)
    with pytest.raises(ModuleError, match="does not compute a step from its input and"):
        export(kind(), tmp_path / "out", shape)
    assert not (tmp_path / "out").exists()
