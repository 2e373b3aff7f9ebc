"""Anomaly detection with a torch module of twenty lines: train, export, serve, and stream one reading at a time.

    python -m examples.anomaly

The module predicts the next reading of a sensor from all previous readings. It is trained for a few seconds on a clean
signal; then a signal with a fault is streamed through a session, and the prediction errors show the fault.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cellstream_client import Client
from examples.running import HOST, free_port, integer_in, running_service
from export import ExportOptions
from export.module import Example, export_module
from models.threads import torch_threads

FAULT = range(140, 150)


class NextReading(nn.Module):
    """Predict the next reading of a sensor: a linear layer, a GRU, an LSTM cell in a loop, a linear head."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.inner = nn.Linear(1, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.cell = nn.LSTMCell(width, width)
        self.head = nn.Linear(2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the prediction of the reading after each step: (batch, time, 1) → (batch, time, 1)."""
        slow, _ = self.gru(torch.tanh(self.inner(x)))
        state, fast = None, []
        for step in slow.unbind(1):
            state = self.cell(step, state)
            fast.append(state[0])
        y: Tensor = self.head(torch.cat([slow, torch.stack(fast, 1)], dim=-1))
        return x + y


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, export, serve and stream, print the faulty readings, and return 0 if the fault is found, else 1."""
    parser = argparse.ArgumentParser(description="Find a fault in a stream with a torch module: train, export, serve.")
    parser.add_argument("--port", type=integer_in(0, 65_535), default=8000, help="port of the service (default: 8000)")
    parser.add_argument("--rounds", type=int, default=60, help="number of training updates (default: 60)")
    options = parser.parse_args(arguments)
    with torch_threads(1), tempfile.TemporaryDirectory(prefix="cellstream-anomaly-") as folder:
        module = train(options.rounds)
        export_module(module, [Example.parse("1x50x1")], Path(folder), "readings", 1, ExportOptions(on_finding=print))
        readings = signal(200, seed=9)
        readings[FAULT] += 0.8
        port = free_port(options.port)
        with running_service(Path(folder), port, Path(folder) / "service.log"):
            errors = stream(f"http://{HOST}:{port}", readings)
    typical = float(np.median(errors[20 : FAULT.start]))
    found = [step for step, error in enumerate(errors) if step > 20 and error > 8 * typical]
    print(f"the typical error is {typical:.3f}; the fault is in readings {FAULT.start} to {FAULT.stop - 1}")
    print(f"readings far from their prediction: {', '.join(map(str, found)) or 'none'}")
    return 0 if FAULT.start in found else 1


def signal(length: int, seed: int) -> np.ndarray:
    """Return the sum of two sine waves and a little noise, (length,) float32."""
    random, t = np.random.default_rng(seed), np.arange(length)
    clean = np.sin(0.21 * t + random.uniform(0, 6)) + 0.5 * np.sin(0.067 * t + random.uniform(0, 6))
    return np.asarray(clean + 0.01 * random.normal(size=length), np.float32)


def train(rounds: int) -> NextReading:
    """Return a module that was trained to predict the next reading of clean signals, in eval mode."""
    torch.manual_seed(0)
    module = NextReading()
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    for round_ in range(rounds):
        x = torch.from_numpy(np.stack([signal(80, seed=100 + 16 * round_ + row) for row in range(16)]))[..., None]
        loss = nn.functional.mse_loss(module(x)[:, 10:-1], x[:, 11:])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return module.eval()


def stream(url: str, readings: np.ndarray) -> list[float]:
    """Send one reading at a time to a session; return the absolute error of the prediction of each reading."""
    errors, predicted = [], float(readings[0])
    with Client(url) as client, client.open("readings", idle_limit=60) as session:
        for reading in readings:
            errors.append(abs(float(reading) - predicted))
            (predicted,) = session.step(reading[None])
    return errors


if __name__ == "__main__":
    sys.exit(main())
