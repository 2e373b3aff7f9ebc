"""Every graph of the zoo is served as its own run over the whole sequence in float64, or refused with the reason."""

import re
from pathlib import Path

import pytest

from tests.export.catalogue import CASES, judged
from tests.export.judged import ADOPTED, REFUSED
from tests.sweeps import sweep

SERVED = [name for name, case in CASES.items() if case.error is None]
# the slow set judges those that other tests run as well, and those of the newer exporter of torch, which takes seconds
_QUICK = [name for name in SERVED if not name.startswith("hidden_") and not name.endswith("_dynamo")]
UNSERVED = [name for name, case in CASES.items() if case.error is not None]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sweep(SERVED, _QUICK))
def test_a_graph_is_served_as_its_own_run(name: str, tmp_path: Path) -> None:
    """What is streamed in chunks, alone and beside others, is the run over the whole sequence by onnx.reference."""
    found = judged(name, tmp_path)
    assert found.result == ADOPTED, f"{found.reason}: {found.message} ({found.error:.2g})"
    if CASES[name].torch:
        assert found.card is not None
        assert found.card.states


@pytest.mark.parametrize("name", UNSERVED)
def test_a_graph_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    """Nothing is written, and the sentence names what is in the way or what would settle it."""
    case = CASES[name]
    found = judged(name, tmp_path)
    assert found.result == REFUSED, f"{found.reason}: {found.message} ({found.error:.2g})"
    assert case.error is not None
    assert found.reason == case.error.__name__ or case.error is Exception
    assert re.search(case.words, found.message), found.message


def test_the_zoo_is_large_enough() -> None:
    """It holds graphs of every kind, a good part of which must not be served."""
    assert len(SERVED) >= 60
    assert len(UNSERVED) >= 25
