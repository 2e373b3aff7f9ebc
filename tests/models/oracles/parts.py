"""What the oracles share: float64 weights by name, and the squashing functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Reference = Callable[[Any, Array, list[Array]], tuple[Array, list[Array]]]
Step = Callable[[Array, list[Array]], tuple[Array, list[Array]]]


def sigmoid(a: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-a)))


def same(a: Array) -> Array:
    return a


def array(parameter: Any) -> Array:
    return np.asarray(parameter.detach().numpy().astype(np.float64))


def blocks(gates: Any, order: str) -> dict[str, tuple[Array, Array, Array]]:
    """Cut stacked weights into (W, R, b) by gate; `order` is spelled out by the caller and not read from the cell."""
    w, r, b = array(gates.W), array(gates.R), array(gates.b)
    size = len(b) // len(order)
    assert len(b) == size * len(order)
    return {
        name: (w[k * size : (k + 1) * size], r[k * size : (k + 1) * size], b[k * size : (k + 1) * size])
        for k, name in enumerate(order)
    }


def loop(step: Step, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    """Run a step over x (time, batch, input)."""
    ys = []
    for x_t in x:
        y, state = step(x_t, state)
        ys.append(y)
    return np.stack(ys), state
