"""The sizes of states that the file leaves open: runs show at what shape a state settles, or that it grows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from export.adopt.behaviour import close
from export.adopt.errors import AdoptError, GrowingStateError, OpenStateError, SettlingStateError
from export.adopt.foreign_model import RunFailedError
from export.adopt.layouts import candidate_layouts
from export.adopt.options import MOST_BEFORE
from export.adopt.original import Original, Rows
from export.adopt.origins import is_recurrent
from export.figure import Array
from export.graphs import all_graphs

_SIZES = (1, 2, 3, 4, 8, 16, 64, 256, 1024, 4096)
"""Sizes that an open axis starts with; a cache that keeps its newest N is cut to N by one step if it is longer."""
_SETTLED_WITHIN = 8
_MOST_COMPARED = 300
_MOST_CANDIDATES = 8

Shapes = dict[str, tuple[int, ...]]
"""State → its shape without the batch."""


def settle_open_states(original: Original) -> tuple[Original, list[str]]:
    """Return the original with an initial value for each state of open size that settles, and a sentence for each.

    A state that keeps any size it is given is left as it is. A start of the settled size is zeros, or the value that
    the user gives, broadcast or with zeros before or behind it; it must give what the smaller start gives.

    Raises:
        GrowingStateError: A state is longer after every step.
        SettlingStateError: A state settles, but no start of that size gives what a smaller one gives.
    """
    open_names = _open_states(original)
    if not open_names:
        return original, []
    given = original.options.initial
    bare = {name: value for name, value in given.items() if name not in open_names}
    free = replace(original, options=replace(original.options, initial=bare))
    settled = _settled(free)
    changed = {name: shape for name, shape in (settled or {}).items() if name in open_names}
    if not changed or all(name in given and _shape_of(given[name], shape) == shape for name, shape in changed.items()):
        return original, []
    short = _smallest(original if given.keys() & changed.keys() else free)
    if short is None:
        return original, []
    for initial in _starts(original, changed):
        tried = replace(original.options, initial=given | initial)
        if _gives_the_same(short, replace(original, options=tried)):
            findings = [_told(name, shape, name in given) for name, shape in changed.items()]
            return replace(original, options=tried), findings
    raise SettlingStateError(changed, tuple(name for name in changed if name in given))


def _open_states(original: Original) -> list[str]:
    """Return the states that have a size which the file does not say."""
    foreign, pairs, options = original.foreign, original.pairs, replace(original.options, initial={})
    try:
        candidate_layouts(foreign, pairs, options)
    except OpenStateError:
        pass
    except AdoptError:
        return []
    else:
        return []
    try:
        one, two = (candidate_layouts(foreign, pairs, options, open_size=size)[0].layouts for size in (1, 2))
    except AdoptError:
        return []  # it is raised again, and told, when the layouts are found
    return [pair.source for pair in pairs if one[pair.source].inner != two[pair.source].inner]


def _shape_of(value: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a given value's shape without a batch axis of 1 in front, where the state's shape has no such axis."""
    return value.shape[1:] if value.ndim == len(shape) + 1 and value.shape[0] == 1 else value.shape


def _settled(original: Original) -> Shapes | None:
    """Return the shapes at which states settle, whatever size they start with; None where that cannot be told.

    Raises:
        GrowingStateError: They run with several sizes, and settle from none of them.
    """
    ends: list[tuple[Shapes, Shapes]] = []
    growing: list[tuple[Shapes, Shapes]] = []
    for tried in _tried(original):
        try:
            start, end, is_settled = _run_until_settled(tried)
        except RunFailedError:
            continue
        (ends if is_settled else growing).append((start, end))
        if len(ends) > 1:
            return ends[0][1] if ends[0][1] == ends[1][1] else None
    if ends:
        start, end = ends[0]
        return end if start != end and not growing else None
    if len(growing) > 1:
        start, end = growing[0]
        for pair in original.pairs:
            before, after = start[pair.source], end[pair.source]
            if len(before) == len(after) and any(n > m for n, m in zip(after, before, strict=True)):
                raise GrowingStateError(pair.source, pair.target, before, after)
    return None


def _tried(original: Original, sizes: Sequence[int] = _SIZES) -> Iterator[Original]:
    """Yield the original with layouts of one open size after another, those that run."""
    for size in sizes:
        try:
            candidates = candidate_layouts(original.foreign, original.pairs, original.options, open_size=size)
        except AdoptError:
            return  # it is raised again, and told, when the layouts are found
        for candidate in candidates[:_MOST_CANDIDATES]:
            tried = replace(original, layouts=candidate.layouts)
            if sum(int(np.prod(candidate.layouts[pair.source].inner)) for pair in original.pairs) > 8 * MOST_BEFORE:
                return
            try:
                tried.step(tried.draw(1), tried.start(1))
            except RunFailedError:
                continue
            yield tried
            break


def _run_until_settled(original: Original) -> tuple[Shapes, Shapes, bool]:
    """Return the shapes before the first step and after the last one run, and whether the last changed none.

    Raises:
        RunFailedError: The model does not run on the states that it gave.
    """
    states = original.start(1)
    first = before = _shapes(states)
    for step in range(_SETTLED_WITHIN):
        _, states = original.step(original.draw(1), states)
        after = _shapes(states)
        if after == before:
            return first, after, True
        before = after
        if step == 0:
            after_one = after
    return first, after_one, False


def _shapes(states: Rows) -> Shapes:
    return {name: rows.shape[1:] for name, rows in states.items()}


def _smallest(original: Original) -> Original | None:
    """Return the original with the smallest open sizes on which it runs: empty states, where it takes them."""
    nodes = [node for graph in all_graphs(original.foreign.model.graph) for node in graph.node]
    # onnxruntime ends the process where a recurrent layer runs no step
    first = () if any(is_recurrent(node) for node in nodes) or original.foreign.model.functions else (0,)
    return next(_tried(original, (*first, *_SIZES)), None)


def _starts(original: Original, shapes: Shapes) -> Iterator[dict[str, Array]]:
    """Yield initial values of the settled shapes, (*inner), for the states that are not of it yet."""
    given = original.options.initial
    for way in ("broadcast", "before", "behind"):
        found = {}
        for name, shape in shapes.items():
            value = given.get(name, np.zeros(()))
            row = value.reshape(_shape_of(value, shape))
            try:
                found[name] = np.broadcast_to(row, shape) if way == "broadcast" else _padded(row, shape, way)
            except ValueError:
                break
        else:
            yield found


def _padded(row: Array, shape: tuple[int, ...], way: str) -> Array:
    """Return a value with zeros before or behind it along every axis.

    Raises:
        ValueError: It is larger than the shape along an axis.
    """
    if row.ndim == 0:
        return np.broadcast_to(row, shape)
    missing = [n - m for n, m in zip(shape, row.shape, strict=True)]
    return np.pad(row, [(count, 0) if way == "before" else (0, count) for count in missing])


def _gives_the_same(short: Original, long: Original) -> bool:
    """Return whether two starts give the same outputs, until states that begin shorter are of full length."""
    try:
        candidates = candidate_layouts(long.foreign, long.pairs, long.options)
    except AdoptError:
        return False
    names = [pair.source for pair in long.pairs]
    for candidate in candidates[:_MOST_CANDIDATES]:
        if any(candidate.layouts[name].batch != short.layouts[name].batch for name in candidate.layouts):
            continue
        full = replace(long, layouts=candidate.layouts)
        longest = max(max(candidate.layouts[name].inner, default=1) for name in names)
        one, other = short.start(1), full.start(1)
        fed = {pair.target for pair in long.pairs}
        try:
            for _ in range(min(longest + 4, _MOST_COMPARED)):
                drawn = short.draw(1)
                found, one = short.step(drawn, one)
                expected, other = full.step(drawn, other)
                if not all(close(found[name], expected[name]) for name in found if name not in fed):
                    return False
        except RunFailedError:
            continue
        return all(close(one[name], other[name]) for name in one) or longest + 4 > _MOST_COMPARED
    return False


def _told(name: str, shape: tuple[int, ...], given: bool) -> str:
    size = "×".join(map(str, shape))
    start = "the value that is given" if given else "zeros"
    return f"the state {name!r} settles at {size}: it starts from {start} of that size, which gives what less gives"
