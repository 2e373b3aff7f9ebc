"""Files changed at random are served as their own run over the whole sequence, or nothing is written."""

import tempfile
from pathlib import Path

import pytest

from export.adopt import lift, pipeline
from tests.export.hidden_states import HIDDEN
from tests.export.judged import ADOPTED, REFUSED, WRONG, Subject, judge
from tests.export.mutants import judge_all, judged, mutant

_MUTANTS = 60


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [11])
def test_no_mutant_is_served_wrong(seed: int) -> None:
    """States are hidden, layers turned, convolutions shifted, sizes fixed; a traceback is wrong as well."""
    found = list(judge_all(seed, 0, _MUTANTS))
    wrong = [(words, one.reason, one.message, one.error) for _, words, one in found if one.result == WRONG]
    assert not wrong
    results = [one.result for _, _, one in found]
    assert len(results) == _MUTANTS
    assert min(results.count(ADOPTED), results.count(REFUSED)) > _MUTANTS // 5


@pytest.mark.slow
def test_a_guard_that_is_switched_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison of whole sequences, files are served wrong, and the judgement finds them."""
    monkeypatch.setattr(pipeline, "check_whole_sequence", lambda *arguments, **options: None)
    monkeypatch.setattr(pipeline, "lift_states", lift.Lifted)
    results = [judged(11, number)[1].result for number in range(12)]
    assert results.count(WRONG) >= 3


def test_a_mutant_is_the_same_every_time() -> None:
    """Its number and the seed say all about it, so that one that is wrong can be looked at."""
    one, other = mutant(11, 5), mutant(11, 5)
    assert (one.base, one.mutations) == (other.base, other.mutations)
    assert one.subject.model == other.subject.model


def test_a_wrong_artefact_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence layer that would start from zeros at every step is judged to be wrong."""
    monkeypatch.setattr(pipeline, "check_whole_sequence", lambda *arguments, **options: None)
    monkeypatch.setattr(pipeline, "lift_states", lift.Lifted)
    with tempfile.TemporaryDirectory() as folder:
        found = judge(Subject(HIDDEN["absent"].model(), {"x": 0}), Path(folder))
    assert found.result == WRONG
    assert found.error > 0.1
