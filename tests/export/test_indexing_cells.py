"""Cells that pick a row of their state by a number are traced, and their export computes what a numpy loop does."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from export import export_network, read_card
from export.arena_runner import INITIAL_SLOT, ArenaRunner
from export.errors import GraphFailedError, NoLoweringError
from models.card import StateSpec
from models.cells import CELLS, Cell, State
from models.cells.gates import Gates
from models.network import Network, NetworkConfig

Array = npt.NDArray[np.float64]


class Delayed(Cell):
    """h = tanh(W x + R h[t − 2] + b)."""

    def __init__(self, input_size: int, hidden_size: int, **options: object) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.gates = Gates("h", input_size, hidden_size)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (StateSpec(name="earlier", shape=(2, self.hidden_size)),)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        (earlier,) = state
        h = self.step(x, earlier)
        return h, (torch.stack([earlier[:, 1], h], 1),)

    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        (a,) = self.gates(x, earlier[:, 0])
        return torch.tanh(a)


class FromTheEnd(Delayed):
    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        (a,) = self.gates(x, earlier[:, -2])
        return torch.tanh(a)


class Selected(Delayed):
    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        (a,) = self.gates(x, earlier.select(1, 0))
        return torch.tanh(a)


class Sliced(Delayed):
    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        (a,) = self.gates(x, earlier[:, :1].squeeze(1))
        return torch.tanh(a)


class Unbound(Delayed):
    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        (a,) = self.gates(x, earlier.unbind(1)[0])
        return torch.tanh(a)


class OneBatchSize(Delayed):
    """Is traced with the number of rows of the example."""

    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        (a,) = self.gates(x, earlier[:, 0])
        return torch.tanh(a + torch.zeros(2 if torch.compiler.is_exporting() else len(x), 1))


class Complains(Delayed):
    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        raise ValueError("the width must be odd")


class Branches(Delayed):
    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x


class Eigenvalues(Delayed):
    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        h = earlier[:, 0]
        values: Tensor = torch.linalg.eigvals(h[:, :, None] * h[:, None]).real
        return values


class ComplexWeights(Delayed):
    def __init__(self, input_size: int, hidden_size: int, **options: object) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.decay = torch.nn.Parameter(torch.ones(hidden_size, dtype=torch.complex64))

    def step(self, x: Tensor, earlier: Tensor) -> Tensor:
        h: Tensor = (self.decay * earlier[:, 0]).real
        return h


def delayed_network(cell: type[Cell], monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.setitem(CELLS, "delayed", cell)
    torch.manual_seed(3)
    return Network(NetworkConfig(cell="delayed", input_size=3, hidden_size=8, output_size=2)).eval()


def expected_outputs(network: Network, x: Array) -> Array:
    """Return y of a float64 loop over the equation: x (time, features) → (time, outputs)."""
    weights = {name: value.double().numpy() for name, value in network.state_dict().items()}
    w, r, b = (weights[f"stack.layers.0.gates.{name}"] for name in "WRb")
    h = [np.zeros(8), np.zeros(8)]
    for step in x:
        h.append(np.tanh(w @ step + r @ h[-2] + b))
    outputs: Array = np.array(h[2:]) @ weights["head.weight"].T + weights["head.bias"]
    return outputs


@pytest.mark.parametrize("cell", [Delayed, FromTheEnd, Selected, Sliced, Unbound])
def test_a_cell_that_indexes_its_state_is_exported(
    cell: type[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number keeps no axis in the trace, however the row is picked."""
    network = delayed_network(cell, monkeypatch)
    path = export_network(network, tmp_path, "delayed", 1)
    runner = ArenaRunner(path.read_bytes(), read_card(path), slots=4)
    x = np.random.default_rng(0).standard_normal((1, 30, 3)).astype(np.float32)
    y = runner.run({"x": x}, np.array([INITIAL_SLOT]), np.array([2]))["y"][0]
    np.testing.assert_allclose(y, expected_outputs(network, x[0].astype(np.float64)), atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (Complains, "ValueError: the width must be odd"),
        (Branches, "data-dependent"),
        (Eigenvalues, "linalg_eig"),
        (ComplexWeights, "decay is complex"),
    ],
)
def test_a_step_that_cannot_be_traced_is_refused_with_the_first_reason(
    cell: type[Cell],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What went wrong stands in the sentence, not the exporter's stage, and nothing else is printed."""
    network = delayed_network(cell, monkeypatch)
    with pytest.raises(NoLoweringError, match=sentence) as refused:
        export_network(network, tmp_path / "out", "delayed", 1)
    assert "step 1/3" not in str(refused.value)
    assert str(refused.value).count("\n") == 0
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_does_not_run_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime's error on another number of rows is no traceback."""
    network = delayed_network(OneBatchSize, monkeypatch)
    with pytest.raises(GraphFailedError) as refused:
        export_network(network, tmp_path / "out", "delayed", 1)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()
