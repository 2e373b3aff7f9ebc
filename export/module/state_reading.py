"""One way to call a module with its state: tried on runs, in which two must give what one does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from export.module.calling import AFTER, Called, Calling
from export.module.example import Example
from export.module.layers import is_recurrent
from export.module.leaves import equal_but_rounding
from export.module.running import run_quietly
from export.module.state_tree import tensors_in

ROWS, STEPS = 2, 5
_FIRST = 2
_EFFECT_RUNS = 16


class WrongReadingError(Exception):
    """The module cannot be called in this way, or gives something else in two runs than in one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to call the module in which two runs give what one does, and its state's tensors."""

    called: Called
    calling: Calling
    states: dict[str, Tensor]
    axes: list[int]


def read(module: nn.Module, calling: Calling, examples: Sequence[Example]) -> Reading:
    """Return a way to call a module, with the state's tensors and batch axes for 2 rows.

    Raises:
        WrongReadingError: What is taken for the state is none.
        DoesNotRunError: The module cannot be called so.
    """
    called = Called(module, calling, examples)
    runs = [run_quietly(called, drawn(examples, rows, steps)) for rows, steps in ((2, 1), (3, 1), (2, 3), (1, 1))]
    two, three, longer, _ = (states_of(found) for found in runs)
    if not two:
        raise WrongReadingError("what would be its state holds no tensor")
    if not outputs_of(runs[0]):
        raise WrongReadingError("it would return nothing but its state")
    axes = []
    for name, tensor in two.items():
        if any(name not in other or other[name].dim() != tensor.dim() for other in (three, longer)):
            raise WrongReadingError("the state that it returns is another kind of thing for other rows or steps")
        if longer[name].shape != tensor.shape:
            raise WrongReadingError(
                f"the state that it returns has the shape {list(tensor.shape)} after 1 step and "
                f"{list(longer[name].shape)} after 3: a state keeps its shape"
            )
        grown = [
            axis for axis, sizes in enumerate(zip(tensor.shape, three[name].shape, strict=True)) if sizes == (2, 3)
        ]
        if len(grown) != 1:
            raise WrongReadingError(f"the state that it returns, of shape {list(tensor.shape)}, has no batch axis")
        axes += grown
    _check_two_runs(called, examples, two)
    _check_effects(called, examples, two)
    if calling.is_all and calling.one_step and not _gives_a_layers_state(module, called, examples):
        raise WrongReadingError("what it returns may be its output alone")
    return Reading(called, calling, two, axes)


def _check_two_runs(called: Called, examples: Sequence[Example], like: Mapping[str, Tensor]) -> None:
    """Check that two runs, the second from the state after the first, give what one run does."""
    inputs = drawn(examples, ROWS, STEPS, seed=1)
    one = run_quietly(called, inputs)
    first = run_quietly(called, [e.first_steps(x, _FIRST) for e, x in zip(examples, inputs, strict=True)])
    rest = [x.narrow(e.time_axis, _FIRST, STEPS - _FIRST) for e, x in zip(examples, inputs, strict=True)]
    second = run_quietly(called, [*rest, *(tensor.clone() for tensor in states_of(first).values())])
    for name, tensor in states_of(second).items():
        if name not in like or (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
            raise WrongReadingError(f"the state {name!r} changes its shape or dtype when it is fed back")
    axis, joined = examples[0].time_axis, {}
    for name, whole in one.items():
        a, b = first[name], second[name]
        timed = whole.dim() > axis and whole.shape[axis] == STEPS and not name.startswith(AFTER)
        joined[name] = torch.cat([a, b], axis) if timed and a.dim() == b.dim() == whole.dim() else b
    if not equal_but_rounding(list(one.items()), list(joined.items())):
        raise WrongReadingError(
            "two runs, the second from the state that the first returned, give something else than one run over all "
            "steps"
        )


def _check_effects(called: Called, examples: Sequence[Example], states: Mapping[str, Tensor]) -> None:
    """Check that each tensor of the state changes what a step gives."""
    given = list(states.values())
    idle = list(states)
    for seed in range(_EFFECT_RUNS):  # a flag among the inputs may end the effect of a state in some of them
        inputs = drawn(examples, ROWS, 1, seed=seed)
        expected = list(run_quietly(called, [*inputs, *(tensor.clone() for tensor in given)]).items())
        for index, name in enumerate(states):
            other = [~t if t.dtype == torch.bool else t + 1 for t in given[index : index + 1]]
            changed = [*given[:index], *other, *given[index + 1 :]]
            found = list(run_quietly(called, [*inputs, *(tensor.clone() for tensor in changed)]).items())
            if name in idle and not equal_but_rounding(expected, found):
                idle.remove(name)
        if not idle:
            return
    raise WrongReadingError(f"{idle[0]!r} has no effect on what it returns")


def _gives_a_layers_state(module: nn.Module, called: Called, examples: Sequence[Example]) -> bool:
    """Return whether all that a step returns are results of the module's recurrent layers."""
    results: list[Tensor] = []
    handles = [
        part.register_forward_hook(lambda _, __, result: results.extend(tensor for _, tensor in tensors_in(result)))
        for part in module.modules()
        if is_recurrent(part) and part is not module
    ]
    try:
        found = tensors_in(run_quietly(called.first, drawn(examples, ROWS, 1)))
    finally:
        for handle in handles:
            handle.remove()
    return is_recurrent(module) or all(any(tensor is result for result in results) for _, tensor in found)


def drawn(examples: Sequence[Example], rows: int, steps: int, seed: int = 0) -> list[Tensor]:
    """Return random inputs, one for each example."""
    generator = torch.Generator().manual_seed(seed)
    return [example.draw(rows, steps, generator) for example in examples]


def states_of(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a call gave as the state, by the names of the state."""
    return {name.removeprefix(AFTER): tensor for name, tensor in found.items() if name.startswith(AFTER)}


def outputs_of(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a call gave besides the state."""
    return {name: tensor for name, tensor in found.items() if not name.startswith(AFTER)}
