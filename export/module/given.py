"""Modules that take their state as an argument and return it: forward(x, state=None) → (outputs, state)."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.recording import alike, leaves_of
from export.module.running import run_quietly


@dataclass(frozen=True, slots=True)
class Given:
    """The state of such a module: a name, a batch axis and zeros for each tensor, and how they are put together."""

    names: list[str]
    axes: list[int]
    zeros: list[Tensor]
    structure: TreeSpec

    def together(self, tensors: Sequence[Tensor]) -> Any:
        """Return the tensors as the module takes them."""
        return tree_unflatten(list(tensors), self.structure)


def find_given(module: nn.Module, examples: Sequence[Example]) -> Given | None:
    """Return the state that a module takes behind its inputs and returns behind its outputs, if it does.

    Raises:
        NotStreamableError: It starts from something else than zeros when no state is given.
    """
    generator = torch.Generator().manual_seed(0)
    try:
        inspect.signature(module.forward).bind(*range(len(examples) + 1))
        inputs = [example.draw(2, 1, generator) for example in examples]
        result = run_quietly(module, inputs)
        if not isinstance(result, tuple | list) or len(result) < 2:
            return None
        tensors, structure = tree_flatten(result[-1])
        if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
            return None
        run_quietly(module, [*inputs, result[-1]])
        wider = run_quietly(module, [example.draw(3, 1, generator) for example in examples])
    except (TypeError, NotStreamableError):  # it is no module of this kind
        return None
    wide = tree_flatten(wider[-1])[0]
    if [tensor.dim() for tensor in tensors] != [tensor.dim() for tensor in wide]:
        raise NotStreamableError("the state that forward returns is another kind of thing for another number of rows")
    axes = [_batch_axis(a, b) for a, b in zip(tensors, wide, strict=True)]
    zeros = [torch.zeros_like(tensor) for tensor in tensors]
    again = run_quietly(module, [*inputs, tree_unflatten(zeros, structure)])
    if not alike(leaves_of(result), leaves_of(again)):
        raise NotStreamableError("without a state the module does not start from zeros: give it none but zeros")
    names = [name for name, _ in leaves_of(result[-1])] if len(tensors) > 1 else [""]
    plain = [f"state.{name}".removesuffix(".") for name in names]
    return Given([name.replace("state.y", "state") for name in plain], axes, zeros, structure)


def _batch_axis(two: Tensor, three: Tensor) -> int:
    axes = [axis for axis, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if (a, b) == (2, 3)]
    if len(axes) != 1:
        raise NotStreamableError(f"a state of shape {tuple(two.shape)} has no batch axis")
    return axes[0]


class TakesState(nn.Module):
    """Take a module's state as tensors of their own, and return them so."""

    def __init__(self, module: nn.Module, given: Given, inputs: int, leaves: Sequence[int]) -> None:
        super().__init__()
        self.module, self._given, self._inputs, self._leaves = module, given, inputs, leaves

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        result = self.module(*args[: self._inputs], self._given.together(args[self._inputs :]))
        found = leaves_of(result)
        return (*(found[place][1] for place in self._leaves), *tree_flatten(result[-1])[0])
