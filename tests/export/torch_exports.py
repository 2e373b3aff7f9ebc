"""Torch modules that keep a state inside, and the files that torch's exporters make of them."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import nn

from tests.export.hidden_states import STEPS


class Output(nn.Module):
    """A recurrent layer of torch's that gives y alone, or its last step."""

    def __init__(self, layer: nn.Module, *, last: bool = False) -> None:
        super().__init__()
        self.layer, self.last = layer, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x)[0]
        return y[:, -1] if self.last else y


class Start(nn.Module):
    """An LSTM of two layers that starts from zeros by the batch size, or from learned values."""

    def __init__(self, *, learned: bool) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 5, num_layers=2, batch_first=True)
        self.start = nn.Parameter(torch.linspace(-0.5, 0.5, 10).reshape(2, 1, 5), requires_grad=learned)
        self.learned = learned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        h = self.start.expand(2, rows, 5).contiguous() if self.learned else torch.zeros(2, rows, 5)
        y: torch.Tensor = self.layer(x, (h, 0.5 * h))[0]
        return y


class Between(nn.Module):
    """A causal convolution, a GRU, a LayerNorm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Conv1d(4, 6, 3, dilation=2), nn.LayerNorm(5)
        self.layer, self.head = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = torch.relu(self.inner(nn.functional.pad(x.transpose(1, 2), (4, 0))))
        y: torch.Tensor = self.head(self.norm(self.layer(wide.transpose(1, 2))[0]))
        return y


class Dilated(nn.Module):
    """Residual causal convolutions that are padded on both sides and cut behind, each of twice the dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.pads = [2 * 2**i for i in range(3)]
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=pad, dilation=pad // 2) for pad in self.pads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.transpose(1, 2)
        for layer, pad in zip(self.layers, self.pads, strict=True):
            y = y + torch.tanh(layer(y)[:, :, :-pad])
        return y.transpose(1, 2)


class Words(nn.Module):
    """Token ids, an embedding, an LSTM and the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(11, 4), nn.LSTM(4, 5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(self.table(x))[0][:, -1]
        return y


class Bands(nn.Module):
    """A GRU over time for each of three bands, which are folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (batch, time, 3, 4)
        rows, steps = x.shape[0], x.shape[1]
        y: torch.Tensor = self.layer(x.permute(1, 0, 2, 3).reshape(steps, rows * 3, 4))[0]
        return y.reshape(steps, rows, 3, 5).permute(1, 0, 2, 3)


@dataclass(frozen=True, slots=True)
class TorchCase:
    """A module, the exporters that write it, and the axis of its time; `ids` for token ids."""

    module: nn.Module
    exporters: tuple[str, ...] = ("script", "dynamo")
    axis: int = 1
    shape: tuple[int, ...] = (4,)
    ids: bool = False

    def sequence(self, rows: int = 1, steps: int = STEPS) -> Any:
        """Return random inputs of so many rows and steps."""
        random = np.random.default_rng(5)
        sizes = (rows, steps) if self.axis == 1 else (steps, rows)
        if self.ids:
            return random.integers(0, 11, sizes)
        return random.normal(0, 0.5, (*sizes, *self.shape)).astype(np.float32)

    def exported(self, exporter: str, folder: Path) -> ModelProto:
        """Return what an exporter of torch's makes of the module."""
        example = torch.from_numpy(self.sequence(2, 7))
        names = {self.axis: "time", 1 - self.axis: "batch"}
        how: dict[str, Any] = {"dynamo": False, "dynamic_axes": {"x": names}}
        if exporter == "dynamo":
            how = {"dynamo": True, "dynamic_shapes": (dict.fromkeys(names, torch.export.Dim.DYNAMIC),)}
            how["verbose"] = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.module.eval(), (example,), folder / "e.onnx", input_names=["x"], output_names=["y"], **how
            )
        return onnx.load(folder / "e.onnx")


torch.manual_seed(0)
# where the newer exporter is missing, it cannot export the layer with open axes
TORCH = {
    "lstm": TorchCase(Output(nn.LSTM(4, 5, batch_first=True))),
    "lstm_time_first": TorchCase(Output(nn.LSTM(4, 5, num_layers=2)), ("script",), 0),
    "gru": TorchCase(Output(nn.GRU(4, 5, num_layers=2, batch_first=True))),
    "gru_time_first": TorchCase(Output(nn.GRU(4, 5)), ("script",), 0),
    "rnn": TorchCase(Output(nn.RNN(4, 5, nonlinearity="relu", batch_first=True)), ("script",)),
    "zeros_by_batch_size": TorchCase(Start(learned=False)),
    "learned_start": TorchCase(Start(learned=True), ("script",)),
    "between_other_layers": TorchCase(Between()),
    "dilated_convolutions": TorchCase(Dilated()),
    "token_ids": TorchCase(Words(), ids=True),
    "bands": TorchCase(Bands(), ("script",), shape=(3, 4)),
    "last_step": TorchCase(Output(nn.GRU(4, 5, batch_first=True), last=True)),
}
