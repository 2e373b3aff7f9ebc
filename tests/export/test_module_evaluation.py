"""A module is exported as it computes after eval(), and given back as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from export.module import ModuleError
from tests.export.served_module import assert_serves, export, inventory
from tests.export.stateful_modules import FEATURES, WIDTH, Leaky, Policy


def batch_norm() -> nn.Module:
    norm = nn.BatchNorm1d(WIDTH)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean += torch.randn(WIDTH)
    norm.running_var += 1
    return norm


class Mixed(nn.Module):
    """A dropout before a recurrent layer, and a state that is more than the layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.gru = nn.Dropout(0.3), nn.GRU(FEATURES, WIDTH, batch_first=True, num_layers=2, dropout=0.4)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        h, last = (x.new_zeros(2, len(x), WIDTH), x.new_zeros(len(x), 1, FEATURES)) if state is None else state
        y, h = self.gru(self.drop(x - torch.cat([last, x[:, :-1]], 1)), h)
        return y, (h, x[:, -1:])


MADE: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: Leaky(nn.Dropout(0.5)),
    "alpha_dropout": lambda: Leaky(nn.Sequential(nn.Tanh(), nn.AlphaDropout(0.5))),
    "batch_norm": lambda: Leaky(batch_norm()),
    "randomised_relu": lambda: Leaky(nn.RReLU()),
    "gru_with_dropout": Mixed,
    "dropout_around_cells": lambda: nn.Sequential(nn.Dropout(0.5), nn.GRU(FEATURES, WIDTH, batch_first=True)),
}


@pytest.mark.parametrize("name", MADE)
def test_layers_for_training_are_what_eval_makes_of_them(name: str, tmp_path: Path) -> None:
    """A dropout or a normalisation over the batch is exported as the plain function of evaluation mode."""
    torch.manual_seed(1)
    module = MADE[name]().train()
    exported = export(module, tmp_path, f"1x6x{FEATURES}")
    assert module.training
    assert_serves(exported, lambda x: module.eval()(x)[0])


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_module_is_given_back_as_it_was(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Training flags of each part, weights, buffers, hooks, gradients and requires_grad are those of before."""
    torch.manual_seed(1)
    module = MADE[name]().to(dtype).train()
    first = next(part for part in module.modules() if not list(part.children()))
    first.eval()
    first.register_forward_hook(lambda *_: None)
    parameter = next(module.parameters())
    parameter.grad = torch.ones_like(parameter)
    list(module.parameters())[-1].requires_grad_(False)
    before = inventory(module)
    export(module, tmp_path, f"1x6x{FEATURES}")
    assert inventory(module) == before


def test_a_refused_module_is_given_back_as_it_was(tmp_path: Path) -> None:
    """So is one that is not exported, with a state that it keeps inside."""

    class Keeps(Policy):
        def __init__(self) -> None:
            super().__init__()
            self.seen: Tensor
            self.register_buffer("seen", torch.zeros(3))
            self.history: list[Tensor] = []

        def forward(self, obs: Tensor, state: Any = None) -> Any:
            self.seen.add_(1)
            self.history.append(obs)
            return self.head(self.cell(obs, None)[0]) + self.seen.sum()

    module = Keeps().train()
    before = inventory(module)
    with pytest.raises(ModuleError):
        export(module, tmp_path, f"1x1x{FEATURES}")
    assert inventory(module) == before
    assert module.history == []
