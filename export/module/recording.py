"""One run of a user's module, watched: which recurrent layers are called, from what state, and what comes out."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_flatten_with_path, tree_map

from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.layers import Layer, is_recurrent, layers_of
from export.module.running import run_quietly, said

Leaves = list[tuple[str, Tensor]]
"""The tensors in what a module returned, each under a name."""


@dataclass(slots=True)
class _Calls:
    """What was seen of one recurrent module in a run."""

    count: int = 0
    rows: int = 0
    states: list[Tensor] | None = None
    results: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Carried:
    """A recurrent module of the user's, its layers, and the states before the first step, (hidden,) each."""

    path: str
    layers: list[Layer]
    initial: dict[str, np.ndarray]
    is_cell: bool

    def names(self, layer: int) -> list[str]:
        """Return the names of a layer's states."""
        where = f"{self.path}.layer{layer}" if len(self.layers) > 1 else self.path
        return [f"{where}.{spec.name}" for spec in self.layers[layer].cell.states]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor of what the module returns; `time` tells whether it has a step's value for every step.

    `shapes` are those that it had in the runs of `WATCHED`.
    """

    place: int
    name: str
    time: bool
    shapes: tuple[tuple[int, ...], ...]


def refuse_changing(module: nn.Module, examples: Sequence[Example]) -> None:
    """Refuse a module that answers the same input otherwise when it is run again.

    Raises:
        NotStreamableError: It does.
    """
    generator = torch.Generator().manual_seed(3)
    inputs = [example.draw(2, 3, generator) for example in examples]
    one, again = (leaves_of(run_quietly(module, [x.clone() for x in inputs])) for _ in range(2))
    if not alike(one, again):
        raise NotStreamableError(
            "the module gives something else when it is run again on the same input: forward is random (noise, a "
            "random initial state, a dropout that eval() does not end), or keeps something from one run to the next"
        )


def alike(some: Leaves, others: Leaves) -> bool:
    """Tell whether what a module returned twice is the same but for the rounding."""
    return len(some) == len(others) and all(_close(a, b) for (_, a), (_, b) in zip(some, others, strict=True))


def _close(one: Tensor, again: Tensor) -> bool:
    if one.shape != again.shape or one.layout is not torch.strided:
        return one.shape == again.shape
    exact = not one.is_floating_point() and not one.is_complex()
    return bool((one == again if exact else torch.isclose(one, again, 1e-4, 1e-5, equal_nan=True)).all())


def record(module: nn.Module, examples: Sequence[Example]) -> list[Carried]:
    """Run a module on random examples; return what its recurrent layers carry.

    Raises:
        NotStreamableError: A recurrent layer is called twice in a step, starts from a state that depends on the
            input, or is of a kind that cannot be carried.
    """
    generator = torch.Generator().manual_seed(0)
    one, other = (_watch(module, [e.draw(2, 1, generator) for e in examples])[0] for _ in range(2))
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


def given_to(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the input and the state that a recurrent layer of torch's or ours is called with."""
    x = args[0] if args else kwargs.get("input", kwargs.get("x"))
    return x, args[1] if len(args) > 1 else kwargs.get("hx", kwargs.get("state"))


WATCHED = ((2, 3), (4, 5), (1, 1))
"""Rows and steps of the runs that show the shapes of what a module returns."""


def refuse_other_shapes(leaves: Sequence[Leaf], example: Example) -> None:
    """Refuse what is neither one value a row and step nor one value a row.

    Raises:
        NotStreamableError: One of the leaves is of another shape.
    """
    for leaf in leaves:
        counts = {example.batch_axis: 0, example.time_axis: 1} if leaf.time else {0: 0}
        rests = []
        for shape, found in zip(leaf.shapes, WATCHED, strict=True):
            whole = len(shape) >= len(counts) and all(shape[axis] == found[which] for axis, which in counts.items())
            rests.append([size for axis, size in enumerate(shape) if axis not in counts] if whole else None)
        if rests[0] is None or any(rest != rests[0] for rest in rests):
            shapes = ", ".join(
                f"{list(shape)} for {rows} row{'s' * (rows > 1)} of {time} step{'s' * (time > 1)}"
                for shape, (rows, time) in zip(leaf.shapes, WATCHED, strict=True)
            )
            raise NotStreamableError(
                f"what the module returns as {leaf.name!r} has the shape {shapes}: it must have a value for every row "
                "and step, or one for every row. Leave it out of what forward returns, or give it such a shape"
            )


def input_names(module: nn.Module, count: int) -> list[str]:
    """Return the names of the first arguments of a module's forward; arguments without one are numbered.

    Raises:
        NotStreamableError: It takes fewer, or cannot be called with so many.
    """
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError) as exc:
        raise NotStreamableError(f"the module's forward cannot be called with an input: {said(exc)}") from exc
    try:
        signature.bind(*range(count))
    except TypeError as exc:
        raise NotStreamableError(
            f"forward{signature} cannot be called with {count} example{'s' * (count > 1)}: {exc}"
        ) from exc
    names = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [names[place] if place < len(names) else f"x{place}" for place in range(count)]


def leaves_of(result: Any) -> Leaves:
    """Return the tensors in what a module returned, each under a name."""
    if isinstance(result, Tensor):
        return [("y", result)]
    paths, _ = tree_flatten_with_path(_unfolded(result))
    found = [(path, leaf) for path, leaf in paths if isinstance(leaf, Tensor)]
    return [("_".join(_part(part) for part in path), leaf) for path, leaf in found]


def _unfolded(result: Any) -> Any:
    """Return a dict of its fields in the place of each dataclass."""

    def unfold(leaf: Any) -> Any:
        if not is_dataclass(leaf) or isinstance(leaf, type):
            return leaf
        return _unfolded({one.name: getattr(leaf, one.name) for one in fields(leaf)})

    return tree_map(unfold, result)


def _part(part: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            value = getattr(part, attribute)
            return f"y{value}" if isinstance(value, int) else str(value)
    return "y"


def _watch(module: nn.Module, inputs: Sequence[Tensor]) -> tuple[dict[str, _Calls], Any]:
    """Run the module and watch its recurrent layers; those that are not called are left out."""
    seen: dict[str, _Calls] = {}

    def hook(path: str) -> Any:
        def watch(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            calls = seen.setdefault(path, _Calls())
            calls.count += 1
            x, given = given_to(args, kwargs)
            calls.rows = _rows(path, part, x)
            if calls.count == 1 and given is not None:
                calls.states = [t.clone() for t in ([given] if isinstance(given, Tensor) else list(given))]
            calls.results = [leaf for _, leaf in leaves_of(result)]

        return watch

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


def _check_rows(seen: Mapping[str, _Calls], rows: int, steps: int) -> None:
    """Refuse layers that run over other rows than the example's: each carries a state for each of those."""
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


def _carried(path: str, module: nn.Module, calls: _Calls) -> Carried:
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


def find_leaves(module: nn.Module, examples: Sequence[Example], given: int = 0) -> list[Leaf]:
    """Return the leaves that are outputs: all but the last `given`, or all but the recurrent layers' own last states.

    Raises:
        NotStreamableError: There are none; or layers whose states are to be carried run over other rows.
    """
    generator = torch.Generator().manual_seed(0)
    shapes: list[list[tuple[int, ...]]] = []
    for rows, time in WATCHED:
        seen, result = _watch(module, [e.draw(rows, time, generator) for e in examples])
        if not given:
            _check_rows(seen, rows, time)
        leaves = leaves_of(result)
        shapes.append([tuple(leaf.shape) for _, leaf in leaves])
    if not leaves:
        raise NotStreamableError(
            f"the module returns a {type(result).__name__}, in which there is no tensor: it must return one, or a "
            "tuple, list, dict or dataclass of them"
        )
    if len({len(shape) for shape in shapes}) > 1:
        raise NotStreamableError("the module returns another number of tensors for another number of steps")
    states = [] if given else [tensor for calls in seen.values() for tensor in calls.results[1:]]
    axis, found = examples[0].time_axis, []
    for place, (name, leaf) in enumerate(leaves[: len(leaves) - given]):
        had = tuple(shape[place] for shape in shapes)
        time = all(
            len(shape) > axis and shape[axis] == steps for shape, (_, steps) in zip(had[:2], WATCHED[:2], strict=True)
        )
        if time or not any(leaf is state for state in states):
            found.append(Leaf(place, name, time, had))
    if not found:
        raise NotStreamableError("the module returns no tensor but its states")
    return found
