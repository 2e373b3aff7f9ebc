"""float16 holds what lies behind the scalers; inputs beyond its range become NaN, and no answer is made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import ExportOptions, export_network, read_card
from export.arena_runner import INITIAL_SLOT, ArenaRunner
from export.precision import Precision
from models.network import Network, Scaler
from tests.export.networks import make_network
from tests.sweeps import sweep

_CELLS = ("lstm", "gru_reset_after", "gru_reset_before", "rnn_tanh", "mut3", "min_gru")


def run_half(network: Network, x: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Export in float16, run one sequence (time, features), and return y and the states after it."""
    path = export_network(network, folder, "half", 1, ExportOptions(precision=Precision.FLOAT16))
    runner = ArenaRunner(path.read_bytes(), read_card(path), slots=4)
    y = runner.run({"x": x[None].astype(np.float32)}, np.array([INITIAL_SLOT]), np.array([2]))["y"][0]
    return y, {name: rows[2] for name, rows in runner.arenas.items()}


@pytest.mark.parametrize("cell", sweep(_CELLS, {"lstm"}))
@pytest.mark.parametrize(("mean", "std"), [(1e6, 2e5), (101_325.0, 100.0), (-3e8, 1e8)])
def test_raw_units_beyond_float16_are_scaled_in_float32(cell: str, mean: float, std: float, tmp_path: Path) -> None:
    """Inputs and outputs far above 65,504 are served as torch in float64 computes them."""
    width = 9 if cell == "mut1" else 2
    network = make_network(
        cell,
        input_scaler=Scaler(mean=(mean,) * width, std=(std,) * width),
        output_scaler=Scaler(mean=(mean,) * 3, std=(std,) * 3),
    )
    x = mean + std * np.random.default_rng(1).standard_normal((20, width)).astype(np.float32)
    y, _ = run_half(network, x, tmp_path)
    with torch.no_grad():
        x64 = torch.from_numpy(x.astype(np.float32)).double()[None]
        states = {name: rows.double() for name, rows in network.initial_state(1).items()}
        expected = network.double()(x64, states)[0][0].numpy()
    assert np.abs(y - expected).max() < 0.02 * std


@pytest.mark.parametrize("cell", sweep(_CELLS, {"lstm"}))
@pytest.mark.parametrize("value", [65_536.0, 1e6, -1e30])
def test_an_input_beyond_the_range_makes_the_state_not_finite(cell: str, value: float, tmp_path: Path) -> None:
    """The service refuses a step whose state is not finite; a large value that fits is answered."""
    x = np.zeros((3, 2))
    x[1, 0] = value
    y, states = run_half(make_network(cell), x, tmp_path)
    assert not all(np.isfinite(rows.astype(np.float32)).all() for rows in states.values())
    x[1, 0] = 60_000.0
    y, states = run_half(make_network(cell), x, tmp_path / "fits")
    assert np.isfinite(y).all()
