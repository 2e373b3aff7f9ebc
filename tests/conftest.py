"""Small artefacts, and a real server for them, for the tests of the service and of its clients."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export import export_network
from models.network import Network, NetworkConfig
from tests.service.conftest import FEATURES, RunningServer

PLAIN_CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru_reset_before", "gru_reset_after")
"""One cell for each kind of onnxruntime node; tests/test_cells.py streams all cells through the service."""


@pytest.fixture(scope="session")
def networks() -> dict[str, Network]:
    """Return a two-layer network of each plain cell, one that takes token ids, and one whose state grows."""
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


@pytest.fixture(scope="session")
def server(artifacts: Path) -> Iterator[RunningServer]:
    running = RunningServer(artifacts)
    yield running
    running.stop()
