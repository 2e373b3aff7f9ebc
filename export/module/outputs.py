"""Which of the tensors that a module returns are outputs, and whether they have a value for every step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from export.module.errors import NotStreamableError
from export.module.example import Example
from export.module.leaves import leaves_of
from export.module.recording import check_rows, watch

WATCHED = ((2, 3), (4, 5), (1, 1))
"""Rows and steps of the runs that show the shapes of what a module returns."""


@dataclass(frozen=True, slots=True)
class ModuleOutput:
    """One tensor that the module returns, the `index`-th; `time` is whether it has a value for every step.

    `shapes` are those that it has in the runs of `WATCHED`.
    """

    index: int
    name: str
    time: bool
    shapes: tuple[tuple[int, ...], ...]


def refuse_other_shapes(outputs: Sequence[ModuleOutput], example: Example) -> None:
    """Refuse outputs with neither one value for each row and step nor one value for each row.

    Raises:
        NotStreamableError: One of the outputs has another shape.
    """
    for output in outputs:
        counts = {example.batch_axis: 0, example.time_axis: 1} if output.time else {0: 0}
        rests = []
        for shape, found in zip(output.shapes, WATCHED, strict=True):
            whole = len(shape) >= len(counts) and all(shape[axis] == found[which] for axis, which in counts.items())
            rests.append([size for axis, size in enumerate(shape) if axis not in counts] if whole else None)
        if rests[0] is None or any(rest != rests[0] for rest in rests):
            shapes = ", ".join(
                f"{list(shape)} for {rows} row{'s' * (rows > 1)} of {time} step{'s' * (time > 1)}"
                for shape, (rows, time) in zip(output.shapes, WATCHED, strict=True)
            )
            raise NotStreamableError(
                f"what the module returns as {output.name!r} has the shape {shapes}: it must have a value for every "
                "row and step, or one for every row. Leave it out of what forward returns, or give it such a shape"
            )


@dataclass(frozen=True, slots=True)
class Returned:
    """What a module returns: its outputs, and the names of the recurrent layers' last states, which are none."""

    outputs: list[ModuleOutput]
    states: list[str]


def find_outputs(module: nn.Module, examples: Sequence[Example], given: int = 0) -> Returned:
    """Tell outputs from states: all but the last `given` are outputs, or all but the recurrent layers' last states.

    Raises:
        NotStreamableError: There are none; or recurrent layers run over other rows than the module.
    """
    generator = torch.Generator().manual_seed(0)
    shapes: list[list[tuple[int, ...]]] = []
    for rows, time in WATCHED:
        seen, result = watch(module, [e.draw(rows, time, generator) for e in examples])
        if not given:
            check_rows(seen, rows, time)
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
    axis = examples[0].time_axis
    found, left = [], []
    for index, (name, leaf) in enumerate(leaves[: len(leaves) - given]):
        had = tuple(shape[index] for shape in shapes)
        time = all(
            len(shape) > axis and shape[axis] == steps for shape, (_, steps) in zip(had[:2], WATCHED[:2], strict=True)
        )
        if time or not any(leaf is state for state in states):
            found.append(ModuleOutput(index, name, time, had))
        else:
            left.append(name)
    if not found:
        raise NotStreamableError("the module returns no tensor but its states")
    return Returned(found, left)
