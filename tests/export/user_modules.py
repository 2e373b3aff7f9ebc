# mypy: disable-error-code="no-any-return"
"""Torch modules as users write them."""

import torch
from torch import Tensor, nn

from models.cells.gru import GRUResetBefore
from models.cells.layer_norm import LayerNormLSTM


class Tagger(nn.Module):
    """Two LSTM layers between other layers, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.embed = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.lstm = nn.LSTM(8, 10, num_layers=2, batch_first=True, dropout=0.3)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lstm(self.embed(self.norm(x)))
        return torch.log_softmax(self.head(y), dim=-1)


class TimeMajor(nn.Module):
    """A GRU over (time, batch, features), and a flat view of both leading axes."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 7)
        self.head = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        time, batch, _ = x.shape
        y, _ = self.gru(x)
        return self.head(y.reshape(time * batch, 7)).reshape(time, batch, 2)


class Projected(nn.Module):
    """An LSTM with a projection, which torch's own exporter refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 12, num_layers=2, proj_size=4, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, states = self.lstm(x)
        return y, states


class LastOnly(nn.Module):
    """A classifier of the whole sequence: it returns what follows from the last hidden state alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 9, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        _, h = self.rnn(x)
        return torch.softmax(self.head(h[-1]), dim=-1)


class CellLoop(nn.Module):
    """Two cells in a Python loop over time, from learned initial states."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(4, 6), nn.GRUCell(6, 5)
        self.h0 = nn.Parameter(0.3 * torch.ones(6))
        self.c0 = nn.Parameter(torch.linspace(-1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        h, c = self.h0.expand(batch, 6), self.c0.expand(batch, 6)
        g = torch.zeros(batch, 5)
        outputs = []
        for t in range(x.shape[1]):
            h, c = self.first(x[:, t], (h, c))
            g = self.second(h, g)
            outputs.append(g)
        return torch.stack(outputs, dim=1)


class TwoRates(nn.Module):
    """Several recurrent layers side by side, two inputs, two outputs in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.audio, self.video = nn.GRU(4, 6, batch_first=True), nn.LSTM(3, 5, batch_first=True, bias=False)
        self.joint = nn.RNN(11, 4, batch_first=True)

    def forward(self, audio: Tensor, video: Tensor) -> dict[str, Tensor]:
        a, _ = self.audio(audio)
        v, _ = self.video(video)
        y, _ = self.joint(torch.cat([a, v], dim=-1))
        return {"score": y.mean(-1), "hidden": y}


class Tokens(nn.Module):
    """A character model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 6)
        self.gru = nn.GRU(6, 8, 2, batch_first=True)
        self.head = nn.Linear(8, 30)

    def forward(self, ids: Tensor) -> Tensor:
        h0 = torch.zeros(self.gru.num_layers, ids.size(0), self.gru.hidden_size)
        y, _ = self.gru(self.table(ids), h0)
        return self.head(y)


class Residual(nn.Module):
    """Recurrent blocks with convolutions over the features of a step, and skips between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, padding=1)
        self.blocks = nn.ModuleList([nn.GRU(18, 18, batch_first=True), nn.LSTM(18, 18, batch_first=True)])
        self.head = nn.Linear(18, 6)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        y = self.conv(x.reshape(batch * time, 1, width)).reshape(batch, time, 3 * width)
        for block in self.blocks:
            y = y + block(y)[0]
        return x + torch.tanh(self.head(y))


class OwnCells(nn.Module):
    """A cell of models.cells in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = GRUResetBefore(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell.initial_state(x.shape[0])
        outputs = []
        for step in x.unbind(1):
            y, state = self.cell(step, state)
            outputs.append(y)
        return torch.stack(outputs, 1)


class NormalisedCell(nn.Module):
    """A cell of models.cells that has no native node, behind a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.cell = LayerNormLSTM(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        state = self.cell.initial_state(x.shape[0])
        outputs = []
        for step in self.inner(x).unbind(1):
            y, state = self.cell(step, state)
            outputs.append(y)
        return torch.stack(outputs, 1)


class OwnMaths(nn.Module):
    """A recurrence of the user's own in a loop; the state is an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.keep, self.add = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:
            state = (x.new_zeros(x.shape[0], 5), x.new_zeros(2, x.shape[0], 3))
        h, last = state
        outputs = []
        for t in range(x.shape[1]):
            seen = torch.cat([h, x[:, t]], dim=-1)
            gate = torch.sigmoid(self.keep(seen))
            h = gate * h + (1 - gate) * torch.tanh(self.add(seen))
            last = torch.stack([last[1], x[:, t]])
            outputs.append(h + last.sum(0).mean(-1, keepdim=True))
        return torch.stack(outputs, 1), (h, last)


class Bidirectional(nn.Module):
    """It reads the future."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


class LooksAhead(nn.Module):
    """A convolution over time sees the next step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class EncoderState(nn.Module):
    """Its first state depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Linear(3, 4)
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x, self.start(x[:, 0])[None])[0]


class Twice(nn.Module):
    """It calls one layer twice in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.gru(x)[0])[0]
