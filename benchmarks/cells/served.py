"""Networks streamed through a running service, compared with torch over the whole sequence.

The service is a process of its own, used over HTTP as by any client.
"""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from models.network import Network

STREAMS, STEPS, LONGEST_CHUNK = 3, 40, 11


class RefusedError(Exception):
    """The service answered with an error."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"the service answered {status}: {body}")
        self.status, self.body = status, body


class Client:
    """A client that sends JSON to a service over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def post(self, path: str, body: Any = None) -> Any:
        """Send a request and return the answer.

        Raises:
            RefusedError: The status is not 2xx.
        """
        self._connection.request("POST", path, b"" if body is None else json.dumps(body).encode())
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        if not 200 <= response.status < 300:
            raise RefusedError(response.status, answer)
        return answer


@contextlib.contextmanager
def running_service(artifacts: Path, *flags: str) -> Iterator[Client]:
    """Start `python -m service` on a port that the system chooses, and end it afterwards."""
    command = [sys.executable, "-m", "service", "--artifacts", str(artifacts), "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr is not None
            with contextlib.closing(Client(_port(process.stderr))) as client:
                yield client
        finally:
            process.terminate()
            process.communicate(timeout=20)


def _port(stderr: Iterator[str] | Any) -> int:
    lines = []
    for line in stderr:
        if '"event": "started"' in line:
            return int(json.loads(line)["port"])
        lines.append(line)
    raise RuntimeError(f"the service ended before it listened{os.linesep}{''.join(lines)}")


def served_error(client: Client, name: str, network: Network, seed: int = 0) -> float:
    """Return how far a model's streams are from torch, as the largest difference over the largest output.

    Several sessions take chunks of random lengths alternately. A network that cannot stream is asked for whole
    sequences of several lengths at once.
    """
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((STREAMS, STEPS, network.config.input_size)).astype(np.float32)
    if not network.streams:
        lengths = [STEPS - 7 * row for row in range(STREAMS)]
        sequences = [rows[:length] for rows, length in zip(inputs, lengths, strict=True)]
        outputs = client.post(f"/v1/models/{name}/predict", {"inputs": [rows.tolist() for rows in sequences]})[
            "outputs"
        ]
        found = [np.array(rows, np.float32) for rows in outputs]
    else:
        sequences, found = list(inputs), _stream(client, name, inputs, random)
    wanted = [_offline(network, rows) for rows in sequences]
    scale = max(float(np.abs(rows).max()) for rows in wanted)
    return max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True)) / scale


def _stream(
    client: Client, name: str, inputs: npt.NDArray[np.float32], random: np.random.Generator
) -> list[npt.NDArray[np.float32]]:
    sessions = [client.post(f"/v1/models/{name}/sessions")["session_id"] for _ in inputs]
    outputs: list[list[Any]] = [[] for _ in inputs]
    while any(len(done) < STEPS for done in outputs):
        for session, rows, done in zip(sessions, inputs, outputs, strict=True):
            chunk = rows[len(done) : len(done) + int(random.integers(1, LONGEST_CHUNK + 1))]
            if len(chunk):
                done += client.post(f"/v1/sessions/{session}/steps", {"inputs": chunk.tolist()})["outputs"]
    return [np.array(done, np.float32) for done in outputs]


def _offline(network: Network, inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        y, _ = network(torch.from_numpy(np.ascontiguousarray(inputs[None])))
    return np.asarray(y[0].numpy())
