"""Where the batch and the time stand: candidates from the declared shapes, settled by runs of the original."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.adopt.errors import AmbiguousError, BadWishError, NotServableError, OpenStateError
from export.adopt.foreign import Dim, Foreign, Port
from export.adopt.pairs import Pair
from export.adopt.plan import Layout
from export.adopt.wishes import Wishes

_BATCH_WORDS = ("batch", "b", "n", "bs", "bsz", "batch_size", "batchsize", "num_sequences", "streams")
_TIME_WORDS = ("time", "t", "seq", "seq_len", "sequence", "sequence_length", "length", "steps", "frames", "len", "l")
_MOST_READINGS = 256

Reading = dict[str, Layout]
"""A layout for every input that is not constant."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to read all inputs; `rank` is lower where names speak for it."""

    layouts: Reading
    rank: int


def readings(
    foreign: Foreign, pairs: tuple[Pair, ...], wishes: Wishes, *, open_size: int | None = None
) -> list[Candidate]:
    """Return every way to read the inputs that their declared shapes allow, the most likely first.

    `open_size` stands in for the sizes of states that are fixed nowhere.

    Raises:
        OpenStateError: There is such a size, and nothing to stand in for it.
        AmbiguousError: An axis has no fixed size, and is neither the batch nor the time.
        BadWishError: An option names an input or an axis that is not there.
    """
    sources = {pair.source: pair for pair in pairs}
    ports = {name: port for name, port in foreign.inputs.items() if name not in wishes.constants}
    _check_names(foreign, ports, sources, wishes)
    choices = []
    for name, port in ports.items():
        found = []
        refusals: list[NotServableError | AmbiguousError] = []
        for axis in _batch_axes(port, wishes):
            try:
                found.append(_read(foreign, port, axis, sources.get(name), wishes, open_size))
            except (NotServableError, AmbiguousError) as exc:
                refusals.append(exc)
        if not found:
            raise refusals[0]
        choices.append([(name, layout) for layout in found])
    combinations = [dict(one) for one in itertools.islice(itertools.product(*choices), 16 * _MOST_READINGS)]
    # a file may give one name to sizes that differ: then names count for nothing
    consistent = [reading for reading in combinations if _consistent(reading, ports)] or combinations
    candidates = [Candidate(reading, _rank(reading, ports)) for reading in consistent]
    # sorted keeps the order of those that are equally likely: the first axis comes first
    return sorted(candidates, key=lambda candidate: candidate.rank)[:_MOST_READINGS]


def _batch_axes(port: Port, wishes: Wishes) -> list[int | None]:
    if port.name in wishes.batch_axes:
        return [wishes.batch_axes[port.name]]
    if port.free:
        return list(port.free)
    # only one row can be run: where the batch is the first axis it is taken away, else the tensor is kept whole
    return [0] if len(port.dims) > 1 and port.dims[0] == 1 else [None]


def _read(
    foreign: Foreign, port: Port, batch: int | None, pair: Pair | None, wishes: Wishes, open_size: int | None
) -> Layout:
    axes = [axis for axis in range(len(port.dims)) if axis != batch]
    dims = [port.dims[axis] for axis in axes]
    if pair is not None:
        return Layout(_state_sizes(foreign, port, pair, axes, wishes, open_size), batch)
    dims = _without_overlap(port, dims, wishes)
    wished = wishes.steps.get(port.name)
    if wished is not None:
        if len(wished) == len(dims) - 1 and (open_ := _time_place(dims)) is not None:
            wished = (*wished[:open_], 1, *wished[open_:])
        fits = len(wished) == len(dims) and all(a == b or isinstance(a, str) for a, b in zip(dims, wished, strict=True))
        if not fits:
            raise NotServableError(f"--step {port.name}={'x'.join(map(str, wished))} does not fit {port}")
        return Layout(wished, batch, _fixed_time(wished))
    open_places = [place for place, dim in enumerate(dims) if isinstance(dim, str)]
    if not open_places:
        return Layout(tuple(int(dim) for dim in dims), batch, _fixed_time(tuple(int(dim) for dim in dims)))
    if len(open_places) > 1:
        raise AmbiguousError(
            f"the input {port} has several axes of no fixed size besides the batch",
            [str(dims[place]).removeprefix("?:") for place in open_places],
            f"--step {port.name}=SIZE (or SIZExSIZE): the shape of one step, without the batch",
        )
    return Layout(tuple(1 if isinstance(dim, str) else dim for dim in dims), batch, open_places[0])


def _without_overlap(port: Port, dims: list[Dim], wishes: Wishes) -> list[Dim]:
    """Return the sizes of what is new in a step, where the overlap stands in an axis of fixed size."""
    count = wishes.overlaps.get(port.name, 0)
    if not count or len(dims) != 1 or isinstance(dims[0], str):
        return dims
    if count >= dims[0]:
        raise BadWishError(
            f"--overlap {port.name}:{count}",
            f"{port} takes {dims[0]} values at once, so at most {dims[0] - 1} can be of the step before",
        )
    return [dims[0] - count]


def _time_place(dims: list[int | str]) -> int | None:
    """Return the only open place, or the only one whose name is a time's."""
    places = [place for place, dim in enumerate(dims) if isinstance(dim, str)]
    if len(places) > 1:
        places = [place for place in places if str(dims[place]).lower() in _TIME_WORDS]
    return places[0] if len(places) == 1 else None


def _fixed_time(sizes: tuple[int, ...]) -> int | None:
    """Return the place of a time axis that is fixed to one step: a leading 1 before the features."""
    return 0 if len(sizes) == 2 and sizes[0] == 1 else None


def _state_sizes(
    foreign: Foreign, port: Port, pair: Pair, axes: list[int], wishes: Wishes, open_size: int | None
) -> tuple[int, ...]:
    """Return a state's sizes without the batch; those that the input leaves open are the output's, or the initial's."""
    target = foreign.outputs[pair.target].dims
    given = wishes.initial.get(port.name)
    sizes = []
    for place, axis in enumerate(axes):
        dim = port.dims[axis]
        if isinstance(dim, str) and len(target) == len(port.dims):
            dim = target[axis]
        if isinstance(dim, str) and given is not None:
            known = given.shape if given.ndim == len(axes) else tuple(given.shape[a] for a in axes if a < given.ndim)
            dim = known[place] if len(known) == len(axes) else dim
        if isinstance(dim, str) and open_size is None:
            raise OpenStateError(port.name, port, str(port.dims[axis]).removeprefix("?:"))
        sizes.append(open_size if isinstance(dim, str) and open_size is not None else int(dim))
    return tuple(sizes)


def _consistent(reading: Reading, ports: Mapping[str, Port]) -> bool:
    """Tell whether a name of a size means the batch everywhere or nowhere."""
    roles: dict[str, bool] = {}
    for name, layout in reading.items():
        for axis, dim in enumerate(ports[name].dims):
            if isinstance(dim, str) and roles.setdefault(dim, axis == layout.batch) != (axis == layout.batch):
                return False
    return True


def _rank(reading: Reading, ports: Mapping[str, Port]) -> int:
    """Return how many batch axes are not called a batch, plus how many time axes are."""
    odd = 0
    for name, layout in reading.items():
        for axis, dim in enumerate(ports[name].dims):
            if isinstance(dim, str):
                called = dim.lower() in _BATCH_WORDS or "batch" in dim.lower()
                odd += called != (axis == layout.batch)
    return odd


def _check_names(foreign: Foreign, ports: Mapping[str, Port], sources: Mapping[str, Pair], wishes: Wishes) -> None:
    data = [name for name in ports if name not in sources]
    for option, names, known in (
        ("--constant", wishes.constants, list(foreign.inputs)),
        ("--batch-axis", wishes.batch_axes, [*ports, *foreign.outputs]),
        ("--step", wishes.steps, data),
        ("--overlap", wishes.overlaps, data),
        ("--initial", wishes.initial, list(sources)),
        ("--state", wishes.states, list(foreign.inputs)),
    ):
        for name in names:
            if name not in known:
                raise BadWishError(f"{option} {name}", f"there is none of this name, only {', '.join(known)}")
    for name, axis in wishes.batch_axes.items():
        port = ports.get(name)
        if port is not None and axis >= len(port.dims):
            raise BadWishError(f"--batch-axis {name}:{axis}", f"{port} has no such axis")
        if port is not None and port.dims[axis] != 1 and axis not in port.free:
            raise BadWishError(f"--batch-axis {name}:{axis}", f"this axis of {port} is of a fixed size")


def sizes_of(layout: Layout, batch: int, time: int = 1, extra: int = 0, place: int = 0) -> tuple[int, ...]:
    """Return the size of a foreign tensor for a batch and a number of steps, `extra` longer at an inner place."""
    inner = [dim * time if at == layout.time else dim for at, dim in enumerate(layout.inner)]
    if extra:
        inner[place] += extra
    return tuple(inner) if layout.batch is None else (*inner[: layout.batch], batch, *inner[layout.batch :])


def to_rows(tensor: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a foreign tensor with its batch axis first; one row where it has none."""
    return tensor[None] if layout.batch is None else np.moveaxis(tensor, layout.batch, 0)


def from_rows(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """Return rows, (batch, *inner), as the foreign tensor."""
    return rows[0] if layout.batch is None else np.moveaxis(rows, 0, layout.batch)
