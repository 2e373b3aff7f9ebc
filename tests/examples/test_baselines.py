import numpy as np
import pytest

from examples.baselines import average_relative_variance, fit_autoregression, persistence
from examples.series import Series


def a_series(values: list[float], first_year: int = 1900) -> Series:
    return Series(first_year, np.array(values, dtype=np.float32))


def test_error_is_mean_square_over_the_given_variance() -> None:
    """The average relative variance is the mean squared error divided by a fixed variance."""
    assert average_relative_variance([1.0, 2.0], [3.0, 5.0], variance=13.0) == pytest.approx((4 + 9) / 2 / 13)


def test_error_of_a_perfect_forecast_is_zero() -> None:
    """A forecast that equals the actual values has the error 0."""
    assert average_relative_variance([7.0, 9.0], [7.0, 9.0]) == 0.0


def test_error_of_the_mean_is_one() -> None:
    """Always forecasting the mean has the error 1 when the variance is that of the same values."""
    values = np.array([1.0, 4.0, 4.0, 11.0])
    mean = np.full(4, values.mean())
    assert average_relative_variance(mean, values, variance=float(values.var())) == pytest.approx(1.0)


@pytest.mark.parametrize(("forecast", "actual"), [([1.0], [1.0, 2.0]), ([], [])])
def test_unpaired_forecasts_are_refused(forecast: list[float], actual: list[float]) -> None:
    """Forecasts whose number differs from that of the actual values, or empty ones, are refused."""
    with pytest.raises(ValueError, match="differ in shape or are empty"):
        average_relative_variance(forecast, actual)


def test_persistence_is_the_year_before() -> None:
    """Persistence forecasts the value of each year as that of the year before."""
    np.testing.assert_array_equal(persistence(a_series([3, 1, 4, 1, 5]), 1901, 1904), [3, 1, 4, 1])


def test_autoregression_recovers_the_process_it_was_fitted_to() -> None:
    """Least squares on a long AR(9) process finds its coefficients and intercept."""
    rng = np.random.default_rng(7)
    truth = np.array([1.2, -0.6, 0.1, 0.0, -0.1, 0.05, 0.0, 0.02, 0.1])
    values = np.zeros(60_000)
    noise = rng.normal(size=len(values))
    for t in range(9, len(values)):
        values[t] = 2.0 + truth @ values[t - 9 : t][::-1] + noise[t]
    fitted = fit_autoregression(values[1000:], 9)
    assert fitted.order == 9
    np.testing.assert_allclose(fitted.coefficients, truth, atol=0.02)
    assert fitted.intercept == pytest.approx(2.0, abs=0.2)


def test_autoregression_forecasts_from_values_before_the_year_alone() -> None:
    """The forecast of a year uses the values before it, latest first, and not the year itself."""
    doubling = fit_autoregression([1, 2, 4, 8, 16, 32], 1)
    series = a_series([1, 3, 5, 1000])
    np.testing.assert_allclose(doubling.forecast(series, 1901, 1903), [2, 6, 10], rtol=1e-6)


def test_too_few_values_for_the_order_are_refused() -> None:
    """A fit with fewer equations than unknowns is refused."""
    with pytest.raises(ValueError, match="too few"):
        fit_autoregression(np.arange(18.0), 9)
