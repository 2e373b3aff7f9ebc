"""Modules that take their state as an argument and return it, found by running them on what they return."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from export.adopt.names import is_state
from export.module.calling import AFTER, Called, Calling, possible_arguments, possible_paths
from export.module.errors import DoesNotRunError, NoStateFoundError
from export.module.example import Example
from export.module.initial_state import find_initial_state
from export.module.layers import is_recurrent
from export.module.leaves import equal_but_rounding
from export.module.running import RAISED, quiet, run_quietly
from export.module.state_tree import tensors_in

_ROWS, _STEPS, _FIRST = 2, 5, 2
_EFFECT_RUNS = 16


@dataclass(frozen=True, slots=True)
class StateArgument:
    """The module with its state as tensors: their names, batch axes, zeros for 2 rows, and rows before the first step.

    `inputs` are the names of the arguments that are no state. `is_required`: forward does not run without a state, and
    zeros were chosen here.
    """

    called: Called
    inputs: tuple[str, ...]
    names: list[str]
    axes: list[int]
    zeros: list[Tensor]
    initial: dict[str, np.ndarray]
    is_required: bool


class _WrongReadingError(Exception):
    """The module cannot be called in this way, or gives something else in two runs than in one."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One way to call the module in which two runs give what one does, and its state's tensors."""

    called: Called
    calling: Calling
    states: dict[str, Tensor]
    axes: list[int]


def find_state_argument(module: nn.Module, examples: Sequence[Example]) -> StateArgument | None:
    """Return the state that a module takes and returns, or None where its signature shows none.

    Every way to read the signature and the result is tried, over sequences and then over single steps: that one is
    taken in which two runs, the second from the state that the first returned, give what one run gives.

    Raises:
        NoStateFoundError: An argument is named like a state, but in no way is it one; or two ways differ.
        NotStreamableError: Where the module starts from cannot be found.
    """
    tried: dict[bool, list[str]] = {False: [], True: []}
    runs_sequences = has_run = False
    is_single = all(example.is_single for example in examples)
    for one_step, reasons in tried.items():
        if one_step and runs_sequences and not is_single:
            break  # it may take the features of a step for steps
        for arguments in possible_arguments(module, len(examples)):
            probe = Called(module, Calling(arguments, ((),), packed=False, one_step=one_step), examples)
            try:
                result = run_quietly(probe.first, _drawn(examples, _ROWS, _STEPS))
            except DoesNotRunError as exc:
                reasons.append(str(exc))
                continue
            has_run, runs_sequences = True, runs_sequences or not one_step
            readings = []
            for where, packed in possible_paths(result, arguments):
                calling = Calling(arguments, where, packed, one_step)
                try:
                    readings.append(_read(module, calling, examples))
                except (_WrongReadingError, DoesNotRunError) as exc:
                    reasons.append(str(exc))
                if readings and not one_step:
                    break  # what one run gives has decided
            if readings:
                return _argument(_chosen(module, readings, examples), examples)
    names = _extra_names(module, len(examples))
    if not any(is_state(name) for name in names):
        return None
    raise NoStateFoundError(
        inspect.signature(module.forward), _likeliest([*tried[is_single], *tried[not is_single]], has_run=has_run)
    )


def _extra_names(module: nn.Module, inputs: int) -> list[str]:
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return []
    return list(parameters) if len(parameters) > inputs else []


def _likeliest(reasons: Sequence[str], *, has_run: bool) -> str:
    told = [reason for reason in reasons if not reason.startswith("the module does not run")]
    if not told and has_run:
        return "nothing that it returns can be given back to it as its state"
    told.sort(key=lambda reason: not reason.startswith("two runs"))  # that reading has come furthest
    return [*told, *reasons, "no way to call it with the examples was found"][0]


def _drawn(examples: Sequence[Example], rows: int, steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [example.draw(rows, steps, generator) for example in examples]


def _states(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(AFTER): tensor for name, tensor in found.items() if name.startswith(AFTER)}


def _outputs(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in found.items() if not name.startswith(AFTER)}


def _read(module: nn.Module, calling: Calling, examples: Sequence[Example]) -> _Reading:
    called = Called(module, calling, examples)
    runs = [run_quietly(called, _drawn(examples, rows, steps)) for rows, steps in ((2, 1), (3, 1), (2, 3), (1, 1))]
    two, three, longer, _ = (_states(found) for found in runs)
    if not two:
        raise _WrongReadingError("what would be its state holds no tensor")
    if not _outputs(runs[0]):
        raise _WrongReadingError("it would return nothing but its state")
    axes = []
    for name, tensor in two.items():
        if any(name not in other or other[name].dim() != tensor.dim() for other in (three, longer)):
            raise _WrongReadingError("the state that it returns is another kind of thing for other rows or steps")
        if longer[name].shape != tensor.shape:
            raise _WrongReadingError(
                f"the state that it returns has the shape {list(tensor.shape)} after 1 step and "
                f"{list(longer[name].shape)} after 3: a state keeps its shape"
            )
        grown = [
            axis for axis, sizes in enumerate(zip(tensor.shape, three[name].shape, strict=True)) if sizes == (2, 3)
        ]
        if len(grown) != 1:
            raise _WrongReadingError(f"the state that it returns, of shape {list(tensor.shape)}, has no batch axis")
        axes += grown
    _check_two_runs(called, examples, two)
    _check_effects(called, examples, two)
    if calling.is_all and calling.one_step and not _gives_a_layers_state(module, called, examples):
        raise _WrongReadingError("what it returns may be its output alone")
    return _Reading(called, calling, two, axes)


def _check_two_runs(called: Called, examples: Sequence[Example], like: Mapping[str, Tensor]) -> None:
    """Check that two runs, the second from the state after the first, give what one run does."""
    inputs = _drawn(examples, _ROWS, _STEPS, seed=1)
    one = run_quietly(called, inputs)
    first = run_quietly(called, [e.first_steps(x, _FIRST) for e, x in zip(examples, inputs, strict=True)])
    rest = [x.narrow(e.time_axis, _FIRST, _STEPS - _FIRST) for e, x in zip(examples, inputs, strict=True)]
    second = run_quietly(called, [*rest, *(tensor.clone() for tensor in _states(first).values())])
    for name, tensor in _states(second).items():
        if name not in like or (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
            raise _WrongReadingError(f"the state {name!r} changes its shape or dtype when it is fed back")
    axis, joined = examples[0].time_axis, {}
    for name, whole in one.items():
        a, b = first[name], second[name]
        timed = whole.dim() > axis and whole.shape[axis] == _STEPS and not name.startswith(AFTER)
        joined[name] = torch.cat([a, b], axis) if timed and a.dim() == b.dim() == whole.dim() else b
    if not equal_but_rounding(list(one.items()), list(joined.items())):
        raise _WrongReadingError(
            "two runs, the second from the state that the first returned, give something else than one run over all "
            "steps"
        )


def _check_effects(called: Called, examples: Sequence[Example], states: Mapping[str, Tensor]) -> None:
    """Check that each tensor of the state changes what a step gives."""
    given = list(states.values())
    idle = list(states)
    for seed in range(_EFFECT_RUNS):  # a flag among the inputs may end the effect of a state in some of them
        inputs = _drawn(examples, _ROWS, 1, seed=seed)
        expected = list(run_quietly(called, [*inputs, *(tensor.clone() for tensor in given)]).items())
        for index, name in enumerate(states):
            other = [~t if t.dtype == torch.bool else t + 1 for t in given[index : index + 1]]
            changed = [*given[:index], *other, *given[index + 1 :]]
            found = list(run_quietly(called, [*inputs, *(tensor.clone() for tensor in changed)]).items())
            if name in idle and not equal_but_rounding(expected, found):
                idle.remove(name)
        if not idle:
            return
    raise _WrongReadingError(f"{idle[0]!r} has no effect on what it returns")


def _gives_a_layers_state(module: nn.Module, called: Called, examples: Sequence[Example]) -> bool:
    """Return whether all that a step returns are results of the module's recurrent layers."""
    results: list[Tensor] = []
    handles = [
        part.register_forward_hook(lambda _, __, result: results.extend(tensor for _, tensor in tensors_in(result)))
        for part in module.modules()
        if is_recurrent(part) and part is not module
    ]
    try:
        found = tensors_in(run_quietly(called.first, _drawn(examples, _ROWS, 1)))
    finally:
        for handle in handles:
            handle.remove()
    return is_recurrent(module) or all(any(tensor is result for result in results) for _, tensor in found)


def _chosen(module: nn.Module, readings: Sequence[_Reading], examples: Sequence[Example]) -> _Reading:
    """Return the one reading, or the one whose state all else is computed from; single steps alone do not tell.

    Raises:
        NoStateFoundError: There are several, which give something else.
    """
    inputs = _drawn(examples, _ROWS, _STEPS, seed=2)
    first = readings[0]
    rollout = run_quietly(first.called, inputs)
    differing = [first]
    for other in readings[1:]:
        again = run_quietly(other.called, inputs)
        shared = _outputs(rollout).keys() & _outputs(again).keys()
        same = equal_but_rounding([(n, rollout[n]) for n in shared], [(n, again[n]) for n in shared])
        if not same or not equal_but_rounding(list(_states(rollout).items()), list(_states(again).items())):
            differing.append(other)
    if len(differing) == 1 or _is_named(first):
        return first
    before = [one for one in differing if _others_follow(one, examples)]
    if len(before) == 1:
        return before[0]
    raise NoStateFoundError(
        inspect.signature(module.forward),
        "several of the tensors that it returns have the state's shape, and steps alone do not show which is the "
        'state: return a dict, {"y": y, "state": state}',
    )


def _is_named(reading: _Reading) -> bool:
    keys = [path[0] for path in reading.calling.where if path]
    return bool(keys) and all(isinstance(key, str) and is_state(key) for key in keys)


def _others_follow(reading: _Reading, examples: Sequence[Example]) -> bool:
    """Return whether each output of a step is computed from the state after it, and no state from an output."""
    inputs = _drawn(examples, _ROWS, 1)
    try:
        with quiet(), torch.enable_grad():
            result = reading.called.first(*inputs)
    except RAISED:  # it runs without gradients alone
        return False
    where = reading.calling.where
    if reading.calling.is_all:
        return False
    found = tensors_in(result)
    states = [t for path, t in found if any(path[: len(one)] == one for one in where) and t.requires_grad]
    outputs = [t for path, t in found if not any(path[: len(one)] == one for one in where) and t.requires_grad]
    if not states or not outputs:
        return False
    return all(
        any(grad is not None for grad in torch.autograd.grad(y.sum(), states, retain_graph=True, allow_unused=True))
        for y in outputs
    ) and not any(
        grad is not None
        for state in states
        for grad in torch.autograd.grad(state.sum(), outputs, retain_graph=True, allow_unused=True)
    )


def _argument(reading: _Reading, examples: Sequence[Example]) -> StateArgument:
    names = list(reading.states)
    initial = find_initial_state(reading.called, examples, names, reading.axes)
    zeros = [torch.zeros_like(tensor) for tensor in reading.states.values()]
    arguments = reading.calling.arguments
    return StateArgument(
        reading.called, arguments.inputs, names, reading.axes, zeros, initial, arguments.start == "zeros"
    )
