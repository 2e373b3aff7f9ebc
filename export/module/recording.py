"""What a run of a user's module shows: which recurrent layers are called, on what, and from which state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.layers import Layer, is_recurrent, layers_of
from export.module.leaves import leaves_of
from export.module.running import run_quietly


@dataclass(slots=True)
class Calls:
    """The calls of one recurrent module in a run: how many, and the rows, states and results of the first or last."""

    count: int = 0
    rows: int = 0
    states: list[Tensor] | None = None
    results: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Carried:
    """A recurrent module of the user's, its layers, and their states before the first step, (hidden,) each."""

    path: str
    layers: list[Layer]
    initial: dict[str, np.ndarray]
    is_cell: bool

    def names(self, layer: int) -> list[str]:
        """Return the names of a layer's states."""
        where = f"{self.path}.layer{layer}" if len(self.layers) > 1 else self.path
        return [f"{where}.{spec.name}" for spec in self.layers[layer].cell.states]


def record(module: nn.Module, examples: Sequence[Example]) -> list[Carried]:
    """Run a module on random inputs; return the recurrent layers whose states are carried.

    Raises:
        NotStreamableError: A recurrent layer is called twice in a step, starts from a state that depends on the
            input, or is of a kind that cannot be carried.
    """
    generator = torch.Generator().manual_seed(0)
    one, other = (watch(module, [e.draw(2, 1, generator) for e in examples])[0] for _ in range(2))
    carried = []
    for path, calls in one.items():
        if calls.count > 1:
            raise NotStreamableError(f"{path} is called {calls.count} times in one step: it must be called once")
        again = other[path].states
        if (calls.states is None) != (again is None) or any(
            not torch.equal(a, b) for a, b in zip(calls.states or [], again or [], strict=True)
        ):
            raise NotStreamableError(f"{path} starts from a state that depends on the input: it cannot be carried")
        carried.append(_carried(path, module.get_submodule(path), calls))
    return carried


def input_and_state(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the input and the state that a recurrent layer is called with."""
    x = args[0] if args else kwargs.get("input", kwargs.get("x"))
    return x, args[1] if len(args) > 1 else kwargs.get("hx", kwargs.get("state"))


def watch(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[dict[str, Calls], Any]:
    """Run the module and record the calls of its recurrent layers; those that are not called are left out."""
    seen: dict[str, Calls] = {}

    def hook(path: str) -> Any:
        def note(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            calls = seen.setdefault(path, Calls())
            calls.count += 1
            x, given = input_and_state(args, kwargs)
            calls.rows = _rows(path, part, x)
            if calls.count == 1 and given is not None:
                calls.states = [t.clone() for t in ([given] if isinstance(given, Tensor) else list(given))]
            calls.results = [leaf for _, leaf in leaves_of(result)]

        return note

    handles = [
        part.register_forward_hook(hook(path), with_kwargs=True)
        for path, part in module.named_modules()
        if is_recurrent(part)
    ]
    try:
        result = run_quietly(module, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen, result


def _rows(path: str, part: nn.Module, x: Any) -> int:
    """Return the number of rows that a recurrent layer is called with."""
    if isinstance(x, PackedSequence):
        raise NotStreamableError(
            f"{path or 'root'} runs over a packed sequence, which says beforehand when each row ends, as no stream "
            "can: give it the padded one"
        )
    sequence = isinstance(part, nn.RNNBase)
    if x.dim() != 2 + sequence:
        raise NotStreamableError(f"{path or 'root'} is given {list(x.shape)}, which has no batch axis")
    return int(x.shape[1 if sequence and not part.batch_first else 0])


def check_rows(seen: Mapping[str, Calls], rows: int, steps: int) -> None:
    """Refuse layers that run over other rows than the example's: their states belong to those rows."""
    for path, calls in seen.items():
        if calls.rows == rows:
            continue
        found = f"{path or 'root'} runs over {calls.rows} rows where the example has {rows} rows of {steps} steps"
        if calls.rows == steps:
            raise NotStreamableError(
                f"{found}: it takes the steps for rows. Does its batch_first agree with what it is given, and "
                "--time-first with what forward takes?"
            )
        raise NotStreamableError(f"{found}: the states of rows that are folded into the batch cannot be carried")


def _carried(path: str, module: nn.Module, calls: Calls) -> Carried:
    found = Carried(path or "root", layers_of(path or "root", module), {}, not isinstance(module, nn.RNNBase))
    given = calls.states
    if given is None:
        return found
    for index, layer in enumerate(found.layers):
        rows = given if found.is_cell else [tensor[index] for tensor in given]
        for name, row in zip(found.names(index), layer.initial(rows), strict=True):
            if not (row == row[:1]).all():
                raise NotStreamableError(f"{path} starts from another state in every row of a batch")
            found.initial[name] = row[0]
    return found
