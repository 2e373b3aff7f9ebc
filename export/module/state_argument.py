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
from export.module.leaves import equal_but_rounding, leaves_of
from export.module.running import run_quietly


@dataclass(frozen=True, slots=True)
class StateArgument:
    """The state of such a module: a name, a batch axis and zeros for each tensor, and how the tensors are nested."""

    names: list[str]
    axes: list[int]
    zeros: list[Tensor]
    structure: TreeSpec

    def nested(self, tensors: Sequence[Tensor]) -> Any:
        """Return the tensors nested as the module takes them."""
        return tree_unflatten(list(tensors), self.structure)


def find_state_argument(module: nn.Module, examples: Sequence[Example]) -> StateArgument | None:
    """Return the state that a module takes after its inputs and returns after its outputs, or None.

    Raises:
        NotStreamableError: Without a state it does not start from zeros.
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
    except (TypeError, NotStreamableError):  # it is not a module of this kind
        return None
    wide = tree_flatten(wider[-1])[0]
    if [tensor.dim() for tensor in tensors] != [tensor.dim() for tensor in wide]:
        raise NotStreamableError("the state that forward returns is another kind of thing for another number of rows")
    axes = [_batch_axis(a, b) for a, b in zip(tensors, wide, strict=True)]
    zeros = [torch.zeros_like(tensor) for tensor in tensors]
    again = run_quietly(module, [*inputs, tree_unflatten(zeros, structure)])
    if not equal_but_rounding(leaves_of(result), leaves_of(again)):
        raise NotStreamableError("without a state the module does not start from zeros: give it none but zeros")
    names = [name for name, _ in leaves_of(result[-1])] if len(tensors) > 1 else [""]
    plain = [f"state.{name}".removesuffix(".") for name in names]
    return StateArgument([name.replace("state.y", "state") for name in plain], axes, zeros, structure)


def _batch_axis(two: Tensor, three: Tensor) -> int:
    axes = [axis for axis, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if (a, b) == (2, 3)]
    if len(axes) != 1:
        raise NotStreamableError(f"a state of shape {tuple(two.shape)} has no batch axis")
    return axes[0]


class TakesState(nn.Module):
    """Takes and returns a module's state as separate tensors."""

    def __init__(self, module: nn.Module, argument: StateArgument, inputs: int, outputs: Sequence[int]) -> None:
        super().__init__()
        self.module, self._argument, self._inputs, self._outputs = module, argument, inputs, outputs

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        result = self.module(*args[: self._inputs], self._argument.nested(args[self._inputs :]))
        found = leaves_of(result)
        return (*(found[index][1] for index in self._outputs), *tree_flatten(result[-1])[0])
