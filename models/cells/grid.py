"""The two-dimensional grid LSTM, time × depth (Kalchbrenner, Danihelka & Graves 2016)."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.card import StateSpec
from models.cells.base import Cell, CellOptions, State, vector_states
from models.cells.gates import Gates, weight


class GridOptions(CellOptions):
    """Set the depth of the grid, and whether the output gate is inside the tanh ("paper") or outside ("standard")."""

    blocks: int = Field(default=2, ge=1, le=1024)
    output: Literal["paper", "standard"] = "paper"

    @property
    def least_weights(self) -> int:
        return self.blocks


class GridBlock(nn.Module):
    """Hold the two LSTM transforms of one block: along time, then along depth, which reads the result along time."""

    def __init__(self, hidden_size: int, output: Literal["paper", "standard"]) -> None:
        super().__init__()
        # W multiplies h along time, R multiplies h along depth
        self.along_time = Gates("ufoc", hidden_size, hidden_size)
        self.along_depth = Gates("ufoc", hidden_size, hidden_size)
        self.output = output

    def transform(self, gates: Gates, h_time: Tensor, h_depth: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        u, f, o, c = gates(h_time, h_depth)
        m = torch.sigmoid(f) * m + torch.sigmoid(u) * torch.tanh(c)
        o = torch.sigmoid(o)
        return (torch.tanh(o * m) if self.output == "paper" else o * torch.tanh(m)), m

    def forward(self, h: Tensor, m: Tensor, h_depth: Tensor, m_depth: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h, m = self.transform(self.along_time, h, h_depth, m)
        h_depth, m_depth = self.transform(self.along_depth, h, h_depth, m_depth)
        return h, m, h_depth, m_depth


class GridLSTM(Cell):
    """Carry one LSTM state through time, and a second one through the depth of the blocks.

    the input: h_d = W_h x, m_d = W_m x;  in each block: (h, m) = L([h', h_d], m'), then (h_d, m_d) = L([h, h_d], m_d);
    L: u, f, o = σ(V H + b), c = tanh(V H + b), m = f m' + u c, h = tanh(o m) — or o tanh(m);  y is the last h_d
    """

    source = "Kalchbrenner, Danihelka & Graves 2016 (arXiv 1507.01526), sections 2 and 3"
    Options = GridOptions
    options: GridOptions

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.W_h = weight(hidden_size, input_size, hidden_size=hidden_size)
        self.W_m = weight(hidden_size, input_size, hidden_size=hidden_size)
        self.blocks = nn.ModuleList(GridBlock(hidden_size, self.options.output) for _ in range(self.options.blocks))

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return tuple(
            spec.model_copy(update={"name": f"{spec.name}{block}"})
            for block in range(self.options.blocks)
            for spec in vector_states("hm", self.hidden_size)
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        h_depth, m_depth = x @ self.W_h.T, x @ self.W_m.T
        after: list[Tensor] = []
        for block, h, m in zip(self.blocks, state[::2], state[1::2], strict=True):
            h, m, h_depth, m_depth = block(h, m, h_depth, m_depth)
            after += [h, m]
        return h_depth, tuple(after)
