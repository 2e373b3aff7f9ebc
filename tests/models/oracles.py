"""Each cell once more, as a float64 numpy loop written from the paper's equations, sharing no code with the cells."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Oracle = Callable[[Any, Array, list[Array]], tuple[Array, list[Array]]]


def _sigmoid(a: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-a))


def _blocks(gates: Any, order: str) -> dict[str, tuple[Array, Array, Array]]:
    """Cut stacked weights into (W, R, b) by gate; `order` is spelled out by the caller and not read from the cell."""
    size = gates.R.shape[1]
    w, r, b = (p.detach().numpy().astype(np.float64) for p in (gates.W, gates.R, gates.b))
    return {
        name: (w[k * size : (k + 1) * size], r[k * size : (k + 1) * size], b[k * size : (k + 1) * size])
        for k, name in enumerate(order)
    }


def _simple(cell: Any, x: Array, state: list[Array], squash: Callable[[Array], Array]) -> tuple[Array, list[Array]]:
    w, r, b = _blocks(cell.gates, "h")["h"]
    (h,) = state
    ys = []
    for x_t in x:
        h = squash(x_t @ w.T + h @ r.T + b)
        ys.append(h)
    return np.stack(ys), [h]


def rnn_tanh(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    return _simple(cell, x, state, np.tanh)


def rnn_relu(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    return _simple(cell, x, state, lambda a: np.maximum(a, 0.0))


def lstm(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    gate = _blocks(cell.gates, "ifgo")
    h, c = state
    ys = []
    for x_t in x:
        a = {name: x_t @ w.T + h @ r.T + b for name, (w, r, b) in gate.items()}
        c = _sigmoid(a["f"]) * c + _sigmoid(a["i"]) * np.tanh(a["g"])
        h = _sigmoid(a["o"]) * np.tanh(c)
        ys.append(h)
    return np.stack(ys), [h, c]


def gru_reset_before(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    gate = _blocks(cell.gates, "zr") | _blocks(cell.candidate, "g")
    (h,) = state
    ys = []
    for x_t in x:
        z, r = (_sigmoid(x_t @ gate[k][0].T + h @ gate[k][1].T + gate[k][2]) for k in "zr")
        w_g, r_g, b_g = gate["g"]
        g = np.tanh(x_t @ w_g.T + (r * h) @ r_g.T + b_g)
        h = z * h + (1.0 - z) * g
        ys.append(h)
    return np.stack(ys), [h]


def gru_reset_after(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    gate = _blocks(cell.gates, "rzg")
    recurrent_bias = cell.recurrent_bias.detach().numpy().astype(np.float64)
    (h,) = state
    ys = []
    for x_t in x:
        z, r = (_sigmoid(x_t @ gate[k][0].T + h @ gate[k][1].T + gate[k][2]) for k in "zr")
        w_g, r_g, b_g = gate["g"]
        g = np.tanh(x_t @ w_g.T + b_g + r * (h @ r_g.T + recurrent_bias))
        h = z * h + (1.0 - z) * g
        ys.append(h)
    return np.stack(ys), [h]


ORACLES: dict[str, Oracle] = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "gru_reset_before": gru_reset_before,
    "gru_reset_after": gru_reset_after,
}
