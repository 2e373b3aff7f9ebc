"""Reference implementations of the other cells as float64 loops: row by row where the cells use masks."""

from typing import Any

import numpy as np

from tests.models.oracles.common import Array, Oracle, array, blocks, loop, sigmoid


def _affine(block: tuple[Array, Array, Array], x: Array, h: Array) -> Array:
    w, r, b = block
    return np.asarray(x @ w.T + h @ r.T + b)


def mut1(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    w_z, b_z, r_h, b_h = (array(p) for p in (cell.W_z, cell.b_z, cell.R_h, cell.b_h))
    reset = blocks(cell.reset, "r")["r"]

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        (h,) = state
        z, r = sigmoid(x @ w_z.T + b_z), sigmoid(_affine(reset, x, h))
        h = np.tanh((r * h) @ r_h.T + np.tanh(x) + b_h) * z + h * (1 - z)
        return h, [h]

    return loop(step, x, state)


def mut2(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    r_r, b_r = array(cell.R_r), array(cell.b_r)
    update, candidate = blocks(cell.update, "z")["z"], blocks(cell.candidate, "g")["g"]

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        (h,) = state
        z, r = sigmoid(_affine(update, x, h)), sigmoid(x + h @ r_r.T + b_r)
        h = np.tanh(_affine(candidate, x, r * h)) * z + h * (1 - z)
        return h, [h]

    return loop(step, x, state)


def mut3(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    update, reset = blocks(cell.update, "z")["z"], blocks(cell.reset, "r")["r"]
    candidate = blocks(cell.candidate, "g")["g"]

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        (h,) = state
        z, r = sigmoid(_affine(update, x, np.tanh(h))), sigmoid(_affine(reset, x, h))
        h = np.tanh(_affine(candidate, x, r * h)) * z + h * (1 - z)
        return h, [h]

    return loop(step, x, state)


def depth_gated(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        after: list[Array] = []
        for k, layer in enumerate(cell.layers):
            h, c = state[2 * k : 2 * k + 2]
            a = {name: _affine(block, x, h) for name, block in blocks(layer.gates, "ifgo").items()}
            p_i, p_f, p_o = array(layer.P)
            i, f = sigmoid(a["i"] + p_i * c), sigmoid(a["f"] + p_f * c)
            d = array(layer.b_d) + x @ array(layer.W_d).T + array(layer.w_c) * c
            if k == 0:
                from_below = sigmoid(d) * (x @ array(layer.W_0).T)
            else:
                from_below = sigmoid(d + array(layer.w_l) * after[-1]) * after[-1]
            c = from_below + f * c + i * np.tanh(a["g"])
            x = sigmoid(a["o"] + p_o * c) * np.tanh(c)
            after += [x, c]
        return x, after

    return loop(step, x, state)


def clockwork(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    w, b = array(cell.W), array(cell.b)
    periods = cell.options.periods
    size = len(b) // len(periods)

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, t = state
        new = h.copy()
        for row in range(len(x)):
            for k, period in enumerate(periods):
                if t[row, 0] % period == 0:
                    units = slice(k * size, (k + 1) * size)
                    slower = h[row, k * size :]
                    new[row, units] = np.tanh(w[units] @ x[row] + array(cell.R[k]) @ slower + b[units])
        return new, [new, (t + 1) % np.lcm.reduce(periods)]

    return loop(step, x, state)


def grid(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def transform(gates: Any, h_time: Array, h_depth: Array, m: Array) -> tuple[Array, Array]:
        a = {name: _affine(block, h_time, h_depth) for name, block in blocks(gates, "ufoc").items()}
        m = sigmoid(a["f"]) * m + sigmoid(a["u"]) * np.tanh(a["c"])
        if cell.options.output == "paper":
            return np.tanh(sigmoid(a["o"]) * m), m
        return sigmoid(a["o"]) * np.tanh(m), m

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h_depth, m_depth = x @ array(cell.W_h).T, x @ array(cell.W_m).T
        after: list[Array] = []
        for k, block in enumerate(cell.blocks):
            h, m = transform(block.along_time, state[2 * k], h_depth, state[2 * k + 1])
            h_depth, m_depth = transform(block.along_depth, h, h_depth, m_depth)
            after += [h, m]
        return h_depth, after

    return loop(step, x, state)


def attention(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    a_h, a_x, a_s, v = (array(p) for p in (cell.A_h, cell.A_x, cell.A_s, cell.v))
    gates = blocks(cell.gates, "ifgo")
    window = cell.options.window

    def one_row(x: Array, past_h: Array, past_c: Array, s: Array, n: int) -> tuple[Array, ...]:
        held = range(window - n, window)
        scores = np.array([v @ np.tanh(a_h @ past_h[k] + a_x @ x + a_s @ s) for k in held])
        weights = np.exp(scores - scores.max(initial=0.0))
        weights = weights / weights.sum() if n else weights
        s = sum((w * past_h[k] for w, k in zip(weights, held, strict=True)), np.zeros_like(s))
        e = sum((w * past_c[k] for w, k in zip(weights, held, strict=True)), np.zeros_like(s))
        a = {name: w @ x + r @ s + b for name, (w, r, b) in gates.items()}
        c = sigmoid(a["f"]) * e + sigmoid(a["i"]) * np.tanh(a["g"])
        h = sigmoid(a["o"]) * np.tanh(c)
        return h, np.vstack([past_h[1:], h]), np.vstack([past_c[1:], c]), s, np.array([min(n + 1, window)])

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        past_h, past_c, s, n = state
        rows = [one_row(x[b], past_h[b], past_c[b], s[b], int(n[b, 0])) for b in range(len(x))]
        h, *after = (np.stack(parts) for parts in zip(*rows, strict=True))
        return h, after

    return loop(step, x, state)


def memory_attention(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    a_m, a_h, b_a, v = (array(p) for p in (cell.A_m, cell.A_h, cell.b_a, cell.v))
    gates = blocks(cell.gates, "ifgo")

    def one_row(x: Array, h: Array, c: Array, memory: Array) -> tuple[Array, Array]:
        s = np.zeros(memory.shape[1])
        if len(memory):
            scores = np.array([v @ np.tanh(a_m @ row + a_h @ h + b_a) for row in memory])
            weights = np.exp(scores) / np.exp(scores).sum()
            s = sum((weight * row for weight, row in zip(weights, memory, strict=True)), s)
        a = {name: w @ np.append(x, s) + r @ h + b for name, (w, r, b) in gates.items()}
        c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"])
        return sigmoid(a["o"]) * np.tanh(c), c

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c, memory, n = state
        rows = [one_row(x[b], h[b], c[b], memory[b, : int(n[b, 0])]) for b in range(len(x))]
        h, c = (np.stack(parts) for parts in zip(*rows, strict=True))
        return h, [h, c, memory, n]

    return loop(step, x, state)


def min_gru(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        z, g = np.split(x @ array(cell.W).T + array(cell.b), 2, axis=-1)
        h = (1 - sigmoid(z)) * state[0] + sigmoid(z) * g
        return h, [h]

    return loop(step, x, state)


def min_lstm(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        f, i, g = np.split(x @ array(cell.W).T + array(cell.b), 3, axis=-1)
        f, i = sigmoid(f), sigmoid(i)
        h = f / (f + i) * state[0] + i / (f + i) * g
        return h, [h]

    return loop(step, x, state)


def independent(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        a = x @ array(cell.W).T + array(cell.u) * state[0] + array(cell.b)
        h = np.maximum(a, 0) if cell.options.activation == "relu" else np.tanh(a)
        return h, [h]

    return loop(step, x, state)


def _norm(norm: Any, a: Array) -> Array:
    centred = a - a.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + 1e-5) * array(norm.weight) + array(norm.bias))


def layer_norm(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    w, r, b = (array(p) for p in (cell.gates.W, cell.gates.R, cell.gates.b))

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        h, c = state
        i, f, g, o = np.split(_norm(cell.norm_x, x @ w.T) + _norm(cell.norm_h, h @ r.T) + b, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(_norm(cell.norm_c, c))
        return h, [h, c]

    return loop(step, x, state)


def projection(cell: Any, x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
    v = array(cell.V)

    def step(x: Array, state: list[Array]) -> tuple[Array, list[Array]]:
        m, c = state
        a = {name: _affine(block, x, m @ v.T) for name, block in blocks(cell.gates, "ifgo").items()}
        c = sigmoid(a["f"]) * c + sigmoid(a["i"]) * np.tanh(a["g"])
        m = sigmoid(a["o"]) * np.tanh(c)
        return m @ v.T, [m, c]

    return loop(step, x, state)


ORACLES: dict[str, Oracle] = {
    "mut1": mut1,
    "mut2": mut2,
    "mut3": mut3,
    "depth_gated_lstm": depth_gated,
    "clockwork_rnn": clockwork,
    "grid_lstm": grid,
    "attention_lstm": attention,
    "memory_attention_lstm": memory_attention,
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "ind_rnn": independent,
    "layer_norm_lstm": layer_norm,
    "projection_lstm": projection,
}
