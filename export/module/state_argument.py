"""Modules that take their state as an argument and return it, found by running them on what they return."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from export.adopt.names import is_state
from export.module.calling import Called, Calling, possible_arguments, possible_paths
from export.module.errors import DoesNotRunError, NoStateFoundError
from export.module.example import Example
from export.module.initial_state import find_initial_state
from export.module.leaves import equal_but_rounding
from export.module.running import RAISED, quiet, run_quietly
from export.module.state_reading import ROWS, STEPS, Reading, WrongReadingError, drawn, outputs_of, read, states_of
from export.module.state_tree import tensors_in


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
                result = run_quietly(probe.first, drawn(examples, ROWS, STEPS))
            except DoesNotRunError as exc:
                reasons.append(str(exc))
                continue
            has_run, runs_sequences = True, runs_sequences or not one_step
            readings = []
            for where, packed in possible_paths(result, arguments):
                calling = Calling(arguments, where, packed, one_step)
                try:
                    readings.append(read(module, calling, examples))
                except (WrongReadingError, DoesNotRunError) as exc:
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


def _chosen(module: nn.Module, readings: Sequence[Reading], examples: Sequence[Example]) -> Reading:
    """Return the one reading, or the one whose state all else is computed from; single steps alone do not tell.

    Raises:
        NoStateFoundError: There are several, which give something else.
    """
    inputs = drawn(examples, ROWS, STEPS, seed=2)
    first = readings[0]
    rollout = run_quietly(first.called, inputs)
    differing = [first]
    for other in readings[1:]:
        again = run_quietly(other.called, inputs)
        shared = outputs_of(rollout).keys() & outputs_of(again).keys()
        same = equal_but_rounding([(n, rollout[n]) for n in shared], [(n, again[n]) for n in shared])
        if not same or not equal_but_rounding(list(states_of(rollout).items()), list(states_of(again).items())):
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


def _is_named(reading: Reading) -> bool:
    keys = [path[0] for path in reading.calling.where if path]
    return bool(keys) and all(isinstance(key, str) and is_state(key) for key in keys)


def _others_follow(reading: Reading, examples: Sequence[Example]) -> bool:
    """Return whether each output of a step is computed from the state after it, and no state from an output."""
    inputs = drawn(examples, ROWS, 1)
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


def _argument(reading: Reading, examples: Sequence[Example]) -> StateArgument:
    names = list(reading.states)
    initial = find_initial_state(reading.called, examples, names, reading.axes)
    zeros = [torch.zeros_like(tensor) for tensor in reading.states.values()]
    arguments = reading.calling.arguments
    return StateArgument(
        reading.called, arguments.inputs, names, reading.axes, zeros, initial, arguments.start == "zeros"
    )
