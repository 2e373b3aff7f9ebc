"""The yearly sunspot series, and the training and test years of the classic benchmark."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

YEARLY = Path(__file__).parent / "data" / "sunspots_yearly.csv"

FIRST_YEAR = 1700
LAST_TRAINING_YEAR = 1920
TEST_SPANS = ((1921, 1955), (1956, 1979))


@dataclass(frozen=True, slots=True)
class Series:
    """A yearly series without gaps: `values`, (years,) float32, starts with the value of `first_year`."""

    first_year: int
    values: NDArray[np.float32]

    @property
    def last_year(self) -> int:
        """Return the year of the last value."""
        return self.first_year + len(self.values) - 1

    def __getitem__(self, year: int) -> float:
        """Return the value of a year.

        Raises:
            IndexError: The series does not cover this year.
        """
        return float(self.span(year, year)[0])

    def span(self, first: int, last: int) -> NDArray[np.float32]:
        """Return the values of the years first to last, both included, (years,).

        Raises:
            IndexError: The series does not cover these years.
        """
        if not self.first_year <= first <= last <= self.last_year:
            raise IndexError(f"{first}-{last} is not within {self.first_year}-{self.last_year}")
        return self.values[first - self.first_year : last - self.first_year + 1]


def load(path: Path = YEARLY) -> Series:
    """Read a CSV file of two columns, year and value, with a header line.

    Raises:
        ValueError: A year is missing or out of order.
        OSError: The file cannot be read.
    """
    with path.open(newline="") as file:
        rows = [(int(year), float(value)) for year, value in list(csv.reader(file))[1:]]
    years = [year for year, _ in rows]
    if years != list(range(years[0], years[0] + len(years))):
        raise ValueError(f"{path}: the years are not consecutive")
    return Series(years[0], np.array([value for _, value in rows], dtype=np.float32))
