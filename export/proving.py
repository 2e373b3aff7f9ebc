"""The last steps of every export: precision, the proof that no arena is copied, the comparison with an oracle."""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
from onnx import ModelProto

from export.comparison import INITIAL_SLOT, Oracle, Runner, compare
from export.precision import TOLERANCES, Precision, lower_precision
from export.structure import check_arenas_stay
from export.transposes import hold_transposes
from models.card import ModelCard

_TIMED_STEPS = 200


def prove(
    served: ModelProto,
    card: ModelCard,
    oracle: Oracle,
    *,
    precision: Precision = Precision.FLOAT32,
    tolerance: float | None = None,
    on_progress: Callable[[str], None] = lambda what: None,
    on_finding: Callable[[str], None] = lambda finding: None,
) -> tuple[ModelProto, ModelCard]:
    """Return the served graph in its precision and its card with the figures of its comparison.

    Raises:
        PrecisionError: The graph cannot be held in the precision, or it would save nothing.
        ArenaCopiedError: The graph would copy an arena.
        ParityError: It differs from the oracle by more than the tolerance, by default that of its precision.
    """
    served = hold_transposes(served)
    lowered, lower_card = lower_precision(served, card, precision)
    data = lowered.SerializeToString(deterministic=True)
    on_progress("checking that no arena is copied")
    check_arenas_stay(data, (spec.name for spec in lower_card.states))
    parity = compare(
        oracle,
        data,
        lower_card,
        tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
        on_comparison=lambda which: on_progress(f"comparing: {which}"),
    )
    if precision is not Precision.FLOAT32:
        before, after = step_seconds(served.SerializeToString(), card), step_seconds(data, lower_card)
        worst = max(parity.errors.values())
        limit = "; one row at a time: another's values would change its scale" if precision is Precision.INT8 else ""
        on_finding(
            f"{precision.value}: {served.ByteSize():,} → {lowered.ByteSize():,} bytes, a row of states "
            f"{row_bytes(card):,} → {row_bytes(lower_card):,}; a step of one row takes {1e6 * before:.1f} → "
            f"{1e6 * after:.1f} µs on this CPU; largest error {worst:.1e} of the scale{limit}"
        )
    return lowered, lower_card.model_copy(update={"parity": parity})


def row_bytes(card: ModelCard) -> int:
    """Return the bytes of one session's state."""
    return sum(int(np.prod(state.shape)) * np.dtype(state.dtype).itemsize for state in card.states)


def step_seconds(model: bytes, card: ModelCard) -> float:
    """Return the median seconds of one step of one row, inputs of zeros."""
    runner = Runner(model, card, seed=0)
    inputs = {spec.name: np.zeros((1, 1, *spec.shape), spec.dtype) for spec in card.inputs}
    read, write = np.full(1, INITIAL_SLOT), np.full(1, INITIAL_SLOT + 2)
    times = []
    for _ in range(_TIMED_STEPS):
        start = perf_counter()
        runner.run(inputs, read, write)
        times.append(perf_counter() - start)
    return median(times)
