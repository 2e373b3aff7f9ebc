"""How far a tensor is from what it should be, of the spread of its values over a run."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FLOAT32_FACTOR = 8.0
"""How many times float32's own error a graph may be off: the same sums in another sequence differ by a few times it."""
LEAST_SPREAD = 1e-2
"""The least spread of a feature, of the widest one's: a tolerance of 1e-5 of it is one rounding of the widest."""

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a tensor is near enough to what it should be.

    `error` is its largest difference, or the one at which it fails, at `step` (from 1), where `allowed` was allowed.
    `float32` is the largest error of the original's own run in float32, and `float32_at_first` that of the first step;
    0 where that is not known. All are of the spread.
    """

    passes: bool
    error: float
    allowed: float
    step: int
    float32: float = 0.0
    float32_at_first: float = 0.0


@dataclass(slots=True)
class Figure:
    """Collect how far one tensor is from what it should be, over several arrays (rows, steps, *features).

    Differences are measured against the spread, the range of each feature over all rows and steps: an offset does not
    hide them. `units`, (*features) or a number, are the sizes in which the spreads of different features are compared;
    none counts as less than `least_spread` of the widest.
    `is_wrong` is set for good where arrays differ in shape, in what is not finite, or in an integer or boolean.
    """

    units: Array | float = 1.0
    least_spread: float = LEAST_SPREAD
    is_wrong: bool = False
    _low: Array = field(default_factory=lambda: np.empty(0))
    _high: Array = field(default_factory=lambda: np.empty(0))
    _gaps: Array = field(default_factory=lambda: np.empty(0))
    _float32_gaps: Array = field(default_factory=lambda: np.empty(0))
    _rounding: float = 0.0

    @classmethod
    def of(cls, found: Array, expected: Array) -> Self:
        """Return the figure of one pair of arrays, whose first two axes are its rows and steps."""
        figure = cls()
        figure.add(found, expected)
        return figure

    def add(self, found: Array, expected: Array, *exact: Array, first_step: int = 0) -> None:
        """Take one more pair of arrays into account.

        `exact` is what is expected, computed in float64, and then the same with rounded weights: how far these and
        `expected` are from the first is float32's own error. Floats may differ; integers and booleans must be equal.
        Infinities must agree in position and sign. NaN on any side is wrong.
        """
        if any(one.shape != found.shape for one in (expected, *exact)):
            self.is_wrong = True
            return
        if expected.dtype.kind != "f" or found.dtype.kind != "f":
            self.is_wrong |= found.dtype.kind != expected.dtype.kind or not np.array_equal(found, expected)
            return
        if found.size == 0:
            return
        self._rounding = float(np.finfo(found.dtype).eps) / 2
        finite = np.isfinite(expected)
        truth = exact[0] if exact else expected
        if (
            not np.array_equal(np.isfinite(found), finite)
            or not np.array_equal(found[~finite], expected[~finite])
            or not np.isfinite(truth[finite]).all()
            or np.isnan(truth).any()
        ):
            self.is_wrong = True
            return
        axes = found.shape if found.ndim > 1 else (found.size, 1)
        here = slice(first_step, first_step + axes[1])
        self._grow(here.stop, axes[2:])
        truth, found, *float32 = (
            np.where(finite, one, 0.0).astype(np.float64).reshape(axes) for one in (truth, found, expected, *exact[1:])
        )
        finite = finite.reshape(axes)
        self._gaps[here] = np.maximum(self._gaps[here], np.abs(found - truth).max(0))
        for one in float32:
            self._float32_gaps[here] = np.maximum(self._float32_gaps[here], np.abs(one - truth).max(0))
        self._low = np.minimum(self._low, truth.min((0, 1), initial=np.inf, where=finite))
        self._high = np.maximum(self._high, truth.max((0, 1), initial=-np.inf, where=finite))

    def judge(self, tolerance: float) -> Verdict:
        """Return the verdict at the step and feature where the difference is the largest part of what is allowed.

        Allowed are the tolerance and a few times float32's own error: the rounding of the feature's largest value, and
        the largest error up to that step of the original's run in float32, where its run in float64 is known.
        """
        if self.is_wrong or not len(self._gaps):
            return Verdict(not self.is_wrong, self.error, tolerance, 1)
        scale = self._scale()
        errors, float32 = self._gaps / scale, self._float32_gaps / scale
        rounding = self._size() * self._rounding / scale
        more = np.maximum(float32 - rounding, 0.0).reshape(len(errors), -1).max(1)
        more = np.maximum.accumulate(more).reshape(-1, *[1] * (errors.ndim - 1))
        allowed = tolerance + FLOAT32_FACTOR * (rounding + more)
        worst = np.unravel_index(np.argmax(errors / allowed), errors.shape)
        passes = bool(errors[worst] <= allowed[worst])
        error = float(errors.max() if passes else errors[worst])
        return Verdict(
            passes,
            error,
            float(allowed[worst]),
            int(worst[0]) + 1,
            float(float32.max()),
            float(float32[0].max(initial=0.0)),
        )

    @property
    def error(self) -> float:
        """Return the largest difference of the spread, never NaN; a tensor of zeros must match exactly."""
        if self.is_wrong:
            return np.inf
        return float((self._gaps / self._scale()).max(initial=0.0)) if len(self._gaps) else 0.0

    def _scale(self) -> Array:
        """Return by what the differences of each feature are divided: its spread.

        At least a part of the widest feature's spread, in units; the size of the tensor where nothing varies.
        """
        spread = np.where(self._high > self._low, self._high - self._low, 0.0)
        if not spread.any():
            seen = np.isfinite(self._low)
            if seen.any():  # one value of each feature, or the same one always
                spread = np.full_like(spread, self._high[seen].max() - self._low[seen].min())
        widest = (spread / self.units).max(initial=0.0)
        scale = np.maximum(spread, self.least_spread * widest * self.units)
        return scale if widest else np.full_like(scale, max(self._size().max(initial=0.0), _SMALLEST_SCALE))

    def _size(self) -> Array:
        """Return the largest finite absolute value of each feature."""
        seen = np.isfinite(self._low)
        return np.where(seen, np.maximum(np.abs(self._low), np.abs(self._high)), 0.0)

    def _grow(self, steps: int, features: tuple[int, ...]) -> None:
        if not len(self._gaps):
            self._gaps, self._float32_gaps = np.zeros((0, *features)), np.zeros((0, *features))
            self._low, self._high = np.full(features, np.inf), np.full(features, -np.inf)
        more = np.zeros((max(steps - len(self._gaps), 0), *features))
        self._gaps = np.concatenate([self._gaps, more])
        self._float32_gaps = np.concatenate([self._float32_gaps, more])
