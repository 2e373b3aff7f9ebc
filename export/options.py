"""The options that every export has, whatever it is made from."""

from collections.abc import Callable
from dataclasses import dataclass

from export.errors import BadToleranceError
from export.precision import TOLERANCES, Precision

Callback = Callable[[str], None]
"""Takes a sentence, and may show it."""


def _ignore(text: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """Options of an export.

    description: a sentence for the card. max_batch: the most sequences that the service runs together. precision: what
    weights and states are held in. tolerance: the largest difference allowed, of the spread; None is the precision's
    own. force: replace a version that exists. on_progress: called with what begins. on_finding: called with each thing
    found about the model, and with what a lower precision saves and costs.

    Raises:
        BadToleranceError: The tolerance does not lie between 0 and 1.
    """

    description: str = ""
    max_batch: int = 256
    precision: Precision = Precision.FLOAT32
    tolerance: float | None = None
    force: bool = False
    on_progress: Callback = _ignore
    on_finding: Callback = _ignore

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise BadToleranceError(self.tolerance)

    @property
    def allowed(self) -> float:
        """Return the largest difference allowed in the precision that is asked for."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance

    @property
    def allowed_in_float32(self) -> float:
        """Return the largest difference allowed in float32, before the precision is lowered."""
        return self.allowed if self.precision is Precision.FLOAT32 else TOLERANCES[Precision.FLOAT32]
