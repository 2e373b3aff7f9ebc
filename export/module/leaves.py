"""The tensors in what a module returns: a tensor, or a tuple, list, dict or dataclass of them."""

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path, tree_map

Leaves = list[tuple[str, Tensor]]
"""The tensors in what a module returned, each under a name."""


def leaves_of(result: Any) -> Leaves:
    """Return the tensors in what a module returned, each under a name."""
    if isinstance(result, Tensor):
        return [("y", result)]
    paths, _ = tree_flatten_with_path(_unfolded(result))
    found = [(path, leaf) for path, leaf in paths if isinstance(leaf, Tensor)]
    return [("_".join(_part(part) for part in path), leaf) for path, leaf in found]


def _unfolded(result: Any) -> Any:
    """Replace each dataclass by a dict of its fields."""

    def unfold(leaf: Any) -> Any:
        if not is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        return _unfolded({one.name: getattr(leaf, one.name) for one in fields(leaf)})

    return tree_map(unfold, result)


def _part(part: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            value = getattr(part, attribute)
            return f"y{value}" if isinstance(value, int) else str(value)
    return "y"


def equal_but_rounding(some: Leaves, others: Leaves) -> bool:
    """Return whether what a module returned twice is the same but for rounding."""
    return len(some) == len(others) and all(_close(a, b) for (_, a), (_, b) in zip(some, others, strict=True))


def _close(one: Tensor, again: Tensor) -> bool:
    if one.shape != again.shape or one.layout is not torch.strided:
        return one.shape == again.shape
    exact = not one.is_floating_point() and not one.is_complex()
    return bool((one == again if exact else torch.isclose(one, again, 1e-4, 1e-5, equal_nan=True)).all())
