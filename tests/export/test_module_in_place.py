"""A forward may write into the state, and into the input, that it is given."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.export.served_module import assert_serves, export, inventory

FEATURES = 3


class Ring(nn.Module):
    """A causal convolution of four taps over a buffer that is rolled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.randn(4, FEATURES))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if state is None:
            state = x.new_zeros(x.shape[0], 4, FEATURES)
        outputs = []
        for t in range(x.shape[1]):
            state.copy_(torch.roll(state, -1, 1))
            state[:, -1] = x[:, t]
            outputs.append((state * self.taps).sum(1))
        return torch.stack(outputs, 1), state


class Dict(nn.Module):
    """A state in a dictionary that forward writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(FEATURES + 5, 5)

    def forward(self, x: Tensor, state: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        if state is None:
            state = {"h": x.new_zeros(x.shape[0], 5)}
        outputs = []
        for t in range(x.shape[1]):
            state["h"] = torch.tanh(self.cell(torch.cat([x[:, t], state["h"]], 1)))
            outputs.append(state["h"])
        return torch.stack(outputs, 1), state


class Decays(nn.Module):
    """A state that decays and grows in place, and an input that is scaled in place."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.rand(FEATURES))

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        total = x.new_zeros(x.shape[0], FEATURES) if state is None else state
        x.mul_(2)
        outputs = []
        for t in range(x.shape[1]):
            total.mul_(self.rate).add_(x[:, t])
            outputs.append(total.clone())
        return torch.stack(outputs, 1), total


class List(nn.Module):
    """A state in a list whose members are replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(FEATURES, FEATURES), nn.GRUCell(FEATURES, FEATURES)])

    def forward(self, x: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        state = [x.new_zeros(len(x), FEATURES) for _ in self.cells] if state is None else state
        outputs = []
        for step in x.unbind(1):
            for index, cell in enumerate(self.cells):
                state[index] = step = cell(step, state[index])
            outputs.append(step * state[0])
        return torch.stack(outputs, 1), state


class PolicyRing(nn.Module):
    """A policy that sees its last observations, whose state is written in place and returned as a part of y."""

    def forward(self, obs: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        memory = obs.new_zeros(len(obs), 3, FEATURES) if memory is None else memory
        memory[:, :-1] = memory[:, 1:].clone()
        memory[:, -1] = obs
        return memory.sum(1), memory


@pytest.mark.parametrize("kind", [Ring, Dict, Decays, List], ids=lambda kind: kind.__name__)
def test_a_state_that_is_written_in_place_is_carried(kind: type[nn.Module], tmp_path: Path) -> None:
    """What is served equals the module's own run over whole sequences, and the module is as it was."""
    torch.manual_seed(2)
    module = kind()
    before = inventory(module)
    exported = export(module, tmp_path, f"1x6x{FEATURES}")
    assert inventory(module) == before
    assert exported.card.states
    assert_serves(exported, lambda x: module(x)[0])


def test_a_step_that_writes_into_its_state_is_carried(tmp_path: Path) -> None:
    """So is a module that runs single steps."""
    module = PolicyRing()

    def whole(obs: Tensor) -> Tensor:
        memory, outputs = None, []
        for t in range(obs.shape[1]):
            y, memory = module(obs[:, t], memory)
            outputs.append(y)
        return torch.stack(outputs, 1)

    assert_serves(export(module, tmp_path, f"1x1x{FEATURES}"), whole)
