"""Which axes are the batch and the time: the layouts that the declared shapes allow. Runs decide between them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.adopt.errors import AmbiguousError, BadOptionError, NotServableError, OpenStateError
from export.adopt.foreign_model import Dim, ForeignModel, Port
from export.adopt.names import words
from export.adopt.options import AdoptOptions
from export.adopt.pairing import Pair
from export.adopt.plan import Layout

_BATCH_WORDS = ("batch", "b", "n", "bs", "bsz", "batch_size", "batchsize", "num_sequences", "streams")
_TIME_WORDS = ("time", "t", "seq", "seq_len", "sequence", "sequence_length", "length", "steps", "frames", "len", "l")
_LENGTH_WORDS = frozenset(
    (
        *("time", "seq", "sequence", "length", "len", "steps", "frames", "samples", "window", "chunk"),
        *("past", "cache", "history", "hist", "context", "ctx", "kept", "memory", "mem"),
    )
)
_MOST_CANDIDATES = 256

Layouts = dict[str, Layout]
"""A layout for every input that is not constant."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Possible layouts of all inputs; `rank` is lower where names suggest them."""

    layouts: Layouts
    rank: int


def candidate_layouts(
    foreign: ForeignModel, pairs: tuple[Pair, ...], options: AdoptOptions, *, open_size: int | None = None
) -> list[Candidate]:
    """Return the layouts that the inputs' declared shapes allow, the most likely first.

    `open_size` is used for sizes of states that are not known.

    Raises:
        OpenStateError: There is such a size, and no `open_size`.
        AmbiguousError: An axis has no fixed size, and is neither the batch nor the time.
        BadOptionError: An option names an input or an axis that the model does not have.
    """
    sources = {pair.source: pair for pair in pairs}
    ports = {name: port for name, port in foreign.inputs.items() if name not in options.constants}
    _check_names(foreign, ports, sources, options)
    choices = []
    for name, port in ports.items():
        found = []
        refusals: list[NotServableError | AmbiguousError] = []
        for axis in _batch_axes(port, options):
            try:
                found.append(_read(foreign, port, axis, sources.get(name), options, open_size))
            except (NotServableError, AmbiguousError) as exc:
                refusals.append(exc)
        if not found:
            raise refusals[0]
        choices.append([(name, layout) for layout in found])
    combinations = [dict(one) for one in itertools.islice(itertools.product(*choices), 16 * _MOST_CANDIDATES)]
    # a file may give one name to sizes that differ: then names are ignored
    consistent = [layouts for layouts in combinations if _consistent(layouts, ports)] or combinations
    candidates = [Candidate(layouts, _rank(layouts, ports)) for layouts in consistent]
    # sorted is stable: of those that are equally likely the first axis comes first
    return sorted(candidates, key=lambda candidate: candidate.rank)[:_MOST_CANDIDATES]


def _batch_axes(port: Port, options: AdoptOptions) -> list[int | None]:
    if port.name in options.batch_axes:
        return [options.batch_axes[port.name]]
    if port.free and len(port.dims) > 1 and port.dims[0] == 1:
        # the leading 1 may be the batch, and what is open the time or the length of a cache
        return [*(axis for axis in port.free if not _names_length(str(port.dims[axis]))), 0]
    if port.free:
        return list(port.free)
    # only one row can be run: a first axis of size 1 is the batch, else the tensor has none
    return [0] if len(port.dims) > 1 and port.dims[0] == 1 else [None]


def _names_length(dim: str) -> bool:
    """Return whether the name of a size says that it is a length: of time, of a window or of a cache."""
    return not dim.startswith("?:") and bool(set(words(dim)) & _LENGTH_WORDS)


def _read(
    foreign: ForeignModel,
    port: Port,
    batch: int | None,
    pair: Pair | None,
    options: AdoptOptions,
    open_size: int | None,
) -> Layout:
    axes = [axis for axis in range(len(port.dims)) if axis != batch]
    dims = [port.dims[axis] for axis in axes]
    if pair is not None:
        return Layout(_state_sizes(foreign, port, pair, axes, options, open_size), batch)
    if port.name in options.time_axes:
        known = options.time_axes[port.name]
        return Layout(
            tuple(1 if isinstance(dim, str) else dim for dim in dims),
            batch,
            None if known is None else axes.index(known),
        )
    dims = _without_overlap(port, dims, options)
    given = options.steps.get(port.name)
    if given is not None:
        if len(given) == len(dims) - 1 and (open_ := _time_index(dims)) is not None:
            given = (*given[:open_], 1, *given[open_:])
        fits = len(given) == len(dims) and all(a == b or isinstance(a, str) for a, b in zip(dims, given, strict=True))
        if not fits:
            raise NotServableError(f"--step {port.name}={'x'.join(map(str, given))} does not fit {port}")
        return Layout(given, batch, _fixed_time(given))
    open_axes = [index for index, dim in enumerate(dims) if isinstance(dim, str)]
    if not open_axes:
        return Layout(tuple(int(dim) for dim in dims), batch, _fixed_time(tuple(int(dim) for dim in dims)))
    if len(open_axes) > 1:
        raise AmbiguousError(
            f"the input {port} has several axes of no fixed size besides the batch",
            [str(dims[index]).removeprefix("?:") for index in open_axes],
            f"--step {port.name}=SIZE (or SIZExSIZE): the shape of one step, without the batch",
        )
    return Layout(tuple(1 if isinstance(dim, str) else dim for dim in dims), batch, open_axes[0])


def _without_overlap(port: Port, dims: list[Dim], options: AdoptOptions) -> list[Dim]:
    """Return the sizes of what is new in a step, where the overlap is part of an axis of fixed size."""
    count = options.overlaps.get(port.name, 0)
    fixed = [dim for dim in dims if not isinstance(dim, str)]
    if not count or len(fixed) < len(dims) or not dims or (len(dims) == 2 and dims[0] == 1):
        return dims
    if count >= max(fixed):
        raise BadOptionError(
            f"--overlap {port.name}:{count}",
            f"{port} takes {max(fixed)} values at once, so at most {max(fixed) - 1} can be of the step before",
        )
    steps = [
        tuple(size - count if at == axis else size for at, size in enumerate(fixed))
        for axis, dim in enumerate(fixed)
        if dim > count
    ]
    given = options.steps.get(port.name)
    if given in steps or len(steps) == 1:
        return [*(given if given in steps and given is not None else steps[0])]
    raise AmbiguousError(
        f"--overlap {port.name}:{count} may be along several axes of {port}",
        ["x".join(map(str, step)) for step in steps],
        f"--step {port.name}=SIZExSIZE, the new values of a step, as listed",
    )


def _time_index(dims: list[int | str]) -> int | None:
    """Return the index of the only open size, or of the only one whose name means time."""
    indices = [index for index, dim in enumerate(dims) if isinstance(dim, str)]
    if len(indices) > 1:
        indices = [index for index in indices if str(dims[index]).lower() in _TIME_WORDS]
    return indices[0] if len(indices) == 1 else None


def _fixed_time(sizes: tuple[int, ...]) -> int | None:
    """Return the index of a time axis of fixed size 1: a leading 1 before the features."""
    return 0 if len(sizes) == 2 and sizes[0] == 1 else None


def _state_sizes(
    foreign: ForeignModel, port: Port, pair: Pair, axes: list[int], options: AdoptOptions, open_size: int | None
) -> tuple[int, ...]:
    """Return a state's sizes without the batch; those that the input leaves open are the output's, or the initial's."""
    target = foreign.outputs[pair.target].dims
    given = options.initial.get(port.name)
    sizes = []
    for index, axis in enumerate(axes):
        dim = port.dims[axis]
        if isinstance(dim, str) and len(target) == len(port.dims):
            dim = target[axis]
        if isinstance(dim, str) and given is not None:
            known = given.shape if given.ndim == len(axes) else tuple(given.shape[a] for a in axes if a < given.ndim)
            dim = known[index] if len(known) == len(axes) else dim
        if isinstance(dim, str) and open_size is None:
            raise OpenStateError(port.name, port, str(port.dims[axis]).removeprefix("?:"))
        sizes.append(open_size if isinstance(dim, str) and open_size is not None else int(dim))
    return tuple(sizes)


def _consistent(layouts: Layouts, ports: Mapping[str, Port]) -> bool:
    """Return whether each name of a size means the batch in all inputs or in none."""
    roles: dict[str, bool] = {}
    for name, layout in layouts.items():
        for axis, dim in enumerate(ports[name].dims):
            if isinstance(dim, str) and roles.setdefault(dim, axis == layout.batch) != (axis == layout.batch):
                return False
    return True


def is_called_batch(dim: Dim) -> bool:
    """Return whether an open size has a name that says it is the batch."""
    return isinstance(dim, str) and (dim.lower() in _BATCH_WORDS or "batch" in dim.lower())


def is_called_time(dim: Dim) -> bool:
    """Return whether an open size has a name that says it counts steps."""
    return isinstance(dim, str) and dim.lower() in _TIME_WORDS


def _rank(layouts: Layouts, ports: Mapping[str, Port]) -> int:
    """Return how many batch axes are not called a batch, plus how many time axes are."""
    odd = 0
    for name, layout in layouts.items():
        for axis, dim in enumerate(ports[name].dims):
            if isinstance(dim, str):
                odd += is_called_batch(dim) != (axis == layout.batch)
    return odd


def _check_names(
    foreign: ForeignModel, ports: Mapping[str, Port], sources: Mapping[str, Pair], options: AdoptOptions
) -> None:
    data = [name for name in ports if name not in sources]
    for option, names, known in (
        ("--constant", options.constants, list(foreign.inputs)),
        ("--batch-axis", options.batch_axes, [*ports, *foreign.outputs]),
        ("--step", options.steps, data),
        ("--overlap", options.overlaps, data),
        ("--initial", options.initial, list(sources)),
        ("--state", options.states, list(foreign.inputs)),
    ):
        for name in names:
            if name not in known:
                raise BadOptionError(f"{option} {name}", f"there is none of this name, only {', '.join(known)}")
    for name, axis in options.batch_axes.items():
        port = ports.get(name)
        if port is not None and axis >= len(port.dims):
            raise BadOptionError(f"--batch-axis {name}:{axis}", f"{port} has no such axis")
        if port is not None and port.dims[axis] != 1 and axis not in port.free:
            raise BadOptionError(f"--batch-axis {name}:{axis}", f"this axis of {port} is of a fixed size")


def sizes_of(layout: Layout, batch: int, time: int = 1, extra: int = 0, axis: int = 0) -> tuple[int, ...]:
    """Return a foreign tensor's size for a batch and a number of steps, `extra` longer along one inner axis."""
    inner = [dim * time if at == layout.time else dim for at, dim in enumerate(layout.inner)]
    if extra:
        inner[axis] += extra
    return tuple(inner) if layout.batch is None else (*inner[: layout.batch], batch, *inner[layout.batch :])


def to_rows(tensor: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a foreign tensor with its batch axis first; a batch of one where it has none."""
    return tensor[None] if layout.batch is None else np.moveaxis(tensor, layout.batch, 0)


def from_rows(rows: np.ndarray, layout: Layout) -> np.ndarray:
    """Return rows, (batch, *inner), as the foreign tensor."""
    return rows[0] if layout.batch is None else np.moveaxis(rows, 0, layout.batch)
