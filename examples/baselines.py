"""Baseline forecasts (persistence and linear autoregression), and the error measure of the comparison."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from examples.series import Series

# The variance by which the sunspot literature divides, so that errors on different years can be compared.
REFERENCE_VARIANCE = 1535.0

Floats = NDArray[np.float64]


def average_relative_variance(forecast: ArrayLike, actual: ArrayLike, variance: float = REFERENCE_VARIANCE) -> float:
    """Return the mean squared error divided by a fixed variance; 0 is perfect, about 1 is no better than the mean.

    Raises:
        ValueError: The arrays have different shapes or are empty.
    """
    forecast, actual = np.asarray(forecast, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if forecast.shape != actual.shape or not actual.size:
        raise ValueError(f"forecasts {forecast.shape} and actual values {actual.shape} differ in shape or are empty")
    return float(np.mean((forecast - actual) ** 2) / variance)


def persistence(series: Series, first: int, last: int) -> Floats:
    """Forecast each year from first to last as the value of the year before."""
    return series.span(first - 1, last - 1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Autoregression:
    """A linear forecast from the last `order` values: intercept + Σ coefficients[k] · value[t − 1 − k]."""

    intercept: float
    coefficients: Floats

    @property
    def order(self) -> int:
        """Return the number of previous values that a forecast uses."""
        return len(self.coefficients)

    def forecast(self, series: Series, first: int, last: int) -> Floats:
        """Forecast each year from first to last, one step ahead, from the actual values before it."""
        lagged = _lagged(series.span(first - self.order, last), self.order)
        return np.asarray(self.intercept + lagged @ self.coefficients, dtype=np.float64)


def fit_autoregression(values: ArrayLike, order: int) -> Autoregression:
    """Fit an autoregression of the given order by least squares.

    Raises:
        ValueError: The values give fewer equations than there are coefficients.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) - order < order + 1:
        raise ValueError(f"{len(values)} values are too few for an autoregression of order {order}")
    lagged = _lagged(values, order)
    design = np.column_stack([np.ones(len(lagged)), lagged])
    solution = np.linalg.lstsq(design, values[order:], rcond=None)[0]
    return Autoregression(intercept=float(solution[0]), coefficients=solution[1:])


def _lagged(values: ArrayLike, order: int) -> Floats:
    """Return the `order` values before each value that has as many, latest first: (len − order, order)."""
    values = np.asarray(values, dtype=np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(values[:-1], order)
    return np.asarray(windows[:, ::-1], dtype=np.float64)
