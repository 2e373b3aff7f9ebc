"""A user's module that is given back as it was: weights, buffers, attributes, hooks, training flags."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_CONTAINERS = (dict, list, set, deque)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What one object held: its attributes, and the contents of those that are containers."""

    owner: dict[str, Any]
    attributes: dict[str, Any]
    contents: list[tuple[Any, Any]]


@contextmanager
def given_back(module: nn.Module) -> Iterator[None]:
    """Undo at the end whatever is done to a module inside: its tensors' values, dtypes and devices, and all it holds.

    Containers among the attributes get their contents back, one level deep.
    """
    kept = [_keep(vars(part)) for part in module.modules()]
    tensors = [
        (one, one.data, one.detach().clone(), one.grad if one.is_leaf else None, one.requires_grad)
        for one in _tensors(kept)
    ]
    for tensor, *_, grad, _ in tensors:
        if grad is not None:
            tensor.grad = None  # a conversion of the module would convert it too
    try:
        yield
    finally:
        for found in kept:
            _restore(found)
        with torch.no_grad():
            for tensor, data, copied, grad, requires_grad in tensors:
                if tensor.dtype != data.dtype or tensor.data_ptr() != data.data_ptr():
                    tensor.data = data
                if not torch.equal(data, copied):
                    data.copy_(copied)
                if tensor.is_leaf:
                    tensor.requires_grad_(requires_grad)
                    tensor.grad = grad


def _keep(owner: dict[str, Any]) -> _Kept:
    held = [value for value in owner.values() if isinstance(value, _CONTAINERS)]
    return _Kept(owner, dict(owner), [(value, list(_items(value))) for value in held])


def _items(value: Any) -> Any:
    return value.items() if isinstance(value, dict) else value


def _restore(kept: _Kept) -> None:
    kept.owner.clear()
    kept.owner.update(kept.attributes)
    for container, contents in kept.contents:
        container.clear()
        container.extend(contents) if isinstance(container, list | deque) else container.update(contents)


def _tensors(kept: list[_Kept]) -> list[Tensor]:
    """Return each tensor among the attributes and their contents once."""
    found: dict[int, Tensor] = {}
    for one in kept:
        values = list(one.attributes.values())
        for container, contents in one.contents:
            values += [value for _, value in contents] if isinstance(container, dict) else contents
        found |= {id(value): value for value in values if isinstance(value, Tensor) and _has_values(value)}
    return list(found.values())


def _has_values(tensor: Tensor) -> bool:
    return tensor.device.type != "meta" and tensor.layout is torch.strided and not is_lazy(tensor)
