"""Cells with a structure of their own, each as one step: clockwork groups, a grid, a window of states, a memory."""

from export.lower.contract import CellLowerings
from export.lower.scan import States, scan_lowering
from export.lower.value import Value, affine, concat, gates_of, sigmoid, tanh
from models.cells.attention import MASKED, AttentionLSTM, MemoryAttentionLSTM
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
    query = affine([(x, cell.A_x), (s, cell.A_s)], cell.v.new_zeros(len(cell.v)))
    scores = (tanh(earlier_h @ cell.A_h.T + query.unsqueeze(1)) @ cell.v.unsqueeze(1)).squeeze(2)
    w = _weights(scores, n.op("GreaterOrEqual", n.constant(cell.places, "int64")))
    s, e = (w @ earlier_h).squeeze(1), (w @ earlier_c).squeeze(1)
    h, c = _lstm(cell.gates, x, s, e)
    one, window = (n.constant([count], "int64") for count in (1, cell.options.window))
    return h, (_push(earlier_h, h), _push(earlier_c, c), s, n.op("Add", one).op("Min", window))


def step_memory_attention(cell: MemoryAttentionLSTM, x: Value, state: States) -> tuple[Value, States]:
    """a_k = v · tanh(A_m m_k + A_h h' + b_a);  s = Σ softmax(a)_k m_k;  an LSTM step that reads [x, s]."""
    h, c, memory, n = state
    query = affine([(h, cell.A_h)], cell.b_a).unsqueeze(1)
    scores = (tanh(memory @ cell.A_m.T + query) @ cell.v.unsqueeze(1)).squeeze(2)
    s = (_weights(scores, n.op("Greater", n.constant(cell.positions, "int64"))) @ memory).squeeze(1)
    h, c = _lstm(cell.gates, concat(x, s), h, c)
    return h, (h, c, memory, n)


def _weights(scores: Value, kept: Value) -> Value:
    """Return the softmax of the scores (batch, K) that are kept as (batch, 1, K), and zeros where none is."""
    weights = kept.op("Where", scores, MASKED).op("Softmax", axis=-1) * kept.op("Cast", to=1)
    return weights.unsqueeze(1)


def _lstm(gates: Gates, x: Value, h: Value, c: Value) -> tuple[Value, Value]:
    """i, f, o = σ(W x + R h' + b);  g = tanh(W x + R h' + b);  c = f c' + i g;  h = o tanh(c)."""
    size = gates.hidden_size
    ifo, g = gates_of(gates, "ifog", x, h).split(3 * size, size)
    i, f, o = sigmoid(ifo).split(size, size, size)
    c = f * c + i * tanh(g)
    return o * tanh(c), c


def _push(window: Value, newest: Value) -> Value:
    """Return the window without its oldest row and with the newest one at its end."""
    bounds = (window.constant([bound], "int64") for bound in (1, 2**31, 1))
    return concat(window.op("Slice", *bounds), newest.unsqueeze(1), axis=1)


LOWERINGS: dict[type[Cell], CellLowerings] = {
    ClockworkRNN: CellLowerings.same(scan_lowering(step_clockwork)),
    GridLSTM: CellLowerings.same(scan_lowering(step_grid)),
    AttentionLSTM: CellLowerings.same(scan_lowering(step_attention)),
    MemoryAttentionLSTM: CellLowerings.same(scan_lowering(step_memory_attention)),
}
