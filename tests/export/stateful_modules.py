# mypy: disable-error-code="no-any-return"
"""Modules that take and return their state in the ways in which users write it."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

FEATURES, WIDTH = 4, 6


class Leaky(nn.Module):
    """A leaky sum over time of a layer's output, behind any layer in the middle."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.inner, self.middle = nn.Linear(FEATURES, WIDTH), middle

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[0], WIDTH) if state is None else state
        outputs = []
        for t in range(x.shape[1]):
            h = 0.8 * h + self.middle(self.inner(x[:, t]))
            outputs.append(h)
        return torch.stack(outputs, 1), h


class Maths(nn.Module):
    """One step of a recurrence with two states, which each signature below wraps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(FEATURES + WIDTH, WIDTH), nn.Linear(FEATURES + WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 2)

    def start(self, rows: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(rows, WIDTH), torch.zeros(rows, WIDTH)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.cat([x, h], 1)
        c = 0.5 * c + torch.tanh(self.a(z))
        return torch.sigmoid(self.b(z)) * c, c

    def run(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = []
        for t in range(x.shape[1]):
            h, c = self.step(x[:, t], h, c)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1), h, c


class RequiredLayer(nn.Module):
    """A state without a default, which may be None."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(FEATURES, WIDTH, batch_first=True)

    def forward(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.gru(x, hidden)


class RequiredPair(nn.Module):
    """Two states without defaults, which must be tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, WIDTH, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


class RequiredWithMethod(Maths):
    """A state without a default, made by a method for a number of rows; it does not start from zeros."""

    def init_hidden(self, batch_size: int) -> tuple[Tensor, Tensor]:
        return torch.full((batch_size, WIDTH), 0.3), torch.zeros(batch_size, WIDTH)

    def forward(self, x: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, h, c = self.run(x, *hidden)
        return y, (h, c)


class Apart(Maths):
    """Two states, two arguments, two results."""

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        zero_h, zero_c = self.start(len(x))
        return self.run(x, zero_h if h is None else h, zero_c if c is None else c)


class ApartFirst(Apart):
    """The two states before the output."""

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        y, h, c = super().forward(x, h, c)
        return h, c, y


class First(Maths):
    """The state before the output, of the output's width."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Any, Tensor]:
        y, h, c = self.run(x, *(self.start(len(x)) if state is None else state))
        return (h, c), y


class Flat(Maths):
    """The state is taken in a tuple, and returned behind the output in one tuple with it."""

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        return self.run(x, *(self.start(len(x)) if state is None else state))


class TakenFirst(Maths):
    """The state is the first argument."""

    def forward(self, state: Any, x: Tensor) -> tuple[Tensor, Any]:
        y, h, c = self.run(x, *(self.start(len(x)) if state is None else state))
        return y, (h, c)


class KeywordOnly(Maths):
    """The state can only be given by name."""

    def forward(self, x: Tensor, *, state: Any = None) -> tuple[Tensor, Any]:
        y, h, c = self.run(x, *(self.start(len(x)) if state is None else state))
        return y, (h, c)


class AnyArguments(Maths):
    """The signature says nothing, as that of a wrapper."""

    def forward(self, *args: Any) -> tuple[Tensor, Any]:
        return self.answer(*args)

    def answer(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, h, c = self.run(x, *(self.start(len(x)) if state is None else state))
        return y, (h, c)


class AllKeywords(Maths):
    """Input and state can only be given by name."""

    def forward(self, *, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        y, h, c = self.run(x, *(self.start(len(x)) if state is None else state))
        return y, (h, c)


class Dicts(Maths):
    """A dict of states in a dict of results, with an option between input and state."""

    def forward(self, x: Tensor, scale: float = 1.0, state: Any = None) -> dict[str, Any]:
        h, c = self.start(len(x)) if state is None else (state["h"], state["c"])
        y, h, c = self.run(x, h, c)
        return {"state": {"h": h, "c": c}, "y": scale * y}


class Pair(NamedTuple):
    """A state of two tensors."""

    h: Tensor
    c: Tensor


class Named(Maths):
    """A NamedTuple is the state."""

    def forward(self, x: Tensor, state: Pair | None = None) -> tuple[Tensor, Pair]:
        state = Pair(*self.start(len(x))) if state is None else state
        y, h, c = self.run(x, state.h, state.c)
        return y, Pair(h, c)


@dataclass
class Carry:
    """A state of a list of tensors."""

    parts: list[Tensor]


class Dataclass(Maths):
    """A dataclass is the state."""

    def forward(self, x: Tensor, carry: Carry | None = None) -> tuple[Tensor, Carry]:
        carry = Carry(list(self.start(len(x)))) if carry is None else carry
        y, h, c = self.run(x, *carry.parts)
        return y, Carry([h, c])


class Learned(Maths):
    """None starts from what was learned, one state as it is and the other computed."""

    def __init__(self) -> None:
        super().__init__()
        self.h0, self.c0 = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        if state is None:
            state = self.h0.expand(len(x), -1), torch.tanh(self.c0).repeat(len(x), 1)
        y, h, c = self.run(x, *state)
        return y, (h, c)


class Policy(nn.Module):
    """A policy: observations of one step, (batch, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(FEATURES, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, obs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        h, c = self.cell(obs, state)
        return self.head(h), (h, c)


class SameWidth(nn.Module):
    """A policy whose output has the state's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, obs: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.cell(obs, h)
        return self.head(h), h


class SameWidthFirst(SameWidth):
    """The same, and the state is returned first."""

    def forward(self, obs: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, h = super().forward(obs, h)
        return h, y


class BareCell(nn.Module):
    """A step that returns its state and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(FEATURES, WIDTH)

    def forward(self, obs: Tensor, h: Tensor | None = None) -> Tensor:
        return self.cell(obs, h)


class RowMaker(nn.Module):
    """The tutorials' network of names: single steps, and a method that makes the state of one row."""

    def __init__(self) -> None:
        super().__init__()
        self.to_hidden, self.to_output = nn.Linear(FEATURES + WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def init_hidden(self) -> Tensor:
        return torch.zeros(1, WIDTH)

    def forward(self, letter: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.to_hidden(torch.cat((letter, hidden), 1)))
        return torch.log_softmax(self.to_output(hidden), 1), hidden


class Spikes(nn.Module):
    """Single steps of leaky neurons, whose arithmetic would run over sequences as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
        current = self.inner(x)
        mem = torch.zeros_like(current) if mem is None else mem
        mem = 0.9 * mem + current - (mem > 1).float()
        return self.out(torch.sigmoid(mem)), mem


class Resets(nn.Module):
    """Single steps, with a flag that ends an episode as an input behind the state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(FEATURES, FEATURES)

    def forward(self, x: Tensor, h: Tensor | None = None, done: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = torch.zeros_like(x) if h is None else h
        h = h if done is None else h * (1 - done.float()).unsqueeze(-1)
        h = self.cell(x, h)
        return h.sum(-1), h


class EpisodeStarts(nn.Module):
    """A policy whose state, between its two inputs, is reset where an episode starts."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(FEATURES, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, obs: Tensor, lstm_states: Any, episode_starts: Tensor) -> tuple[Tensor, Any]:
        h, c = lstm_states
        outputs = []
        for t in range(obs.shape[1]):
            keep = (1.0 - episode_starts[:, t].float()).view(1, -1, 1)
            y, (h, c) = self.lstm(obs[:, t].unsqueeze(0), (keep * h, keep * c))
            outputs.append(self.head(y[0]))
        return torch.stack(outputs, 1), (h, c)
