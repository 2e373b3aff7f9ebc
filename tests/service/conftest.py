"""A service with the small artefacts, in process or as a real server."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from models.network import Network
from service.app import Service
from service.settings import Settings
from tests.fakes import FakeClock

FEATURES = 3


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def settings(artifacts: Path) -> Settings:
    return Settings(artifacts=artifacts, max_sessions=50)


@pytest.fixture
async def service(settings: Settings, clock: FakeClock) -> AsyncIterator[Service]:
    """Return an open service on the test's own event loop and clock."""
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
    """Runs `python -m service` as a process of its own, on a port that the system chooses."""

    def __init__(self, artifacts: Path, *flags: str, stdout: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--artifacts", str(artifacts), "--port", "0", *flags],
            stdout=stdout,
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
