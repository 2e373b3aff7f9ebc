"""A folder of small artefacts, a service over them, and a real server on a real socket."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from export import export_network
from models.network import Network, NetworkConfig
from service.app import Service
from service.settings import Settings
from tests.fakes import FakeClock

FEATURES = 3
PLAIN_CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru_reset_before", "gru_reset_after")
"""One cell of each form that onnxruntime has a node for; all cells go through the service in tests/test_cells.py."""


@pytest.fixture(scope="session")
def networks() -> dict[str, Network]:
    """A two-layer network of each plain cell, one that reads token ids, and one whose state grows."""
    torch.manual_seed(1)
    made = {
        name.replace("_", "-"): Network(
            NetworkConfig(cell=name, input_size=FEATURES, hidden_size=8, output_size=2, num_layers=2)
        )
        for name in PLAIN_CELLS
    }
    made["tokens"] = Network(NetworkConfig(cell="lstm", input_size=4, hidden_size=8, output_size=5, vocabulary=20))
    explosive = Network(NetworkConfig(cell="rnn_relu", input_size=FEATURES, hidden_size=8, output_size=2))
    with torch.no_grad():
        for parameter in explosive.parameters():
            parameter.abs_().mul_(3)
    made["explosive"] = explosive
    return made


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory, networks: dict[str, Network]) -> Path:
    folder = tmp_path_factory.mktemp("artifacts")
    for name, network in networks.items():
        export_network(network, folder, name, 1)
    return folder


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def settings(artifacts: Path) -> Settings:
    return Settings(artifacts=artifacts, max_sessions=50)


@pytest.fixture
async def service(settings: Settings, clock: FakeClock) -> AsyncIterator[Service]:
    """An open service, on the test's own loop and clock."""
    made = Service(settings, clock)
    made.open()
    yield made
    made.close()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://service") as made:
        yield made


def offline(network: Network, inputs: np.ndarray) -> np.ndarray:
    """Return torch's outputs (time, outputs) for one whole sequence (time, features) or (time,)."""
    with torch.no_grad():
        outputs, _ = network(torch.from_numpy(inputs[None]))
    return np.asarray(outputs[0].numpy())


def random_inputs(steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, FEATURES)).astype(np.float32)


class RunningServer:
    """`python -m service` as its own process, on a port the system chose."""

    def __init__(self, artifacts: Path, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--artifacts", str(artifacts), "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"COLUMNS": "140"},
        )
        self.url = f"http://127.0.0.1:{self._port()}"

    def _port(self) -> int:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if '"event": "started"' in line:
                return int(json.loads(line)["port"])
        raise AssertionError(f"the service ended with {self.process.wait()} before it listened")

    def stop(self) -> int:
        self.process.terminate()
        try:
            self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode


@pytest.fixture(scope="session")
def server(artifacts: Path) -> Iterator[RunningServer]:
    running = RunningServer(artifacts)
    yield running
    running.stop()
