"""Functions of torch as users write them between two models, and some that cannot stand there."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


def split(y: Tensor) -> dict[str, Tensor]:
    """Return the sizes and the signs of values: two outputs by name."""
    return {"size": y.abs(), "sign": torch.sign(y)}


def joined(z: Tensor, sign: Tensor, weight: float = 0.5) -> Tensor:
    """Return values with signs; an argument that has a default is left alone."""
    return weight * z[:, :3] * sign


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def pair(y: Tensor) -> Pair:
    """Return a named tuple."""
    return Pair(y + 1, y * 2)


def loudest(y: Tensor) -> Tensor:
    """Divide by the largest value of the whole batch, so that one row changes another."""
    return y / (y.abs().max() + 1e-3)


def for_one_row(y: Tensor) -> Tensor:
    """Work for a batch of one only."""
    return y.reshape(1, 3).flip(1) if y.shape[0] == 1 else y.flip(1)


def growing(y: Tensor) -> Tensor:
    """Return twice as many features."""
    return torch.cat([y, y], 1)


def doubles(y: Tensor) -> Tensor:
    """Return float64."""
    return y.double()


def listed(y: Tensor) -> list[Tensor]:
    """Return tensors without names."""
    return [y, y]


def forgetful(y: Tensor, other: Tensor) -> Tensor:
    """Leave an argument unread."""
    return y * 2


def failing(y: Tensor) -> Tensor:
    """Raise."""
    raise RuntimeError("no luck\nat all")


def branching(y: Tensor) -> Tensor:
    """Choose by a value, which a graph cannot follow."""
    return y * 2 if y.sum() > 0 else y


def counted(read_slots: Tensor, y: Tensor) -> Tensor:
    """Take an input whose name the served graph needs for itself."""
    return read_slots + y


_seen: list[Tensor] = []


def remembering(y: Tensor) -> Tensor:
    """Keep what it was given, as a state that nothing carries."""
    _seen.append(y)
    return y + 0.1 * len(_seen)


def anything(*values: Tensor) -> Tensor:
    """Take inputs without names."""
    return values[0]


class Weighted(nn.Module):
    """A module, which is no function."""
