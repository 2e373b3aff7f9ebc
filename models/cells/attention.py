"""An LSTM with attention over its last K states (Cheng, Dong & Lapata 2016, with a window of bounded size)."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from models.card import StateSpec
from models.cells.base import Cell, State
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
