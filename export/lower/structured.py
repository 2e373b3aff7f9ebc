"""Cells with a structure of their own, each as one step: clockwork groups, a grid, a window of earlier states."""

from export.lower.contract import CellLowerings
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, affine, concat, gates_of, sigmoid, tanh
from models.cells.attention import MASKED, AttentionLSTM
from models.cells.base import Cell
from models.cells.clockwork import ClockworkRNN
from models.cells.gates import Gates
from models.cells.grid import GridBlock, GridLSTM


def step_clockwork(cell: ClockworkRNN, x: Value, state: States) -> tuple[Value, States]:
    """h = tanh(W x + R h' + b) where the unit's period divides t, else h'."""
    h, t = state
    new = tanh(affine([(x, cell.W), (h, cell.recurrent())], cell.b))
    ticks = t.op("Mod", t.constant(cell.unit_periods, "int64")).op("Equal", t.constant([0], "int64"))
    h = ticks.op("Where", new, h)
    t = t.op("Add", t.constant([1], "int64")).op("Mod", t.constant([cell.cycle], "int64"))
    return h, (h, t)


def step_grid(cell: GridLSTM, x: Value, state: States) -> tuple[Value, States]:
    """In each block (h, m) = L([h', h_d], m'), then (h_d, m_d) = L([h, h_d], m_d)."""
    h_depth, m_depth = x @ cell.W_h.T, x @ cell.W_m.T
    after: list[Value] = []
    for block, h, m in zip(cell.blocks, state[::2], state[1::2], strict=True):
        assert isinstance(block, GridBlock)
        h, m = _transform(block, block.along_time, h, h_depth, m)
        h_depth, m_depth = _transform(block, block.along_depth, h, h_depth, m_depth)
        after += [h, m]
    return h_depth, tuple(after)


def _transform(block: GridBlock, gates: Gates, h: Value, h_depth: Value, m: Value) -> tuple[Value, Value]:
    size = gates.hidden_size
    ufo, c = gates_of(gates, "ufoc", h, h_depth).split(3 * size, size)
    u, f, o = sigmoid(ufo).split(size, size, size)
    m = f * m + u * tanh(c)
    return (tanh(o * m) if block.output == "paper" else o * tanh(m)), m


def step_attention(cell: AttentionLSTM, x: Value, state: States) -> tuple[Value, States]:
    """a_k = v · tanh(A_h h_k + A_x x + A_s s');  s, e = Σ softmax(a)_k (h_k, c_k);  an LSTM step from (s, e)."""
    earlier_h, earlier_c, s, n = state
    size = cell.hidden_size
    query = affine([(x, cell.A_x), (s, cell.A_s)], cell.v.new_zeros(len(cell.v)))
    scores = (tanh(earlier_h @ cell.A_h.T + query.unsqueeze(1)) @ cell.v.unsqueeze(1)).squeeze(2)
    there = n.op("GreaterOrEqual", n.constant(cell.places, "int64"))
    w = there.op("Where", scores, MASKED).op("Softmax", axis=-1) * there.op("Cast", to=1)
    w = w.unsqueeze(1)
    s, e = (w @ earlier_h).squeeze(1), (w @ earlier_c).squeeze(1)
    ifo, g = gates_of(cell.gates, "ifog", x, s).split(3 * size, size)
    i, f, o = sigmoid(ifo).split(size, size, size)
    c = f * e + i * tanh(g)
    h = o * tanh(c)
    one, window = (n.constant([count], "int64") for count in (1, cell.options.window))
    return h, (_push(earlier_h, h), _push(earlier_c, c), s, n.op("Add", one).op("Min", window))


def _push(window: Value, newest: Value) -> Value:
    """Return the window without its oldest row and with the newest one at its end."""
    bounds = (window.constant([bound], "int64") for bound in (1, 2**31, 1))
    return concat(window.op("Slice", *bounds), newest.unsqueeze(1), axis=1)


LOWERINGS: dict[type[Cell], CellLowerings] = {
    ClockworkRNN: CellLowerings.same(scan_lowering(step_clockwork)),
    GridLSTM: CellLowerings.same(scan_lowering(step_grid)),
    AttentionLSTM: CellLowerings.same(scan_lowering(step_attention)),
}
