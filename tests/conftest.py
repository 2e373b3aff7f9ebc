"""Small artefacts, and a real server for them, for the tests of the service and of its clients."""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import fastapi.dependencies.models
import pytest
import torch

from export import export_network
from models.network import Network, NetworkConfig
from tests.neighbours import workers_excluded
from tests.service.conftest import FEATURES, RunningServer

PLAIN_CELLS = ("rnn_tanh", "rnn_relu", "lstm", "gru_reset_before", "gru_reset_after")
"""One cell for each recurrent node of onnxruntime; all cells are served in tests/benchmarks/test_cells.py."""


def pytest_configure() -> None:
    """Keep torch on one thread, here and in processes that tests start.

    Two workers on two cores have one thread each, and threads that wait for each other on a busy machine take far
    longer than small networks do on one.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """Leave what the imports made, torch's million objects above all, out of each later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Let closed services go: FastAPI's caches hold the last thousands of routes' functions, and what those use."""
    for value in vars(fastapi.dependencies.models).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep the other workers of pytest-xdist from running tests beside one marked `alone`; waiting is not timed."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with workers_excluded(alone=item.get_closest_marker("alone") is not None):
        return (yield)


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
