"""A cell without a lowering of its own: registered, traced, exported, and streamed like any other."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from benchmarks.cells.served import running_service, served_error
from export import export_network, read_card
from export.__main__ import app
from export.arena_graph import build_arena_graph
from export.verify import verify
from models.card import StateSpec
from models.cells import CELLS, Cell, State
from models.cells.base import CellOptions
from models.cells.gates import Gates
from models.network import Network, NetworkConfig
from tests.sweeps import sweep


class OddOptions(CellOptions):
    slots: int = 3


class OddCell(Cell):
    """A cell with states of several ranks and dtypes: a matrix, a vector, a counter, and a flag without an axis."""

    Options = OddOptions
    options: OddOptions
    source = "made up for this test"

    def __init__(self, input_size: int, hidden_size: int, **options: Any) -> None:
        super().__init__(input_size, hidden_size, **options)
        self.gates = Gates("zg", input_size, hidden_size)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (
            StateSpec(name="earlier", shape=(self.options.slots, self.hidden_size)),
            StateSpec(name="h", shape=(self.hidden_size,), initial=0.5),
            StateSpec(name="t", dtype="int64", shape=(1,)),
            StateSpec(name="odd", dtype="bool", shape=()),
        )

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        earlier, h, t, odd = state
        z, g = self.gates(x, h + earlier.mean(1))
        h = torch.sigmoid(z) * h + torch.tanh(g) * torch.where(odd, 1.0, 0.5).unsqueeze(1) / (t + 1)
        earlier = torch.cat([earlier[:, 1:], h.unsqueeze(1)], 1)
        return h * 2.0, (earlier, h, (t + 1) % 4, ~odd)

    def random_state(self, batch: int, generator: torch.Generator) -> State:
        earlier, h, t, odd = super().random_state(batch, generator)
        return (
            earlier,
            h,
            torch.randint(4, t.shape, generator=generator),
            torch.rand(odd.shape, generator=generator) > 0.5,
        )


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(CELLS, "odd", OddCell)
    return "odd"


def odd_network(**fields: Any) -> Network:
    torch.manual_seed(2)
    given = {"cell": "odd", "input_size": 3, "hidden_size": 8, "output_size": 2, "num_layers": 2}
    return Network(NetworkConfig.model_validate({**given, **fields})).eval()


def test_a_registered_cell_is_exported_without_a_lowering(odd: str, tmp_path: Path) -> None:
    """Its traced step agrees with torch in all comparisons, with states of any rank and dtype, and is written."""
    network = odd_network()
    card = read_card(export_network(network, tmp_path, "odd", 1))
    assert len(card.parity.errors) == 5
    assert max(card.parity.errors.values()) < 1e-5
    assert [(spec.dtype, spec.shape) for spec in card.states[:4]] == [
        ("float32", (3, 8)),
        ("float32", (8,)),
        ("int64", (1,)),
        ("bool", ()),
    ]


@pytest.mark.slow
def test_a_registered_cell_streams_through_the_service(odd: str, tmp_path: Path) -> None:
    """The service carries its matrix, counter and flag like any other state, and knows nothing of the class."""
    network = odd_network()
    export_network(network, tmp_path, "odd", 1)
    with running_service(tmp_path, "--max-sessions", "20") as client:
        assert served_error(client, "odd", network) < 2e-6


def test_a_traced_graph_is_plain_onnx(odd: str) -> None:
    """No function and no operator of another domain is left of the tracing."""
    model = build_arena_graph(odd_network())
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    assert {opset.domain for opset in model.opset_import} == {""}


@pytest.mark.parametrize("cell", sweep(["mut3", "attention_lstm", "clockwork_rnn"], {"mut3"}))
def test_a_cell_with_a_lowering_can_be_traced_as_well(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The traced step of a cell of the table computes what its own lowering computes."""
    monkeypatch.setattr("export.lower.LOWERINGS", {})
    torch.manual_seed(2)
    network = Network(NetworkConfig(cell=cell, input_size=3, hidden_size=8, output_size=2)).eval()
    assert max(verify(network, build_arena_graph(network).SerializeToString()).errors.values()) < 5e-6


MODULE = '''
from models.cells import register_cell
from models.cells.mut import MUT3

class Mine(MUT3):
    """A cell of the user's own: the class is not in the export's table."""

register_cell("mine", Mine)
'''


@pytest.mark.slow
def test_the_command_line_imports_a_users_cells(tmp_path: Path) -> None:
    """`--import MODULE` finds the cell that the checkpoint names; without it, the command says which is missing."""
    (tmp_path / "my_cells.py").write_text(MODULE)
    checkpoint = tmp_path / "mine.safetensors"
    make = (
        "import my_cells; from models.network import Network, NetworkConfig;"
        f"Network(NetworkConfig(cell='mine', input_size=2, hidden_size=4, output_size=1)).save({str(checkpoint)!r})"
    )
    subprocess.run([sys.executable, "-c", make], cwd=tmp_path, check=True, env=environment())
    command = [sys.executable, "-m", "export", str(checkpoint), "--out", str(tmp_path / "mine" / "1")]
    without = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment())
    assert without.returncode == 2
    assert "no cell is called 'mine'" in without.stderr
    done = subprocess.run(
        [*command, "--import", "my_cells"], cwd=tmp_path, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert read_card(tmp_path / "mine" / "1" / "model.onnx").cell == "mine"


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    """--import of nothing, and a target that is none, are answered in a sentence with status 2."""
    checkpoint = tmp_path / "network.safetensors"
    Network(NetworkConfig(cell="lstm", input_size=2, hidden_size=4, output_size=1)).save(checkpoint)
    arguments = [str(checkpoint), "--out", str(tmp_path / "demo" / "1")]
    for more, sentence in (["--import", "no_such_module"], "no_such_module"), (["--target", "tpu"], "'tpu'"):
        result = CliRunner().invoke(app, [*arguments, *more], env={"COLUMNS": "200"})
        assert result.exit_code == 2
        assert sentence in result.stderr
        assert not (tmp_path / "demo").exists()


def test_the_target_is_chosen_on_the_command_line(tmp_path: Path) -> None:
    """With --target cuda a peephole LSTM is a Scan and without it a native node."""
    checkpoint = tmp_path / "network.safetensors"
    Network(NetworkConfig(cell="peephole_lstm", input_size=2, hidden_size=4, output_size=1)).save(checkpoint)
    for version, target in enumerate(("cpu", "cuda"), start=1):
        out = tmp_path / "demo" / str(version)
        assert CliRunner().invoke(app, [str(checkpoint), "--out", str(out), "--target", target]).exit_code == 0
        operators = {node.op_type for node in onnx.load(out / "model.onnx").graph.node}
        assert ("LSTM" in operators) == (target == "cpu")
