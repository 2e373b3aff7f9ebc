from pathlib import Path

import pytest

from examples import series


def test_the_yearly_series_is_complete() -> None:
    """The series in the repository covers every year of the benchmark."""
    sunspots = series.load()
    assert (sunspots.first_year, sunspots.last_year) == (1700, 2008)
    assert sunspots[1700] == 5
    assert sunspots[1957] == pytest.approx(190.2)
    assert len(sunspots.span(series.FIRST_YEAR, series.LAST_TRAINING_YEAR)) == 221


def test_years_outside_the_series_are_refused() -> None:
    """A span that reaches outside the series raises an error, and negative indices do not count from its end."""
    with pytest.raises(IndexError, match="1699-1701"):
        series.load().span(1699, 1701)


def test_a_gap_in_the_years_is_refused(tmp_path: Path) -> None:
    """A file in which a year is missing is refused."""
    file = tmp_path / "gap.csv"
    file.write_text('"YEAR","SUNACTIVITY"\n1700,5\n1702,16\n')
    with pytest.raises(ValueError, match="not consecutive"):
        series.load(file)
