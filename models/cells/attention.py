"""LSTMs with attention, over their own last K states (Cheng et al. 2016) or over a given memory (Xu et al. 2015)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, State, vector_states
from models.cells.gates import Gates, weight
from models.cells.lstm import LSTMOptions

MASKED = -1e9
"""The score of a window position that holds no state yet."""


class AttentionOptions(LSTMOptions):
    """Set the number of earlier states that are kept, and the width of the vectors by which they are scored."""

    window: int = Field(default=8, ge=1, le=2**16)
    attention_size: int = Field(default=32, ge=1, le=2**20)


class AttentionLSTM(Cell):
    """Attend over the last K states of the same sequence, and use their weighted means as the previous state.

    a_k = v · tanh(A_h h_k + A_x x + A_s s');  w = softmax(a) over the states kept;  s, e = Σ w_k h_k, Σ w_k c_k;
    i, f, o = σ(W x + R s + b);  g = tanh(W x + R s + b);  c = f e + i g;  h = o tanh(c)

    After each step (h, c) is added to the window, and the oldest pair is dropped. `n` counts the pairs kept so far, at
    most K.
    """

    source = "Cheng, Dong & Lapata 2016 (arXiv 1601.06733); score of Bahdanau et al. 2015"
    Options = AttentionOptions
    options: AttentionOptions
    places: Tensor

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        size, window = self.options.attention_size, self.options.window
        self.A_h = weight(size, hidden_size, hidden_size=hidden_size)
        self.A_x = weight(size, input_size, hidden_size=hidden_size)
        self.A_s = weight(size, hidden_size, hidden_size=hidden_size)
        self.v = weight(size, hidden_size=size)
        self.gates = Gates("ifgo", input_size, hidden_size)
        with torch.no_grad():
            self.gates.b[self.gates.rows("f")] = self.options.forget_bias
        # position k of the window holds a state once K − k states have been kept: the newest is the last
        self.register_buffer("places", torch.arange(window, 0, -1), persistent=False)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        kept = (self.options.window, self.hidden_size)
        return (
            StateSpec(name="past_h", shape=kept),
            StateSpec(name="past_c", shape=kept),
            StateSpec(name="s", shape=(self.hidden_size,)),
            StateSpec(name="n", dtype="int64", shape=(1,)),
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        past_h, past_c, s, n = state
        query = x @ self.A_x.T + s @ self.A_s.T
        scores = torch.tanh(past_h @ self.A_h.T + query.unsqueeze(1)) @ self.v
        kept = n >= self.places
        # while no state is kept all scores are MASKED and the softmax is uniform: the product sets the weights to zero
        w = (torch.softmax(torch.where(kept, scores, MASKED), -1) * kept).unsqueeze(1)
        s, e = (w @ past_h).squeeze(1), (w @ past_c).squeeze(1)
        i, f, g, o = self.gates(x, s)
        c = torch.sigmoid(f) * e + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        past_h = torch.cat([past_h[:, 1:], h.unsqueeze(1)], 1)
        past_c = torch.cat([past_c[:, 1:], c.unsqueeze(1)], 1)
        return h, (past_h, past_c, s, torch.clamp(n + 1, max=self.options.window))

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return random states with a window that is partly filled, each tensor (batch, *shape)."""
        past_h, past_c, s, _ = super().random_state(batch, generator)
        return past_h, past_c, s, torch.randint(self.options.window + 1, (batch, 1), generator=generator)


class MemoryOptions(LSTMOptions):
    """Set the largest number of rows of the memory, their width, and the width of the vectors that are scored."""

    rows: int = Field(default=16, ge=1, le=2**16)
    row_size: int = Field(default=32, ge=1, le=2**20)
    attention_size: int = Field(default=32, ge=1, le=2**20)


class MemoryAttentionLSTM(Cell):
    """Attend over the rows of a memory that is given before the first step, such as the encoding of an image or a text.

    a_k = v · tanh(A_m m_k + A_h h' + b_a);  w = softmax(a) over the rows given;  s = Σ w_k m_k;
    i, f, o = σ(W [x, s] + R h' + b);  g = tanh(W [x, s] + R h' + b);  c = f c' + i g;  h = o tanh(c)

    The memory is a state that no step changes, and `n` the number of its rows that are given: the first n are read. In
    the initial state n is 0, and s is zero.
    """

    source = "Xu et al. 2015 (arXiv 1502.03044), soft attention; score of Bahdanau et al. 2015"
    Options = MemoryOptions
    options: MemoryOptions
    positions: Tensor

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        size, row_size = self.options.attention_size, self.options.row_size
        self.A_m = weight(size, row_size, hidden_size=row_size)
        self.A_h = weight(size, hidden_size, hidden_size=hidden_size)
        self.b_a = weight(size, hidden_size=hidden_size)
        self.v = weight(size, hidden_size=size)
        self.gates = Gates("ifgo", input_size + row_size, hidden_size)
        with torch.no_grad():
            self.gates.b[self.gates.rows("f")] = self.options.forget_bias
        self.register_buffer("positions", torch.arange(self.options.rows), persistent=False)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (
            *vector_states("hc", self.hidden_size),
            StateSpec(name="memory", shape=(self.options.rows, self.options.row_size)),
            StateSpec(name="n", dtype="int64", shape=(1,)),
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, c, memory, n = state
        query = (h @ self.A_h.T + self.b_a).unsqueeze(1)
        scores = torch.tanh(memory @ self.A_m.T + query) @ self.v
        given = n > self.positions
        # where no row is given all scores are MASKED and the softmax is uniform: the product sets the weights to zero
        w = (torch.softmax(torch.where(given, scores, MASKED), -1) * given).unsqueeze(1)
        s = (w @ memory).squeeze(1)
        i, f, g, o = self.gates(torch.cat([x, s], -1), h)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return h, (h, c, memory, n)

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        """Return random states with a memory of which any number of rows is given, each tensor (batch, *shape)."""
        h, c, memory, _ = super().random_state(batch, generator)
        return h, c, memory, torch.randint(self.options.rows + 1, (batch, 1), generator=generator)
