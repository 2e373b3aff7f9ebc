"""What is asked of an export, whatever it is made from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from export.errors import BadToleranceError
from export.precision import Precision

Tell = Callable[[str], None]
"""Takes a sentence, and may show it."""


def _nobody(said: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Order:
    """Hold what is asked.

    `tolerance` None is that of the precision. `force` replaces a version that exists. `on_progress` is told what
    begins, `on_finding` each thing that was found of the model, and what a lower precision saves and costs.
    """

    description: str = ""
    max_batch: int = 256
    tolerance: float | None = None
    precision: Precision = Precision.FLOAT32
    force: bool = False
    on_progress: Tell = _nobody
    on_finding: Tell = _nobody

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise BadToleranceError(self.tolerance)


class Options(TypedDict, total=False):
    """Name the fields of an order, as the exports take them by keyword."""

    description: str
    max_batch: int
    tolerance: float | None
    precision: Precision
    force: bool
    on_progress: Tell
    on_finding: Tell
