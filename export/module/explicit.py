"""A user's module whose states are arguments and results, ready to be traced."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from export.module.calling import Called
from export.module.errors import NotStreamableError
from export.module.layers import Layer
from export.module.leaves import leaves_of
from export.module.outputs import ModuleOutput
from export.module.recording import Carried, input_and_state
from export.module.running import RAISED, said
from export.module.state_argument import StateArgument

DOMAIN = "cellstream"
OPERATOR = "Layer"
"""The nodes in a trace that stand for recurrent layers."""


@dataclass(frozen=True, slots=True)
class Explicit:
    """A module that takes and returns its states as tensors, ready to be traced.

    It takes inputs, then states; it returns outputs, then states. `axes` are the states' batch axes, `zeros` are zero
    states for a batch of 2. Nodes of our own domain in its trace stand for `layers`.
    """

    module: nn.Module
    names: list[str]
    axes: list[int]
    zeros: list[Tensor]
    layers: list[Layer]


def make_explicit(
    module: nn.Module,
    carried: Sequence[Carried],
    argument: StateArgument | None,
    outputs: Sequence[ModuleOutput],
    inputs: int,
) -> Explicit:
    """Return a copy of a module whose states are explicit: those of its layers, or those that it takes itself."""
    if argument is not None:
        takes_state = _TakesState(argument.called, [output.index for output in outputs], len(argument.names))
        return Explicit(takes_state, argument.names, argument.axes, argument.zeros, [])
    layers = [layer for one in carried for layer in one.layers]
    names = [name for one in carried for layer in range(len(one.layers)) for name in one.names(layer)]
    try:
        own = copy.deepcopy(module)
    except RAISED as exc:
        raise NotStreamableError(f"the module cannot be copied, as it must be to be exported: {said(exc)}") from exc
    wrapper = _ExplicitModule(own, _States(), carried, outputs, inputs)
    nn.Module.train(wrapper, False)  # torch's exporter gives a module back in the mode of its outermost part
    zeros = [torch.zeros(2, *spec.shape) for layer in layers for spec in layer.cell.states]
    return Explicit(wrapper, names, [0] * len(names), zeros, layers)


@dataclass(slots=True)
class _States:
    """The states of the trace under way by name: those given, and those after the layers have run."""

    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)


class _TakesState(nn.Module):
    """Takes and returns a module's state as separate tensors, beside the outputs that are wanted."""

    def __init__(self, called: Called, outputs: Sequence[int], states: int) -> None:
        super().__init__()
        self.called, self._outputs, self._states = called, outputs, states
        nn.Module.train(self, False)  # torch's exporter gives a module back in the mode of its outermost part

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        found = list(self.called(*args).values())
        return (*(found[index] for index in self._outputs), *found[-self._states :])


class _ExplicitModule(nn.Module):
    """Takes states as arguments and returns them: the recurrent layers inside read and write `_States`."""

    def __init__(
        self,
        module: nn.Module,
        states_of_trace: _States,
        carried: Sequence[Carried],
        outputs: Sequence[ModuleOutput],
        inputs: int,
    ) -> None:
        super().__init__()
        self.module, self._states, self._outputs, self._inputs = module, states_of_trace, outputs, inputs
        self._names = [name for one in carried for layer in range(len(one.layers)) for name in one.names(layer)]
        first = 0
        for one in carried:
            part = module if one.path == "root" else module.get_submodule(one.path)
            part.forward = _forward(part, one, states_of_trace, first)
            first += len(one.layers)

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        self._states.before = dict(zip(self._names, args[self._inputs :], strict=True))
        found = leaves_of(self.module(*args[: self._inputs]))
        outputs = [found[output.index][1] for output in self._outputs]
        return (*outputs, *(self._states.after[name] for name in self._names))


def _forward(part: nn.Module, one: Carried, states_of_trace: _States, first: int) -> Callable[..., Any]:
    """Return a forward that starts from the carried state, whatever state it is given."""

    def run(x: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        rows, columns = len(states_of_trace.before[one.names(0)[0]]), []
        if x.dim() != 3 or int(x.shape[1]) != rows:  # torch's kernels do not check, and write beyond the states
            raise NotStreamableError(
                f"{one.path} is given {list(map(int, x.shape))}, time first, where the example has {rows} rows"
            )
        for index, layer in enumerate(one.layers):
            names = one.names(index)
            before = [states_of_trace.before[name] for name in names]
            x, *after = _Placeholder.apply(first + index, layer, x, *before)  # type: ignore[no-untyped-call]
            states_of_trace.after.update(zip(names, after, strict=True))
            columns.append([x[-1], *after[1:]] if layer.projection is not None else after)
        return x, columns

    def sequence(*args: Any, **kwargs: Any) -> Any:
        assert isinstance(part, nn.RNNBase)
        x, _ = input_and_state(args, kwargs)
        y, columns = run(x.transpose(0, 1) if part.batch_first else x)
        states = tuple(torch.stack(rows) for rows in zip(*columns, strict=True))
        return (y.transpose(0, 1) if part.batch_first else y), (states if part.mode == "LSTM" else states[0])

    def cell(*args: Any, **kwargs: Any) -> Any:
        x, _ = input_and_state(args, kwargs)
        y, (states,) = run(x.unsqueeze(0))
        if not isinstance(part, nn.RNNCellBase):
            return y.squeeze(0), tuple(states)
        return tuple(states) if isinstance(part, nn.LSTMCell) else states[0]

    return cell if one.is_cell else sequence


class _Placeholder(torch.autograd.Function):
    """One layer, which the exporter replaces by one node of our own domain."""

    @staticmethod
    def forward(ctx: Any, index: int, layer: Layer, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return layer.run(x, states)

    @staticmethod
    def symbolic(g: Any, index: int, layer: Layer, x: Any, *states: Any) -> Any:
        found = g.op(f"{DOMAIN}::{OPERATOR}", x, *states, index_i=index, outputs=1 + len(states))
        found[0].setType(x.type().with_sizes([None, None, layer.width]))
        for value, state in zip(found[1:], states, strict=True):
            value.setType(state.type())
        return found
