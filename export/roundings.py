"""Copies of a torch module whose weights are off by one rounding: how far its answers move is float32's own error.

A single run in float32 does not tell: its errors may happen to cancel.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

_SEEDS = (0, 1)

Module = TypeVar("Module", bound=nn.Module)


def roundings_of(module: Module) -> list[Module]:
    """Return copies of a module in float64, each parameter multiplied by 1 ± the epsilon of float32."""
    return [_rounding_of(module, seed) for seed in _SEEDS]


def _rounding_of(module: Module, seed: int) -> Module:
    generator = torch.Generator().manual_seed(seed)
    rounded = copy.deepcopy(module)
    for weight in rounded.parameters():
        if weight.is_floating_point():
            signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
            weight.data *= 1 + signs * torch.finfo(torch.float32).eps
    return rounded
