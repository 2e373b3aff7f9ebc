"""A figure is never NaN, and is small only where both tensors agree."""

from typing import Any

import numpy as np
import pytest

from export.figure import Figure


def error(found: Any, expected: Any) -> float:
    return Figure.of(np.asarray(found), np.asarray(expected)).error


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([np.nan, 1.0], [0.0, 1.0]),
        ([0.0, 1.0], [np.nan, 1.0]),
        ([np.nan, 1.0], [np.nan, 1.0]),
        ([np.inf, 1.0], [-np.inf, 1.0]),
        ([np.inf, 1.0], [2.0, 1.0]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_values_that_are_not_finite_differ(found: list[float], expected: list[float]) -> None:
    """NaN on either side, infinity where it should not be and another shape are never within a tolerance."""
    assert error(found, expected) == np.inf


def test_infinity_does_not_hide_a_difference() -> None:
    """The spread is that of the finite values."""
    assert error([np.inf, 1.5, 3.0], [np.inf, 1.0, 3.0]) == 0.25


def test_agreeing_infinities_are_no_difference() -> None:
    """Infinity of the same sign in the same position is equal, and does not make the spread infinite."""
    assert error([-np.inf, np.inf, 3.0, 6.0], [-np.inf, np.inf, 4.0, 6.0]) == 0.5


@pytest.mark.parametrize("offset", [0.0, 1.0, -300.0, 101_325.0, 1e9])
def test_an_offset_hides_nothing(offset: float) -> None:
    """A difference of half a percent of the spread is the same figure whatever is added to all values."""
    expected = offset + np.linspace(-100.0, 100.0, 21)[None, :, None]
    found = offset + 1.005 * (expected - offset)
    assert Figure.of(found, expected).error == pytest.approx(0.0025, rel=1e-3)
    assert not Figure.of(found, expected).judge(1e-5).passes


def test_each_feature_is_measured_by_its_own_spread() -> None:
    """A small feature beside a large one is not hidden, down to a hundredth of it in units."""
    rows = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 1000, 2)) * [1000.0, 1.0]
    wrong = rows + np.array([0.0, 0.001])
    assert Figure.of(wrong, rows).error == pytest.approx(0.0001, rel=0.01)
    in_units = Figure(units=np.array([1000.0, 1.0]))
    in_units.add(wrong, rows)
    assert in_units.error == pytest.approx(0.001, rel=0.01)


def judged(found: float, in_float32: float, tolerance: float = 1e-5) -> bool:
    """Judge a value that is off by `found` where torch's own float32 run is off by `in_float32`, of a spread of 1."""
    exact = np.array([0.0, 1.0, 0.5])[None, :, None]
    off = np.array([0.0, 0.0, 1.0])[None, :, None]
    figure = Figure()
    figure.add(exact + found * off, exact + in_float32 * off, exact)
    return figure.judge(tolerance).passes


@pytest.mark.parametrize(
    ("found", "in_float32", "passes"),
    [
        (9e-6, 0.0, True),
        (1.1e-5, 0.0, False),
        (1.1e-5, 1e-6, True),
        (1e-3, 2e-4, True),
        (1e-3, 1e-4, False),
        (0.005, 1e-4, False),
    ],
)
def test_a_difference_is_judged_by_float32s_own(found: float, in_float32: float, passes: bool) -> None:
    """Allowed are the tolerance and eight times what the original's float32 run is off."""
    assert judged(found, in_float32) is passes


def test_an_error_that_float32_makes_later_excuses_none_before() -> None:
    """What rounding grows to at the last step says nothing of the first."""
    exact = np.array([0.0, 1.0, 0.0])[None, :, None]
    late = exact + np.array([0.0, 0.0, 0.1])[None, :, None]
    early = exact + np.array([0.1, 0.0, 0.0])[None, :, None]
    for found, passes in ((late, True), (early, False)):
        figure = Figure()
        figure.add(found, late, exact)
        assert figure.judge(1e-5).passes is passes
    assert figure.judge(1e-5).step == 1


def test_what_float32_cannot_hold_is_no_difference() -> None:
    """Two neighbouring float32 values are the same beside a large offset."""
    values = (101_325 + np.linspace(-1, 1, 50)).astype(np.float32)[None, :, None]
    assert Figure.of(np.nextafter(values, np.float32(np.inf)), values).judge(1e-5).passes
    assert not Figure.of(values + np.float32(0.25), values).judge(1e-5).passes


def test_a_difference_that_is_not_finite_stays() -> None:
    """Nothing that is added later hides NaN or a difference in shape."""
    figure = Figure()
    figure.add(np.array([np.nan]), np.array([1.0]))
    figure.add(np.array([1.0]), np.array([1.0]))
    figure.add(np.array([np.inf]), np.array([np.inf]))
    assert figure.error == np.inf


@pytest.mark.parametrize(
    ("found", "expected", "wanted"),
    [
        (np.array([1, 2]), np.array([1, 2]), 0.0),
        (np.array([10**9, 2]), np.array([10**9 + 1, 2]), np.inf),
        (np.array([True]), np.array([False]), np.inf),
        (np.array([1]), np.array([1.0]), np.inf),
        (np.array([1]), np.array([True]), np.inf),
    ],
)
def test_integers_and_booleans_must_be_equal(found: Any, expected: Any, wanted: float) -> None:
    """One step of a counter is as wrong as any other, whatever its scale; another kind of dtype is wrong too."""
    assert error(found, expected) == wanted


def test_the_spread_is_that_of_all_arrays() -> None:
    """The figure of a tensor is its largest difference over its spread, whichever arrays they are in."""
    figure = Figure()
    figure.add(np.array([1.0]), np.array([1.5]))
    figure.add(np.array([8.0]), np.array([8.0]))
    assert figure.error == 0.5 / 6.5
    assert error([1e-45], [0.0]) > 0
    assert error([0.0], [0.0]) == 0.0
    assert error([5.5, 5.0], [5.0, 5.0]) == 0.1


def test_float16_is_compared_without_overflow() -> None:
    """Differences are taken in double precision."""
    assert error(np.array([60000.0, 6e4], np.float16), np.array([-60000.0, 6e4], np.float16)) == 1.0
