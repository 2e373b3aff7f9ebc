# mypy: disable-error-code="no-any-return"
"""Torch modules that cannot be exported, and a few that look so: each is one thing that users do."""

import sys
import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class Base(nn.Module):
    """A GRU over (batch, time, 4), and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)[0]


class BatchFirstForgotten(nn.Module):
    """An LSTM that takes the steps of a batch-first input for rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class StackForgotten(nn.Module):
    """Two LSTM layers of which the second takes the rows for steps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.layer = nn.LSTM(4, 5, batch_first=True), nn.LSTM(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.first(x)[0])[0]


class ProjectedTimeFirst(nn.Module):
    """A batch-first LSTM with a projection, given the time first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 5, num_layers=2, proj_size=3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1))[0].transpose(0, 1)


class GRUForgotten(nn.Module):
    """A GRU that takes the steps for rows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Bands(nn.Module):
    """An LSTM over the time of each of 4 bands, folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(1, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, bands = x.shape
        rows = x.transpose(1, 2).reshape(batch * bands, time, 1)
        return self.layer(rows)[0].reshape(batch, bands, time, 5).transpose(1, 2)


class FoldedCell(nn.Module):
    """A cell over the bands of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTMCell(1, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        outputs = []
        for step in x.unbind(1):
            state = self.layer(step.reshape(-1, 1), state)
            outputs.append(state[0].reshape(len(x), -1))
        return torch.stack(outputs, 1)


class Unbatched(Base):
    """It runs its layer on one row, without a batch axis."""

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[0])[0].expand(len(x), -1, -1)


class Packed(Base):
    """It packs its rows."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


class Exits(Base):
    """Its forward ends the process."""

    def forward(self, x: Tensor) -> Tensor:
        sys.exit(7)


class ExitsLater(Base):
    """It takes and returns a state, and its forward ends the process when it is run a third time."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.runs = nn.Linear(4, 4), 0

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.runs += 1
        if self.runs > 2:
            sys.exit(5)
        y = self.inner(x) + (0 if state is None else state)
        return y, y[:, -1:]


class Asserts(Base):
    """It takes sequences of one length."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 50
        return super().forward(x)


class ShortTable(Base):
    """It has a table of positions that ends."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(10, 4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table[torch.arange(x.shape[1])])


class Squeezes(Base):
    """It drops every axis of one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(-1, keepdim=True).squeeze()


class Lazy(Base):
    """A layer of it has no shape before its first run."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(super().forward(x))


class Meta(nn.Module):
    """Its weights have no values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 5, batch_first=True, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class NoEval(Base):
    """It cannot be brought out of training."""

    def train(self, mode: bool = True) -> Any:
        raise ValueError("always in training")


class NoCopy(Base):
    """It holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Derived(Base):
    """It holds a tensor that was computed from a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = next(self.layer.parameters()) * 2


class Sparse(Base):
    """It holds a sparse buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("few", torch.zeros(2).to_sparse())


class NoForward(Base):
    """It has no forward."""

    forward = None  # type: ignore[assignment]


class ExtraState(Base):
    """Its state_dict holds more than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"epoch": 1}

    def set_extra_state(self, state: Any) -> None:
        pass


class NoLoad(Base):
    """It takes no weights."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise KeyError("layer.weight")


class OwnObject(Base):
    """It returns an object of its own."""

    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(y=super().forward(x))


class NamedAsState(Base):
    """It returns a tensor under the name of its layer's state."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"layer.h": super().forward(x)}


class Noise(Base):
    """It adds noise."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


class Remembers(Base):
    """It keeps its state as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y, self.state = self.layer(x, self.state)
        return y


class Normalised(Base):
    """Its layer's recurrent weight is computed from two others."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.layer, "weight_hh_l0")


class NormalisedByHooks(Base):
    """The same by the older function."""

    def __init__(self) -> None:
        super().__init__()
        nn.utils.weight_norm(self.layer, "weight_hh_l0")


class Chooses(Base):
    """It chooses by the sum of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class FlipsOneStep(nn.Module):
    """It takes the rows of a single step for steps, where there are two, and returns the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        flipped = tuple(x.shape[:2]) == (2, 1)
        y = self.layer(x.transpose(0, 1) if flipped else x)[0]
        return y[0] if flipped else y[:, -1]


class Complex(Base):
    """It returns complex numbers, which torch does not export."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.complex(y, y)


# ---------------------------------------------------------------------- exported


class Keywords(nn.Module):
    """It names the arguments of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cell = nn.GRU(4, 5, batch_first=True), nn.GRUCell(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = None
        outputs = []
        for step in self.layer(input=x)[0].unbind(1):
            h = self.cell(input=step, hx=h)
            outputs.append(h)
        return torch.stack(outputs, 1)


@dataclass
class Answer:
    """What Fields returns."""

    score: Tensor
    rest: tuple[Tensor, None]


class Fields(Base):
    """It returns a dataclass."""

    def forward(self, x: Tensor) -> Answer:
        y = super().forward(x)
        return Answer(y.mean(-1), (y, None))


class ConvTail(nn.Module):
    """A causal convolution whose last inputs are a state, before a layer whose state is carried with them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.layer = nn.Conv1d(4, 4, 3), nn.GRU(4, 5, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        tail, h = (x.new_zeros(len(x), 4, 2), x.new_zeros(1, len(x), 5)) if state is None else state
        seen = torch.cat([tail, x.transpose(1, 2)], 2)
        y, h = self.layer(self.conv(seen).transpose(1, 2), h)
        return y, (seen[..., -2:], h)


class Prints(Base):
    """It prints whenever it runs, and torch warns of what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 5, batch_first=True, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        print("a line of the user's")
        print("another", file=sys.stderr)
        return super().forward(x)
