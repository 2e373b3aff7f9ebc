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
    """The scale is the largest finite value."""
    assert error([np.inf, 1.5], [np.inf, 1.0]) == 0.5


def test_agreeing_infinities_are_no_difference() -> None:
    """Infinity of the same sign in the same position is equal, and does not make the scale infinite."""
    figure = Figure.of(np.array([-np.inf, np.inf, 3.0]), np.array([-np.inf, np.inf, 4.0]))
    assert (figure.difference, figure.scale, figure.error) == (1.0, 4.0, 0.25)


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


def test_the_scale_is_that_of_all_arrays() -> None:
    """The figure of a tensor is its largest difference over its largest value, whichever arrays they are in."""
    figure = Figure()
    figure.add(np.array([1.0]), np.array([1.5]))
    figure.add(np.array([8.0]), np.array([8.0]))
    assert figure.error == 0.5 / 8
    assert error([1e-45], [0.0]) > 0
    assert error([0.0], [0.0]) == 0.0


def test_float16_is_compared_without_overflow() -> None:
    """Differences are taken in double precision."""
    assert error(np.array([60000.0], np.float16), np.array([-60000.0], np.float16)) == 2.0
