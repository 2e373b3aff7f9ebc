"""The steps for every cell of the table: train a little, save, load, export and verify, measure."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from export import ExportOptions
from export.arena_graph import build_arena_graph
from export.arena_runner import FIRST_FREE_SLOT, ArenaRunner
from export.artefact import read_card
from export.cards import network_card
from export.lower import Target
from export.pipeline import export_network
from models.cells import CELLS
from models.network import Network, NetworkConfig
from models.training import FitConfig, Sequences, evaluate, fit

INPUTS, HIDDEN, OUTPUTS, LAYERS = 3, 8, 2, 2
"""Sizes of the networks that are verified; two layers, so that the states of one are not taken for the other's."""

TIMED_INPUTS, TIMED_HIDDEN, TIMED_OUTPUTS = 16, 128, 4
"""Sizes of the one-layer networks that are timed."""

TIMED_BATCHES = (1, 64)

COMPOSITIONS: dict[str, dict[str, Any]] = {
    "residual": {"cell": "lstm", "input_size": HIDDEN, "residual": True},
    "bidirectional": {"cell": "gru_reset_after", "bidirectional": True},
}
"""Networks that are composed of cells: name → fields of the network's configuration."""


def variants() -> list[str]:
    """Return the names of all variants that are taken through the suite: every cell and every composition."""
    return [*CELLS, *COMPOSITIONS]


def small_network(name: str, **fields: Any) -> Network:
    """Return the small network of a variant, with seeded weights."""
    given = COMPOSITIONS.get(name, {"cell": name})
    sizes = {"input_size": INPUTS, "hidden_size": HIDDEN, "output_size": OUTPUTS, "num_layers": LAYERS}
    return _network({**sizes, **given, **fields})


def timed_network(name: str) -> Network:
    """Return the network of a variant whose step is timed."""
    given = COMPOSITIONS.get(name, {"cell": name})
    width = TIMED_HIDDEN if given.get("residual") else TIMED_INPUTS
    sizes = {"hidden_size": TIMED_HIDDEN, "output_size": TIMED_OUTPUTS, "num_layers": 1}
    return _network({**given, **sizes, "input_size": width})


def _network(fields: dict[str, Any]) -> Network:
    if CELLS[fields["cell"]].square:
        fields = {**fields, "input_size": fields["hidden_size"]}
    torch.manual_seed(13)
    return Network(NetworkConfig.model_validate(fields)).eval()


def train_a_little(network: Network, epochs: int = 8) -> tuple[float, float]:
    """Fit a few epochs of two toy series and return the loss before and after."""
    times = torch.arange(31.0)
    width, outputs = network.config.input_size, network.config.output_size
    waves = torch.stack([torch.sin(times * 2 * math.pi / (5 + k) + k) for k in range(width)], -1)
    series = torch.stack([waves, waves.flip(0)])
    train = Sequences(series[:, :-1], series[:, 1:, :1].expand(-1, -1, outputs))
    before = evaluate(network, train, "mse")
    fit(network, train, FitConfig(epochs=epochs, learning_rate=1e-2, progress=False))
    return before, evaluate(network, train, "mse")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the export of a variant gave, before it is served."""

    name: str
    network: Network
    path: Path
    errors: dict[str, float]
    loss_before: float
    loss_after: float


def export_variant(name: str, folder: Path, target: Target = "cpu") -> Outcome:
    """Train a variant's small network a little, save and load it, and export what was loaded to `folder`/NAME/1.

    Raises:
        ExportError: onnxruntime and torch disagree, or the cell cannot be lowered; nothing was written.
    """
    network = small_network(name)
    before, after = train_a_little(network)
    checkpoint = folder / f"{name}.safetensors"
    network.save(checkpoint)
    loaded = Network.load(checkpoint)
    path = export_network(loaded, folder / "artifacts", name, 1, ExportOptions(force=True), target=target)
    return Outcome(name, loaded, path, read_card(path).parity.errors, before, after)


def step_microseconds(name: str, target: Target = "cpu", seconds: float = 0.05) -> dict[int, float]:
    """Return the time of one step of one stream by batch size: the median run of one step over the batch.

    onnxruntime on one thread, on the served graph: the state is gathered from an arena and scattered back to it.
    """
    network = timed_network(name)
    model = build_arena_graph(network, target).SerializeToString()
    runner = ArenaRunner(model, network_card(network, "timed", 1), slots=1_000)
    measured = {}
    for batch in TIMED_BATCHES:
        x = np.random.default_rng(0).standard_normal((batch, 1, network.config.input_size)).astype(np.float32)
        slots = np.arange(FIRST_FREE_SLOT, FIRST_FREE_SLOT + batch)
        run = runner.prepare({"x": x}, slots, slots + batch)
        measured[batch] = _median_seconds(run, seconds) / batch * 1e6
    return measured


def _median_seconds(run: Callable[[], None], seconds: float) -> float:
    for _ in range(20):
        run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end or len(times) < 50:
        run()
        times.append(time.perf_counter() - start)
    return median(times)
