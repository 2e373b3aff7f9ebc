"""How a module's forward is called with its inputs and its state, and where in its result the state is."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import torch
from torch import Tensor, nn

from export.adopt.names import is_state
from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.state_tree import Path, at, children, name_of, tensors_in, with_tensors

AFTER = "after/"
"""What the names of states after a run begin with."""
_MOST_STATES = 4
_MOST_ARGUMENTS = 24
"""The most ways of reading a signature that are tried."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """Which arguments of forward are inputs and which are the state; `start` is how a call without a state is made.

    `start` is `default` (the arguments are left out), `none` (None is given), `zeros` (as the module's only recurrent
    layer takes them) or the name of a method that makes the state for a number of rows.
    """

    inputs: tuple[str, ...]
    states: tuple[str, ...]
    start: str = "default"


@dataclass(frozen=True, slots=True)
class Calling:
    """Arguments, the path in the result of the state for each of them, and whether a call runs one step.

    `packed`: there is one argument, which takes all parts of the state in a tuple. `one_step`: forward takes and
    returns steps without a time axis.
    """

    arguments: Arguments
    where: tuple[Path, ...]
    packed: bool
    one_step: bool

    @property
    def is_all(self) -> bool:
        """Return whether all that forward returns is both output and state."""
        return self.where == ((),)


_STARTS = ("init_hidden", "initial_state", "init_state", "get_initial_state", "zero_state", "initHidden")


def possible_arguments(module: nn.Module, inputs: int) -> Iterator[Arguments]:
    """Yield the ways in which a forward may take a number of inputs and a state, the likeliest first."""
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return
    taken = [one for one in parameters if one.kind is not one.VAR_KEYWORD]
    if [one.kind for one in taken] == [inspect.Parameter.VAR_POSITIONAL]:
        yield Arguments(tuple(f"x{index}" for index in range(inputs)), ("state",))
        return
    found = []
    for count in range(1, min(_MOST_STATES, len(taken) - inputs) + 1):
        for states in combinations(taken, count):
            rest = [one for one in taken if one not in states and one.kind is not one.VAR_POSITIONAL]
            if len(rest) < inputs or any(one.default is one.empty for one in rest[inputs:]):
                continue
            kept = [one.name for one in rest[:inputs]]
            if any(map(is_state, kept)) and not all(is_state(one.name) for one in states):
                continue  # data would be the state, and a state data
            called = sum(is_state(one.name) for one in states) - sum(is_state(one.name) for one in rest)
            last = -sum(taken.index(one) for one in states)
            found.append((-called, last, Arguments(tuple(kept), tuple(one.name for one in states)), states))
    for _, _, arguments, states in islice(sorted(found, key=lambda one: one[:2]), _MOST_ARGUMENTS):
        required = any(one.default is one.empty and one.kind is not one.VAR_POSITIONAL for one in states)
        yield Arguments(arguments.inputs, arguments.states, "none") if required else arguments
        if required:
            methods = [method for method in _STARTS if callable(getattr(module, method, None))]
            named = all(map(is_state, arguments.states))
            zeros = ["zeros"] if named and _only_layer(module) is not None else []
            for start in (*methods, *zeros):
                yield Arguments(arguments.inputs, arguments.states, start)


def possible_paths(result: Any, arguments: Arguments) -> Iterator[tuple[tuple[Path, ...], bool]]:
    """Yield the likeliest paths of the state in what forward returned, and whether one argument takes several."""
    held = [key for key, value in children(result) if tensors_in(value)]
    count = len(arguments.states)
    if set(arguments.states) < set(held):
        yield tuple((name,) for name in arguments.states), False
    held.sort(key=lambda key: isinstance(key, str) and is_state(key))  # stable: those that are called a state are last
    if count == 1:
        likely = [*held[-1:], *held[:-1]] if len(held) > 1 else []
        yield from ((((key,),), False) for key in likely)
        for size in range(len(held) - 1, 1, -1):
            yield tuple((key,) for key in held[-size:]), True
            yield tuple((key,) for key in held[:size]), True
        yield ((),), False
        return
    if len(held) > count:
        yield tuple((key,) for key in held[-count:]), False
        yield tuple((key,) for key in held[:count]), False
    for key in reversed(held):
        parts = children(at(result, (key,)))
        if len(parts) == count:
            yield tuple((key, part) for part, _ in parts), False


class Called(nn.Module):
    """A module's forward with its inputs, then the tensors of its state or none: it returns a dict of all it gives.

    Outputs are under names that say where they were in the result, states under `after/` and theirs. What the module
    is given it may write into: it is copied before.
    """

    def __init__(self, module: nn.Module, calling: Calling, examples: Sequence[Example]) -> None:
        super().__init__()
        self.module = module
        self._calling, self._examples = calling, tuple(examples)
        self._template: list[Any] = []
        self._parameters_of_forward = list(inspect.signature(module.forward).parameters.values())
        nn.Module.train(self, False)

    def first(self, *inputs: Tensor) -> Any:
        """Call forward once without a state, on the first step where it runs single ones; return what it returns."""
        if self._calling.one_step:
            inputs = tuple(x.select(one.time_axis, 0) for x, one in zip(inputs, self._examples, strict=True))
        return self._call(inputs, self._start(inputs))

    def forward(self, *args: Tensor) -> dict[str, Tensor]:
        inputs, states = args[: len(self._examples)], args[len(self._examples) :]
        given = self._nested(states) if states else self._start(inputs)
        if not self._calling.one_step:
            outputs, parts = self._taken_apart(self._call(inputs, given))
            return outputs | self._states(parts)
        axis, collected = self._examples[0].time_axis, []
        for step in range(inputs[0].shape[axis]):
            now = [x.select(one.time_axis, step) for x, one in zip(inputs, self._examples, strict=True)]
            outputs, parts = self._taken_apart(self._call(now, given))
            given = self._arguments(parts)
            # the next step may write into what this one returned
            collected.append({name: tensor.clone() for name, tensor in outputs.items()})
        found = {name: _stacked([one[name] for one in collected], axis) for name in collected[0]}
        return found | self._states(parts)

    def _start(self, inputs: Sequence[Tensor]) -> Mapping[str, Any]:
        arguments = self._calling.arguments
        if arguments.start == "default":
            return {}
        if arguments.start == "none":
            return dict.fromkeys(arguments.states)
        single = inputs[0].dim() == 1 + len(self._examples[0].step)
        rows = inputs[0].shape[0 if single else self._examples[0].batch_axis]
        made = _zeros(self.module, rows) if arguments.start == "zeros" else _made(self.module, arguments.start, rows)
        return dict(zip(arguments.states, [made] if len(arguments.states) == 1 else made, strict=True))

    def _nested(self, states: Sequence[Tensor]) -> Mapping[str, Any]:
        copies = iter([state.clone() for state in states])
        return self._arguments([with_tensors(part, copies) for part in self._template])

    def _arguments(self, parts: Sequence[Any]) -> Mapping[str, Any]:
        names = self._calling.arguments.states
        return {names[0]: tuple(parts)} if self._calling.packed else dict(zip(names, parts, strict=True))

    def _call(self, inputs: Sequence[Tensor], states: Mapping[str, Any]) -> Any:
        values = dict(zip(self._calling.arguments.inputs, [x.clone() for x in inputs], strict=True)) | dict(states)
        if all(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in self._parameters_of_forward):
            return self.module(*values.values())
        positional: list[Any] = []
        left_out = False
        for one in self._parameters_of_forward:
            if one.name not in values:
                left_out = left_out or one.kind is not one.VAR_POSITIONAL
            elif one.kind is one.VAR_POSITIONAL:
                given = values.pop(one.name)
                positional.extend(given if isinstance(given, tuple | list) else [given])
            elif one.kind is not one.KEYWORD_ONLY and not left_out:
                positional.append(values.pop(one.name))
        return self.module(*positional, **values)

    def _taken_apart(self, result: Any) -> tuple[dict[str, Tensor], list[Any]]:
        """Return the outputs, and the state's part for each argument or, packed, all of them for the one."""
        where = self._calling.where
        outputs = {
            name_of(path): tensor
            for path, tensor in tensors_in(result)
            if self._calling.is_all or not any(path[: len(one)] == one for one in where)
        }
        return outputs, [at(result, one) for one in where]

    def _states(self, parts: list[Any]) -> dict[str, Tensor]:
        if not self._template:
            self._template = parts
        names = self._calling.arguments.states
        found: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            base = "state" if len(names) == 1 else names[index]
            for path, tensor in tensors_in(part, (index,) if self._calling.packed else ()):
                numbered = bool(path) and isinstance(path[0], int)
                inner = name_of(path)[1:] if numbered else f"_{name_of(path)}" if path else ""
                found[f"{AFTER}{base}{inner}"] = tensor
        return found


def _made(module: nn.Module, method: str, rows: int) -> Any:
    """Return what a method makes for a number of rows; where it makes one row, (…, 1, width), that row repeated."""
    make = getattr(module, method)
    try:
        inspect.signature(make).bind(rows)
    except TypeError:
        made = make()
        spread = [
            tensor.expand(*tensor.shape[:-2], rows, -1) if tensor.dim() > 1 and tensor.shape[-2] == 1 else tensor
            for _, tensor in tensors_in(made)
        ]
        return with_tensors(made, iter(spread))
    return make(rows)


def _only_layer(module: nn.Module) -> nn.RNNBase | nn.RNNCellBase | None:
    """Return the recurrent layer of torch's that a module has, if it has just one."""
    found = [part for part in module.modules() if isinstance(part, nn.RNNBase | nn.RNNCellBase)]
    return found[0] if len(found) == 1 else None


def _zeros(module: nn.Module, rows: int) -> Any:
    """Return zeros as the module's only recurrent layer takes its state: h, or h and c."""
    layer = _only_layer(module)
    assert layer is not None
    if isinstance(layer, nn.RNNCellBase):
        h = torch.zeros(rows, layer.hidden_size)
        return (h, h.clone()) if isinstance(layer, nn.LSTMCell) else h
    layers = layer.num_layers * (1 + layer.bidirectional)
    h = torch.zeros(layers, rows, layer.proj_size or layer.hidden_size)
    return (h, torch.zeros(layers, rows, layer.hidden_size)) if layer.mode == "LSTM" else h


def _stacked(steps: list[Tensor], axis: int) -> Tensor:
    if steps[0].dim() < axis:
        raise NotStreamableError("an output of one step has no batch axis")
    return torch.stack(steps, axis)
