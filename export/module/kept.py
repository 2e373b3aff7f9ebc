"""Refusal of modules that are random, or keep their state inside instead of taking and returning it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from export.module.errors import ACCEPTED, DoesNotRunError, NotStreamableError
from export.module.example import Example
from export.module.given_back import given_back
from export.module.leaves import Leaves, equal_but_rounding, leaves_of
from export.module.running import run_quietly
from export.sentences import clipped

_SIZES = ((2, 3), (1, 3), (2, 0), (1, 0))
"""Rows and steps to try, until the module runs on one: 0 for one step without a time axis."""
_MOST_NAMED = 3
_EVERY = frozenset(vars(nn.Module()))


def refuse_changing(module: nn.Module, examples: Sequence[Example]) -> DoesNotRunError | None:
    """Refuse a module that returns something else when it is run again on the same input.

    Returns the error of a module that does not run on several rows and steps of the examples alone.

    Raises:
        NotStreamableError: It does so; the sentence names the attributes or buffers that changed, if any.
    """
    failed: DoesNotRunError | None = None
    for rows, steps in _SIZES:
        generator = torch.Generator().manual_seed(3)
        inputs = [_drawn(example, rows, steps, generator) for example in examples]
        with given_back(module):
            before = dict(_held(module))
            try:
                one = _run(module, inputs)
            except DoesNotRunError as exc:
                failed = failed or exc
                continue
            changed = _changed(before, dict(_held(module)))
            try:
                same = equal_but_rounding(one, _run(module, inputs))
            except DoesNotRunError:
                same = not changed
            if not same and changed:
                raise _keeps(changed, set(dict(module.named_buffers())))
            if not same:
                raise NotStreamableError(
                    "the module gives something else when it is run again on the same input: forward is random "
                    "(noise, a random initial state, a dropout that eval() does not end), or keeps something from one "
                    "run to the next outside of its attributes"
                )
        if failed is not None and not steps:
            return DoesNotRunError(
                f"{failed}. It runs on one step without a time axis: a module of single steps takes its state and "
                f"returns it, {ACCEPTED}"
            )
        break
    return failed


def _drawn(example: Example, rows: int, steps: int, generator: torch.Generator) -> Tensor:
    x = example.draw(rows, max(steps, 1), generator)
    return x if steps else x.select(example.time_axis, 0)


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> Leaves:
    """Run a module; what it returns is copied, because the next run may write into it."""
    found = leaves_of(run_quietly(module, [x.clone() for x in inputs]))
    return [(name, leaf.clone()) for name, leaf in found]


def _held(module: nn.Module) -> Iterator[tuple[str, list[Any]]]:
    """Yield the attributes and buffers of a module's parts that hold tensors or numbers, tensors copied."""
    for path, part in module.named_modules():
        for name, value in [*_own_attributes(part).items(), *part._buffers.items()]:
            leaves = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor | int | float)]
            yield (
                f"{path}.{name}".removeprefix("."),
                [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves],
            )


def _own_attributes(part: nn.Module) -> dict[str, Any]:
    """Return the attributes that not every nn.Module has."""
    return {name: value for name, value in vars(part).items() if name not in _EVERY}


def _changed(before: Mapping[str, list[Any]], after: Mapping[str, list[Any]]) -> list[str]:
    return [name for name, values in after.items() if not _same(before.get(name, []), values)]


def _same(some: list[Any], others: list[Any]) -> bool:
    if len(some) != len(others):
        return False
    return all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
        else type(a) is type(b) and a == b
        for a, b in zip(some, others, strict=True)
    )


def _keeps(changed: Sequence[str], buffers: set[str]) -> NotStreamableError:
    kinds = [("buffer" if name in buffers else "attribute", name) for name in changed[:_MOST_NAMED]]
    named = ", ".join(f"the {kind} {clipped(name)!r}" for kind, name in kinds)
    more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
    return NotStreamableError(
        f"the module gives something else when it is run again on the same input, for it keeps its state in {named}"
        f"{more} from one call to the next, where all sessions would share it: let forward take the state and return "
        f"it instead, {ACCEPTED}"
    )
