"""What a forecast has to beat: persistence and a linear autoregression, and the measure they are compared by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from examples.series import Series

# The variance that the sunspot literature divides by, so that errors on different years can be compared.
REFERENCE_VARIANCE = 1535.0

Floats = NDArray[np.float64]


def average_relative_variance(forecast: ArrayLike, actual: ArrayLike, variance: float = REFERENCE_VARIANCE) -> float:
    """Return the mean squared error over a fixed variance; 0 is perfect, about 1 is no better than the mean.

    Raises:
        ValueError: The two have different shapes or are empty.
    """
    forecast, actual = np.asarray(forecast, dtype=np.float64), np.asarray(actual, dtype=np.float64)
    if forecast.shape != actual.shape or not actual.size:
        raise ValueError(f"forecasts {forecast.shape} and actual values {actual.shape} do not pair")
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
        """Return how many past values a forecast uses."""
        return len(self.coefficients)

    def forecast(self, series: Series, first: int, last: int) -> Floats:
        """Forecast each year from first to last, one step ahead, from the actual values before it."""
        past = _lagged(series.span(first - self.order, last), self.order)
        return np.asarray(self.intercept + past @ self.coefficients, dtype=np.float64)


def fit_autoregression(values: ArrayLike, order: int) -> Autoregression:
    """Fit by least squares.

    Raises:
        ValueError: There are fewer equations than unknowns.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) - order < order + 1:
        raise ValueError(f"{len(values)} values are too few for an autoregression of order {order}")
    past = _lagged(values, order)
    design = np.column_stack([np.ones(len(past)), past])
    solution = np.linalg.lstsq(design, values[order:], rcond=None)[0]
    return Autoregression(intercept=float(solution[0]), coefficients=solution[1:])


def _lagged(values: ArrayLike, order: int) -> Floats:
    """Return (len − order, order): for each value that has them, the values before it, latest first."""
    values = np.asarray(values, dtype=np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(values[:-1], order)
    return np.asarray(windows[:, ::-1], dtype=np.float64)
