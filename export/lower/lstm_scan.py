"""LSTMs that no native node computes, each as one step."""

from export.lower.contract import CellLowerings
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, affine, concat, gates_of, sigmoid, tanh
from models.cells.base import Cell
from models.cells.depth_gated import DepthGatedLSTM, DepthLayer
from models.cells.greff import FGR
from models.cells.layer_norm import LayerNormLSTM
from models.cells.peephole import FullPeepholeLSTM


def step_full_peephole(cell: FullPeepholeLSTM, x: Value, state: States) -> tuple[Value, States]:
    """i, f = σ(… + C c');  c = f c' + i g;  o = σ(… + C c): the products with c' join those with x and h'."""
    h, c = state
    size = cell.hidden_size
    seen = cell.C.new_zeros(4 * size, size)
    seen[: 2 * size] = cell.C[: 2 * size]
    both, o, g = gates_of(cell.gates, "ifog", x, h, (c, seen)).split(2 * size, size, size)
    i, f = sigmoid(both).split(size, size)
    c = f * c + i * tanh(g)
    h = sigmoid(o + c @ cell.C[2 * size :].T) * tanh(c)
    return h, (h, c)


def step_fgr(cell: FGR, x: Value, state: States) -> tuple[Value, States]:
    """[i, f, o] = σ(… + p c̃ + Q [i', f', o']), one product for all of x, h', i', f' and o'."""
    h, c, *gates = state
    size = cell.hidden_size
    seen = cell.Q.new_zeros(4 * size, 3 * size)
    seen[: 3 * size] = cell.Q
    parts = gates_of(cell.gates, "ifog", x, h, (concat(*gates), seen)).split(*[size] * 4)
    a = dict(zip("ifog", parts, strict=True))

    def gate(name: str, c: Value) -> Value:
        return sigmoid(a[name] + c * cell.P[cell.peeping().index(name)] if name in cell.peeping() else a[name])

    i, f = gate("i", c), gate("f", c)
    c = f * c + i * tanh(a["g"])
    o = gate("o", c)
    h = o * tanh(c)
    return h, (h, c, i, f, o)


def step_layer_norm(cell: LayerNormLSTM, x: Value, state: States) -> tuple[Value, States]:
    """i, f, o, g from LN(W x) + LN(R h') + b;  c = f c' + i g;  h = o tanh(LN(c))."""
    h, c = state
    size = cell.hidden_size
    # the three biases of the sum are one
    bias = cell.norm_x.bias + cell.norm_h.bias + cell.gates.b
    a_x = (x @ cell.gates.W.T).op("LayerNormalization", cell.norm_x.weight, bias, epsilon=cell.norm_x.eps)
    a_h = (h @ cell.gates.R.T).op("LayerNormalization", cell.norm_h.weight, epsilon=cell.norm_h.eps)
    both, g, o = (a_x + a_h).split(2 * size, size, size)
    i, f = sigmoid(both).split(size, size)
    c = f * c + i * tanh(g)
    normed = c.op("LayerNormalization", cell.norm_c.weight, cell.norm_c.bias, epsilon=cell.norm_c.eps)
    h = sigmoid(o) * tanh(normed)
    return h, (h, c)


def step_depth_gated(cell: DepthGatedLSTM, x: Value, state: States) -> tuple[Value, States]:
    """Each layer: c = d c_below + f c' + i g, from the lowest to the highest."""
    below: Value | None = None
    after: list[Value] = []
    for layer, h, c in zip(cell.layers, state[::2], state[1::2], strict=True):
        assert isinstance(layer, DepthLayer)
        x, below = _depth_layer(layer, x, h, c, below)
        after += [x, below]
    return x, tuple(after)


def _depth_layer(layer: DepthLayer, x: Value, h: Value, c: Value, below: Value | None) -> tuple[Value, Value]:
    size = layer.gates.hidden_size
    both, o, g = gates_of(layer.gates, "ifog", x, h).split(2 * size, size, size)
    d = affine([(x, layer.W_d)], layer.b_d) + c * layer.w_c
    if below is None:
        below = x @ layer.W_0.T
    else:
        d = d + below * layer.w_l
    i, f = sigmoid(both + concat(c, c) * layer.P[:2].flatten()).split(size, size)
    c = sigmoid(d) * below + f * c + i * tanh(g)
    return sigmoid(o + c * layer.P[2]) * tanh(c), c


LOWERINGS: dict[type[Cell], CellLowerings] = {
    FullPeepholeLSTM: CellLowerings.same(scan_lowering(step_full_peephole)),
    FGR: CellLowerings.same(scan_lowering(step_fgr)),
    LayerNormLSTM: CellLowerings.same(scan_lowering(step_layer_norm)),
    DepthGatedLSTM: CellLowerings.same(scan_lowering(step_depth_gated)),
}
