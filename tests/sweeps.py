"""Which cases of a sweep over all cells `make test` runs; the others are marked slow and wait for `make test-slow`."""

from collections.abc import Collection, Iterable

import pytest

QUICK_CELLS = frozenset(
    {"lstm", "gru_reset_before", "gru_reset_after", "peephole_lstm", "mut3", "clockwork_rnn", "attention_lstm"}
)
"""Native nodes with and without peepholes, a Scan, a counter of steps, and a state of several axes."""


def sweep(names: Iterable[str], quick: Collection[str] = QUICK_CELLS) -> list[object]:
    """Return one parameter for each name; those not among the quick ones are marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
