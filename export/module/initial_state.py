"""The state that a module starts from when it is given none: zeros, or what it learned or computes from its weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from export.module.calling import AFTER, Called
from export.module.errors import ACCEPTED, DoesNotRunError, NotStreamableError
from export.module.example import Example
from export.module.leaves import equal_but_rounding
from export.module.running import run_quietly

_ROWS = 3
_MOST_CANDIDATES, _MOST_TRIED = 24, 600


class _Results(TorchFunctionMode):
    """Collects all tensors that torch's functions return in a run."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one of torch's functions, and note a copy of its result."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not result.is_sparse:
            self.tensors.append(result.detach().clone())
        return result


def find_initial_state(
    called: Called, examples: Sequence[Example], names: Sequence[str], axes: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return the rows, without the batch axis, that give what the module gives without a state; none for zeros.

    Raises:
        NotStreamableError: Neither zeros nor anything that does not depend on the input gives the same.
    """
    runs = [_inputs(examples, seed) for seed in (5, 6)]
    expected = [run_quietly(called, inputs) for inputs in runs]
    like = [expected[0][f"{AFTER}{name}"] for name in names]

    def starts(rows: Sequence[Tensor]) -> bool:
        given = [_repeated(row, axis) for row, axis in zip(rows, axes, strict=True)]
        try:
            found = [run_quietly(called, [*inputs, *(x.clone() for x in given)]) for inputs in runs]
        except DoesNotRunError:
            return False
        return all(equal_but_rounding(list(a.items()), list(b.items())) for a, b in zip(expected, found, strict=True))

    zeros = [torch.zeros_like(one.select(axis, 0)) for one, axis in zip(like, axes, strict=True)]
    if starts(zeros):
        return {}
    seen = _Results()
    with seen, torch.no_grad():
        run_quietly(called, runs[0])
    held = [*called.module.parameters(), *called.module.buffers()]
    candidates = [
        list(islice(_rows(row, axis, held, seen.tensors), _MOST_CANDIDATES))
        for row, axis in zip(zeros, axes, strict=True)
    ]
    for rows in islice(product(*candidates), _MOST_TRIED):
        if starts(rows):
            return {name: row.numpy() for name, row in zip(names, rows, strict=True)}
    raise NotStreamableError(
        "without a state the module starts neither from zeros nor from a state that it holds or computes from its "
        f"weights alone: let it start from one of these when it is given none, {ACCEPTED}"
    )


def _inputs(examples: Sequence[Example], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [example.draw(_ROWS, 2, generator) for example in examples]


def _repeated(row: Tensor, axis: int) -> Tensor:
    return torch.stack([row] * _ROWS, axis)


def _rows(zero: Tensor, axis: int, held: Sequence[Tensor], results: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield zeros, and each tensor once that may be one row of the state, or the same row several times."""
    found = [zero]
    whole = _repeated(zero, axis).shape
    for tensor in results:
        if tensor.shape == whole and tensor.dtype == zero.dtype:
            row = tensor.select(axis, 0)
            if torch.equal(_repeated(row, axis), tensor):
                found.append(row.clone())
    for tensor in held:
        if tensor.dtype == zero.dtype and tensor.dim() <= len(whole):
            try:
                spread = torch.broadcast_to(tensor.detach(), whole)
            except RuntimeError:
                continue
            row = spread.select(axis, 0)
            if torch.equal(_repeated(row, axis), spread):
                found.append(row.clone())
    for index, row in enumerate(found):
        if not any(torch.equal(row, before) for before in found[:index]):
            yield row
