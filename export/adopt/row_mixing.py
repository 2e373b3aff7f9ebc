"""Runs that show whether one row of a batch changes what another row gets, on values as far apart as clients can send.

Rows may mix for extreme values alone: a mask or a maximum taken over the batch leaves rows of one loudness as they
are, and silences a quiet row beside a loud one.
"""

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from export.adopt.foreign_model import RunFailedError
from export.adopt.layouts import Layouts, sizes_of, to_rows
from export.adopt.original import Original, Rows
from export.figure import Array

_STEPS = 3
_LOUD = 1e4
_QUIET = 1e-4
_EPSILONS = 16
"""How far a row may differ, in units of its dtype's precision and of its largest value, where shapes are the same."""

Fill = Callable[[np.random.Generator, tuple[int, ...], float], Array]
"""Returns values of a shape; the number is the largest that the dtype holds."""


def _spike(random: np.random.Generator, shape: tuple[int, ...], largest: float) -> Array:
    values = np.zeros(shape)
    values.reshape(-1)[: max(values.size // 4, 1)] = min(_LOUD, largest)
    return values


KINDS: dict[str, Fill] = {
    "usual values": lambda random, shape, largest: 0.5 * random.standard_normal(shape),
    "zeros": lambda random, shape, largest: np.zeros(shape),
    "small values": lambda random, shape, largest: _QUIET * random.standard_normal(shape),
    "values of up to 10,000": lambda random, shape, largest: np.clip(
        _LOUD * random.standard_normal(shape), -largest, largest
    ),
    "saturated values": lambda random, shape, largest: random.choice([-1.0, 1.0], shape),
    "large values of one sign": lambda random, shape, largest: np.full(shape, min(_LOUD, largest)),
    "large negative values": lambda random, shape, largest: np.full(shape, -min(_LOUD, largest)),
    "one large value": _spike,
    "huge values": lambda random, shape, largest: 0.01 * largest * random.standard_normal(shape).clip(-1, 1),
    "the largest values": lambda random, shape, largest: largest * random.choice([-1.0, 1.0], shape),
}
"""What rows are filled with."""


def find_mixing(original: Original, outputs: Layouts) -> str:
    """Return a sentence on rows that influence each other, or nothing where none does.

    Each kind of row is run beside all others, and beside each of them alone; what it gets is compared with what it gets
    beside copies of itself, in a batch of the same size. Rows whose own results are not finite are not compared.
    """
    kinds = list(KINDS)
    batches = [kinds, kinds[::-1], *([a, b] for a, b in itertools.combinations(kinds, 2))]
    copies: dict[tuple[str, int, int], list[Rows] | None] = {}
    sequences = {kind: _sequence(original, KINDS[kind]) for kind in kinds}
    for batch in batches:
        try:
            together = _run(original, outputs, [sequences[kind] for kind in batch])
        except RunFailedError:
            continue
        for row, kind in enumerate(batch):
            key = (kind, len(batch), row)
            if key not in copies:
                copies[key] = _run_copies(original, outputs, sequences[kind], len(batch), row)
            alone = copies[key]
            if alone is None:
                continue
            for name, found, expected in _results(together, alone, row):
                if not _same(found, expected):
                    others = "rows of other values" if len(batch) > 2 else batch[1 - row]
                    return f"{name} of a row of {kind} depends on the other rows of its batch ({others})"
    return ""


def _sequence(original: Original, fill: Fill) -> list[Rows]:
    """Return the inputs of one row, step after step."""
    steps = []
    for _ in range(_STEPS):
        rows = original.draw(1)
        for name, drawn in rows.items():
            shape = to_rows(np.empty(sizes_of(original.layouts[name], 1), bool), original.layouts[name]).shape
            if drawn.dtype.kind == "f":
                values = fill(original.random, shape, float(np.finfo(drawn.dtype).max))
                rows[name] = (np.abs(values) if original.positive else values).astype(drawn.dtype)
            else:
                # an id of a table, a flag or a number: the ends of what is known to be allowed
                low, high = 0, original.vocabularies.get(name, 2) - 1
                values = fill(original.random, shape, 1.0)
                rows[name] = np.where(values > 0, high, np.where(values < 0, drawn, low)).astype(drawn.dtype)
        steps.append(rows)
    return steps


def _run(original: Original, outputs: Layouts, sequences: list[list[Rows]]) -> list[Rows]:
    """Run several rows together; return what each step gives, (batch, …), states by their input's name."""
    states = original.start(len(sequences))
    found = []
    for step in range(_STEPS):
        inputs = {name: np.concatenate([rows[step][name] for rows in sequences]) for name in sequences[0][step]}
        values, states = original.step(inputs, states)
        results = {f"the output {name!r}": to_rows(value, outputs[name]) for name, value in values.items()}
        found.append(results | {f"the state {name!r}": rows for name, rows in states.items()})
    return found


def _run_copies(original: Original, outputs: Layouts, sequence: list[Rows], batch: int, row: int) -> list[Rows] | None:
    """Return what a row gets in a batch of copies of itself; None where it does not run or is not finite."""
    try:
        found = _run(original, outputs, [sequence] * batch)
    except RunFailedError:
        return None
    alone = [{name: values[row] for name, values in step.items()} for step in found]
    finite = all(np.isfinite(values).all() for step in alone for values in step.values() if values.dtype.kind == "f")
    return alone if finite else None


def _results(together: list[Rows], alone: list[Rows], row: int) -> Iterator[tuple[str, Array, Array]]:
    for step, single in zip(together, alone, strict=True):
        for name, expected in single.items():
            yield name, step[name][row], expected


@np.errstate(over="ignore", invalid="ignore")
def _same(found: Array, expected: Array) -> bool:
    """Return whether a row is the same but for the last bits; the batches are of one size, so most are bit for bit."""
    if expected.dtype.kind != "f":
        return bool(np.array_equal(found, expected))
    scale = float(np.abs(expected.astype(np.float64)).max(initial=0.0))
    gap = np.abs(found.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    return bool(gap <= _EPSILONS * float(np.finfo(expected.dtype).eps) * scale)
