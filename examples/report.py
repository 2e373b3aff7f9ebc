"""The tables that the sunspot demo prints."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from examples.baselines import average_relative_variance
from examples.series import TEST_SPANS, Series

# The first year that has enough previous years for every forecast here.
FIRST_EVALUATED_YEAR = 1712

# As commonly quoted from the papers. They show the scale only: the series has been revised since, so they cannot be
# compared with the figures computed here.
PUBLISHED = {
    "Weigend, Huberman & Rumelhart 1990, network *": (0.082, 0.086, 0.35),
    "Tong & Lim 1980, threshold autoregression *": (0.097, 0.097, 0.28),
}
PUBLISHED_NOTE = "* as commonly quoted; the papers themselves were not at hand to check"

Forecasts = Mapping[int, float]


def forecast_table(forecasts: Forecasts, series: Series, first: int, last: int) -> Table:
    """Return a table of each year's forecast, made one year ahead, and its actual value."""
    table = Table(title=f"Sunspots, one year ahead, {first}-{last}", title_justify="left")
    for heading in ("year", "forecast", "actual", "error"):
        table.add_column(heading, justify="right")
    for year in range(first, last + 1):
        forecast, actual = forecasts[year], series[year]
        table.add_row(str(year), f"{forecast:.1f}", f"{actual:.1f}", f"{forecast - actual:+.1f}")
    return table


def spans(last_training_year: int) -> tuple[tuple[int, int], ...]:
    """Return the spans of years that are evaluated, each (first, last): the training years, then the held-out ones."""
    return ((FIRST_EVALUATED_YEAR, last_training_year), *TEST_SPANS)


def measure(forecasts: Forecasts, series: Series, evaluated: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Return the average relative variance of the forecasts on each span of years."""
    return tuple(
        average_relative_variance([forecasts[year] for year in range(first, last + 1)], series.span(first, last))
        for first, last in evaluated
    )


def variance_table(ours: Mapping[str, Sequence[float]], evaluated: Sequence[tuple[int, int]]) -> Table:
    """Return a table of the average relative variance of each method on each span, then the published figures."""
    table = Table(title="Average relative variance (0 is perfect, 1 is the mean)", title_justify="left")
    table.add_column("method")
    for number, (first, last) in enumerate(evaluated):
        table.add_column(f"{first}-{last}" + (" (training)" if number == 0 else ""), justify="right")
    for rows in (ours, PUBLISHED):
        for method, figures in rows.items():
            table.add_row(method, *(f"{figure:.3f}" for figure in figures))
        table.add_section()
    table.caption = PUBLISHED_NOTE
    table.caption_justify = "left"
    return table
