"""The unmodified tritonclient works: sequences, metadata, errors, and requests that it sends again."""

import json
import os
import socket
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.network import Network
from tests.service.conftest import RunningServer, offline, random_inputs

CALLS = Path(__file__).with_name("triton_calls.py")
ROOT = Path(__file__).resolve().parents[3]
OLD = "geventhttpclient==2.5.1"
"""The last version that sends a POST again when the connection is lost."""


@pytest.fixture(scope="module")
def triton_server(artifacts: Path) -> Iterator[RunningServer]:
    running = RunningServer(artifacts, "--model-control")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def address(triton_server: RunningServer) -> str:
    return triton_server.url.removeprefix("http://")


def call(test: str, address: str, inputs: np.ndarray, python: str = sys.executable) -> Any:
    """Run one of the calls in a process of its own; return what it printed."""
    done = subprocess.run(
        [python, str(CALLS), test, address],
        input=json.dumps(inputs.tolist()),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("test", "count"), [("sequences", 6), ("together", 4), ("with_asyncio", 2), ("fleet", 2)])
def test_sequences_equal_the_offline_run(address: str, networks: dict[str, Network], test: str, count: int) -> None:
    """Sequences of every kind of client, in JSON, binary or compressed, equal the offline run."""
    inputs = random_inputs(9)
    made = call(test, address, inputs)
    assert len(made) == count
    for outputs in made.values():
        np.testing.assert_allclose(np.array(outputs), offline(networks["lstm"], inputs), atol=1e-5)


def test_metadata_calls_work(address: str) -> None:
    """The client's calls for health, metadata, configuration, statistics, index, load and unload work."""
    answers = call("metadata", address, random_inputs(2))
    assert [answers[key] for key in ("live", "ready", "model", "nobody", "unloaded", "loaded")] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert answers["server"]["name"] == "cellstream"
    assert answers["metadata"]["inputs"][0]["name"] == "x"
    assert answers["config"]["sequence_batching"]["state"]
    assert {one["name"] for one in answers["index"]} >= {"lstm", "tokens"}
    assert answers["statistics"]["model_stats"][0]["inference_stats"]["success"]["count"] > 0
    assert len(answers["all"]["model_stats"]) == len(answers["index"])


def test_errors_are_those_of_triton(address: str) -> None:
    """The statuses and sentences of errors are those of Triton."""
    answers = call("errors", address, random_inputs(1))
    assert answers["no id"] == [
        "400",
        "inference request to model 'lstm' must specify a non-zero or non-empty correlation ID",
    ]
    assert answers["no start"] == [
        "400",
        "inference request for sequence 999 to model 'lstm' must specify the START flag on the first request of the "
        "sequence",
    ]
    assert answers["no model"] == ["404", "Request for unknown model: 'nobody' is not found"]
    for name, status, text in (
        ("priority", "400", "priority"),
        ("config", "400", "config"),
        ("file", "400", "config"),
        ("shared memory", "501", "shared memory"),
        ("trace", "501", "trace"),
    ):
        assert answers[name][0] == status
        assert text in answers[name][1]


class LossyProxy(threading.Thread):
    """A proxy that forwards each request, and drops the responses to the first `lost` ones."""

    def __init__(self, address: str, lost: int) -> None:
        super().__init__(daemon=True)
        host, _, port = address.partition(":")
        self._upstream, self._lost = (host, int(port)), lost
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.bodies: list[bytes] = []
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                request = _whole_message(client)
                if not request:
                    continue
                self.bodies.append(request.partition(b"\r\n\r\n")[2])
                with socket.create_connection(self._upstream) as server:
                    server.sendall(request)
                    answer = _whole_message(server)
                if len(self.bodies) > self._lost:
                    client.sendall(answer)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.join(5)


def _whole_message(source: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = source.recv(1 << 16)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    (length,) = (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(body) < length:
        body += source.recv(1 << 16)
    return head + b"\r\n\r\n" + body


def old_client() -> str:
    """Return a Python whose client sends requests again; install it under build/ if missing, or skip the test."""
    python = Path(os.environ.get("CELLSTREAM_OLD_TRITONCLIENT", ROOT / "build/old-tritonclient")) / "bin/python"
    if not python.exists():
        venv.create(python.parents[1], with_pip=True)
    ready = subprocess.run([python, "-c", "import tritonclient.http.aio"], capture_output=True, check=False)
    if ready.returncode:
        wanted = [OLD, f"tritonclient[http]=={version('tritonclient')}"]
        done = subprocess.run(
            [python, "-m", "pip", "install", "-qq", *wanted], capture_output=True, timeout=150, check=False
        )
        if done.returncode:
            pytest.skip(f"{OLD} cannot be installed here")
    return str(python)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_client_that_sends_again_takes_one_step(address: str, networks: dict[str, Network]) -> None:
    """A START that an old client sends three times, as its answer is lost twice, is taken once."""
    inputs = random_inputs(3)
    python = old_client()
    proxy = LossyProxy(address, lost=2)
    answers = call("once", proxy.address, inputs, python)
    proxy.stop()
    assert len(proxy.bodies) == 3
    assert len(set(proxy.bodies)) == 1
    assert answers["parameters"] == {"step": 3, "replayed": True}
    np.testing.assert_allclose(answers["y"], offline(networks["lstm"], inputs), atol=1e-5)
