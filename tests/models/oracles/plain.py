"""The simple networks, the LSTM and the GRUs as float64 loops."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.models.oracles.parts import Array, Reference
from tests.models.oracles.parts import blocks as _blocks
from tests.models.oracles.parts import sigmoid as _sigmoid


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


def gru_reset_before(cell: Any, x: Array, state: list[Array], writes: bool = False) -> tuple[Array, list[Array]]:
    gate = _blocks(cell.gates, "zr") | _blocks(cell.candidate, "g")
    (h,) = state
    ys = []
    for x_t in x:
        z, r = (_sigmoid(x_t @ gate[k][0].T + h @ gate[k][1].T + gate[k][2]) for k in "zr")
        w_g, r_g, b_g = gate["g"]
        g = np.tanh(x_t @ w_g.T + (r * h) @ r_g.T + b_g)
        h = (1.0 - z) * h + z * g if writes else z * h + (1.0 - z) * g
        ys.append(h)
    return np.stack(ys), [h]


def gru_reset_after(cell: Any, x: Array, state: list[Array], writes: bool = False) -> tuple[Array, list[Array]]:
    gate = _blocks(cell.gates, "rzg")
    recurrent_bias = cell.recurrent_bias.detach().numpy().astype(np.float64)
    (h,) = state
    ys = []
    for x_t in x:
        z, r = (_sigmoid(x_t @ gate[k][0].T + h @ gate[k][1].T + gate[k][2]) for k in "zr")
        w_g, r_g, b_g = gate["g"]
        g = np.tanh(x_t @ w_g.T + b_g + r * (h @ r_g.T + recurrent_bias))
        h = (1.0 - z) * h + z * g if writes else z * h + (1.0 - z) * g
        ys.append(h)
    return np.stack(ys), [h]


ORACLES: dict[str, Reference] = {
    "rnn_tanh": rnn_tanh,
    "rnn_relu": rnn_relu,
    "lstm": lstm,
    "gru_reset_before": gru_reset_before,
    "gru_reset_before_z_writes": partial(gru_reset_before, writes=True),
    "gru_reset_after": gru_reset_after,
    "gru_reset_after_z_writes": partial(gru_reset_after, writes=True),
}
