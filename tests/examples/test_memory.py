"""Sessions that are opened with a memory, by the functions shown in docs/cells.md, and streamed through a service."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cellstream_client import Client
from examples.running import HOST, ROOT, free_port, running_service
from export import export_network
from models.network import Network, NetworkConfig
from tests.models.oracles import ORACLES
from tests.models.oracles.common import Array, array

ROWS, ROW_SIZE, INPUTS = 6, 4, 3


def network() -> Network:
    torch.manual_seed(2)
    options = {"rows": ROWS, "row_size": ROW_SIZE, "attention_size": 8}
    config = NetworkConfig(
        cell="memory_attention_lstm", input_size=INPUTS, hidden_size=8, output_size=2, cell_options=options
    )
    made = Network(config).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(2.0)  # so that the memory matters
    return made


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("memory")
    export_network(network(), folder / "artifacts", "captions", 1)
    port = free_port(0)
    with (
        running_service(folder / "artifacts", port, folder / "service.log"),
        Client(f"http://{HOST}:{port}") as made,
    ):
        yield made


def shown() -> dict[str, Any]:
    """Return what the document's code for opening a session defines."""
    text = (Path(ROOT) / "docs" / "cells.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def with_states" in block)
    defined: dict[str, Any] = {}
    exec(code, defined)
    return defined


def wanted(x: Array, memory: Array) -> Array:
    """Answer a sequence (steps, inputs) in float64, by a loop that reads the rows given one by one."""
    made = network()
    cell = made.stack.cells[0]
    padded = np.vstack([memory, np.full((ROWS - len(memory), ROW_SIZE), 7.0)])
    states = [np.zeros((1, 8)), np.zeros((1, 8)), padded[None], np.array([[len(memory)]])]
    hidden, _ = ORACLES["memory_attention_lstm"](cell, x[:, None].astype(np.float64), states)
    return np.asarray(hidden[:, 0] @ array(made.head.weight).T + array(made.head.bias))


def test_each_session_reads_its_own_memory(client: Client) -> None:
    """Sessions with memories of 0 to 6 rows, stepped in chunks beside each other, answer as a float64 loop does."""
    random = np.random.default_rng(0)
    memories = [random.standard_normal((given, ROW_SIZE)).astype(np.float32) for given in range(ROWS + 1)]
    sessions = [shown()["open_with_memory"](client, "captions", memory, ROWS) for memory in memories]
    inputs = random.standard_normal((len(sessions), 60, INPUTS)).astype(np.float32)
    answers: list[list[list[float]]] = [[] for _ in sessions]
    while any(len(answer) < 60 for answer in answers):
        for session, x, answer in zip(sessions, inputs, answers, strict=True):
            at, steps = len(answer), int(random.integers(1, 8))
            if at < 60:
                answer += session.steps(x[at : at + steps])
    for x, memory, answer in zip(inputs, memories, answers, strict=True):
        np.testing.assert_allclose(answer, wanted(x, memory), rtol=0, atol=5e-6)
    one, other = (wanted(inputs[0], memory) for memory in (memories[3], memories[4]))
    assert np.abs(one - other).max() > 1e-2


def test_a_memory_stays_through_a_fork_a_rewind_and_a_snapshot(client: Client) -> None:
    """What continues a session reads the same memory, and a snapshot of it holds the memory unchanged."""
    random = np.random.default_rng(1)
    memory = random.standard_normal((5, ROW_SIZE)).astype(np.float32)
    x = random.standard_normal((30, INPUTS)).astype(np.float32)
    expected = wanted(x, memory)
    session = shown()["open_with_memory"](client, "captions", memory, ROWS)
    np.testing.assert_allclose(session.steps(x[:10]), expected[:10], rtol=0, atol=5e-6)
    snapshot = session.snapshot()
    kept = shown()["safetensors"].numpy.load(snapshot)
    assert np.array_equal(kept["layer0.memory"][:5], memory)
    assert kept["layer0.n"].tolist() == [5]
    for other in (session.fork(keep=1), client.open("captions", state=snapshot, keep=1)):
        other.steps(x[20:])
        other.rewind()
        np.testing.assert_allclose(other.steps(x[10:]), expected[10:], rtol=0, atol=5e-6)


def test_a_memory_given_in_torch_is_read_as_the_document_says() -> None:
    """The state that the document builds gives the loop's answer."""
    random = np.random.default_rng(2)
    made = network()
    memory, x = random.standard_normal((4, ROW_SIZE)), random.standard_normal((12, INPUTS))
    padded = np.zeros((1, ROWS, ROW_SIZE), np.float32)
    padded[0, :4] = memory
    state = made.initial_state(1) | {"layer0.memory": torch.from_numpy(padded), "layer0.n": torch.full((1, 1), 4)}
    with torch.no_grad():
        y, _ = made(torch.from_numpy(x.astype(np.float32))[None], state)
    np.testing.assert_allclose(y[0].numpy(), wanted(x, memory), rtol=0, atol=5e-6)
