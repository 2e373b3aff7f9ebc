"""How far two tensors are apart, of the size of the expected one."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(slots=True)
class Figure:
    """Collect the largest difference of one tensor over several pairs of arrays, and the scale it is measured by.

    `difference` is infinite as soon as two arrays differ in shape or in what is not finite; it is never NaN. `scale`,
    the largest finite absolute value expected, is always finite.
    """

    difference: float = 0.0
    scale: float = 0.0

    @classmethod
    def of(cls, found: Array, expected: Array) -> Self:
        """Return the figure of one pair of arrays."""
        figure = cls()
        figure.add(found, expected)
        return figure

    def add(self, found: Array, expected: Array) -> None:
        """Take one more pair of arrays into account.

        Floats may differ; integers and booleans must be equal. Infinities must agree in position and sign. NaN on
        either side is an infinite difference.
        """
        if expected.dtype.kind != "f" or found.dtype.kind != "f":
            equal = found.dtype.kind == expected.dtype.kind and np.array_equal(found, expected)
            self.difference = self.difference if equal else np.inf
            return
        finite = np.isfinite(expected)
        if (
            found.shape != expected.shape
            or not np.array_equal(np.isfinite(found), finite)
            or not np.array_equal(found[~finite], expected[~finite])
        ):
            self.difference = np.inf
            return
        wanted = expected[finite].astype(np.float64)
        with np.errstate(over="ignore"):
            gap = np.abs(found[finite].astype(np.float64) - wanted)
        self.difference = max(self.difference, float(gap.max(initial=0.0)))
        self.scale = max(self.scale, float(np.abs(wanted).max(initial=0.0)))

    @property
    def error(self) -> float:
        """Return the difference over the scale, never NaN; a tensor that is zero throughout must match exactly."""
        return 0.0 if self.difference == 0.0 else self.difference / max(self.scale, _SMALLEST_SCALE)
