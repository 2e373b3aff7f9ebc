"""The LSTMs with another set of gates, each spelled out as float64 loops from its paper."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.models.oracles.parts import Array, Reference, array, blocks, loop, same, sigmoid


def _gates(cell: Any, order: str, x: Array, h: Array) -> dict[str, Array]:
    return {name: x @ w.T + h @ r.T + b for name, (w, r, b) in blocks(cell.gates, order).items()}


def original(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        a = _gates(cell, "igo", x, h)
        c = c + sigmoid(a["i"]) * (4 * sigmoid(a["g"]) - 2)
        h = sigmoid(a["o"]) * (2 * sigmoid(c) - 1)
        return h, [h, c]

    return loop(step, x, state)


def no_input_gate(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        a = _gates(cell, "fgo", x, h)
        c = sigmoid(a["f"]) * c + np.tanh(a["g"])
        h = sigmoid(a["o"]) * np.tanh(c)
        return h, [h, c]

    return loop(step, x, state)


def no_forget_gate(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        a = _gates(cell, "igo", x, h)
        c = c + sigmoid(a["i"]) * np.tanh(a["g"])
        h = sigmoid(a["o"]) * np.tanh(c)
        return h, [h, c]

    return loop(step, x, state)


def no_output_gate(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        a = _gates(cell, "ifg", x, h)
        c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"])
        h = np.tanh(c)
        return h, [h, c]

    return loop(step, x, state)


def coupled(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        a = _gates(cell, "fgo", x, h)
        f = sigmoid(a["f"])
        c = f * c + (1 - f) * np.tanh(a["g"])
        h = sigmoid(a["o"]) * np.tanh(c)
        return h, [h, c]

    return loop(step, x, state)


def full_peephole(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    c_i, c_f, c_o = np.split(array(cell.C), 3)

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        a = _gates(cell, "ifgo", x, h)
        i, f = sigmoid(a["i"] + c @ c_i.T), sigmoid(a["f"] + c @ c_f.T)
        c = f * c + i * np.tanh(a["g"])
        h = sigmoid(a["o"] + c @ c_o.T) * np.tanh(c)
        return h, [h, c]

    return loop(step, x, state)


def greff(
    cell: Any,
    x: Array,
    state: list[Array],
    order: str = "ifgo",
    candidate: Callable[[Array], Array] = np.tanh,
    memory: Callable[[Array], Array] = np.tanh,
    coupled: bool = False,
) -> tuple[Array, list[Array]]:
    """The reference form V with the gates of `order` alone; a gate that is not there is one."""
    peephole = dict(zip([name for name in order if name != "g"], array(cell.P), strict=True))

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        a = _gates(cell, order, x, h)
        i = sigmoid(a["i"] + peephole["i"] * c) if "i" in order else 1.0
        f = sigmoid(a["f"] + peephole["f"] * c) if "f" in order else (1.0 - i if coupled else 1.0)
        c = f * c + i * candidate(a["g"])
        o = sigmoid(a["o"] + peephole["o"] * c) if "o" in order else 1.0
        h = o * memory(c)
        return h, [h, c]

    return loop(step, x, state)


def full_gate_recurrence(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    p_i, p_f, p_o = array(cell.P)
    q = array(cell.Q)
    size = q.shape[0] // 3
    to = {name: q[k * size : (k + 1) * size] for k, name in enumerate("ifo")}

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c, i, f, o = state
        a = _gates(cell, "ifgo", x, h)
        for name in "ifo":
            from_i, from_f, from_o = np.split(to[name], 3, axis=1)
            a[name] = a[name] + i @ from_i.T + f @ from_f.T + o @ from_o.T
        i, f = sigmoid(a["i"] + p_i * c), sigmoid(a["f"] + p_f * c)
        c = f * c + i * np.tanh(a["g"])
        o = sigmoid(a["o"] + p_o * c)
        h = o * np.tanh(c)
        return h, [h, c, i, f, o]

    return loop(step, x, state)


ORACLES: dict[str, Reference] = {
    "lstm_1997": original,
    "lstm_no_input_gate": no_input_gate,
    "lstm_no_forget_gate": no_forget_gate,
    "lstm_no_output_gate": no_output_gate,
    "peephole_lstm": greff,
    "full_peephole_lstm": full_peephole,
    "coupled_lstm": coupled,
    "greff_cifg": partial(greff, order="igo", coupled=True),
    "greff_nig": partial(greff, order="fgo"),
    "greff_nfg": partial(greff, order="igo"),
    "greff_nog": partial(greff, order="ifg"),
    "greff_niaf": partial(greff, candidate=same),
    "greff_noaf": partial(greff, memory=same),
    "greff_fgr": full_gate_recurrence,
}
