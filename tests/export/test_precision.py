"""Lower precision saves what it says, costs what it says, and is refused where it would save nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner, Result

from export import ExportOptions, export_network
from export.__main__ import app
from export.adopt import adopt_model
from export.artefact import read_card
from export.module import Example, export_module
from export.precision import Precision, PrecisionError, parse_precision
from models.cells import CELLS
from service.engine.runner import Runner
from service.repository.repository import Repository
from service.sessions.commit import MemoryCommitter
from service.settings import Settings
from tests.export.networks import SCALERS, make_network
from tests.export.zoo import ZOO, write
from tests.fakes import FakeClock
from tests.sweeps import sweep


class Headed(torch.nn.Module):
    """A recurrent layer and a linear one, batch first."""

    def __init__(self, layer: torch.nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.head = torch.nn.Linear(layer.hidden_size, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.layer(x)[0])
        return y


def invoke(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_after", "gru_reset_before", "rnn_tanh"])
def test_float16_halves_weights_and_states(cell: str, tmp_path: Path) -> None:
    """Weights and states take half the bytes, clients still send and get float32, and the error is stated."""
    findings: list[str] = []
    network = make_network(cell, hidden_size=48, **SCALERS)
    path = export_network(
        network, tmp_path, "half", 1, ExportOptions(precision=Precision.FLOAT16, on_finding=findings.append)
    )
    card = read_card(path)
    assert {state.dtype for state in card.states} == {"float16"}
    assert {spec.dtype for spec in (*card.inputs, *card.outputs)} == {"float32"}
    assert card.config["bytes"] < 0.6 * card.config["bytes_in_float32"]
    assert card.parity.tolerance == 5e-3
    # the tolerance, and what a state of float16 is rounded by
    assert 0 < max(card.parity.errors.values()) <= 1e-2
    assert findings
    assert findings[0].startswith("float16: ")


def test_the_service_serves_float16_in_place(tmp_path: Path) -> None:
    """A float16 artefact passes the service's check that no arena is copied, and its arenas are float16."""
    export_network(make_network(hidden_size=32), tmp_path, "half", 1, ExportOptions(precision=Precision.FLOAT16))
    repository = Repository(Settings(artifacts=tmp_path, max_sessions=5), MemoryCommitter(), FakeClock())
    repository.open()
    runner: Runner = repository.find("half").runner
    assert {rows.dtype for rows in runner.arena.rows.values()} == {np.dtype(np.float16)}
    repository.close()


def test_int8_runs_one_row_at_a_time(tmp_path: Path) -> None:
    """An int8 LSTM takes a third of the bytes, states its error, and its card says max_batch 1."""
    findings: list[str] = []
    network = make_network(hidden_size=64)
    path = export_network(
        network,
        tmp_path,
        "small",
        1,
        ExportOptions(precision=Precision.INT8, tolerance=0.1, on_finding=findings.append),
    )
    card = read_card(path)
    assert card.max_batch == 1
    assert card.config["bytes"] < 0.4 * card.config["bytes_in_float32"]
    assert 1e-4 < max(card.parity.errors.values()) <= card.parity.tolerance == 0.1
    assert card.parity.steps == 200
    assert "over 200 steps" in findings[0]
    assert "strangers" not in " ".join(card.parity.errors)
    assert "another's values would change its scale" in findings[0]


def test_int8_that_saves_nothing_is_refused(tmp_path: Path) -> None:
    """onnxruntime has no int8 GRU: such a network is refused rather than served larger and less exact."""
    with pytest.raises(PrecisionError, match="would save nothing"):
        export_network(
            make_network("gru_reset_after"), tmp_path / "out", "gru", 1, ExportOptions(precision=Precision.INT8)
        )
    assert not (tmp_path / "out").exists()


def test_foreign_models_and_modules_take_a_precision_too(tmp_path: Path) -> None:
    """Adopted files and torch modules can be held in float16; int8 inside a Scan is refused."""
    file = write(ZOO["names_in_the_other_order"].model(), tmp_path / "foreign.onnx")
    card = read_card(adopt_model(file, tmp_path, "foreign", 1, ExportOptions(precision=Precision.FLOAT16)))
    assert {state.dtype for state in card.states} == {"float16"}
    torch.manual_seed(0)
    lstm, example = torch.nn.LSTM(6, 64, batch_first=True), Example.parse("1x9x6")
    card = read_card(export_module(lstm, [example], tmp_path, "module", 1, ExportOptions(precision=Precision.INT8)))
    assert card.max_batch == 1
    with pytest.raises(PrecisionError, match="not inside a Scan"):
        adopt_model(file, tmp_path, "foreign", 2, ExportOptions(precision=Precision.INT8))


@pytest.mark.parametrize("layer", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_a_recurrent_layer_before_a_linear_one_can_be_held_in_float16(
    layer: Callable[..., torch.nn.RNNBase], tmp_path: Path
) -> None:
    """The head's MatMul reads a Transpose: onnxruntime loads the artefact here, and in the service."""
    torch.manual_seed(0)
    module = Headed(layer(3, 16, num_layers=2, batch_first=True))
    path = export_module(
        module, [Example.parse("1x20x3")], tmp_path, "half", 1, ExportOptions(precision=Precision.FLOAT16)
    )
    assert {state.dtype for state in read_card(path).states} == {"float16"}
    repository = Repository(Settings(artifacts=tmp_path, max_sessions=5), MemoryCommitter(), FakeClock())
    repository.open()
    repository.close()


@pytest.mark.parametrize("cell", sweep(CELLS))
def test_every_cell_can_be_held_in_float16(cell: str, tmp_path: Path) -> None:
    """None of the catalogue ends the process, or is further off than float16 may be."""
    path = export_network(
        make_network(cell, num_layers=1), tmp_path, "half", 1, ExportOptions(precision=Precision.FLOAT16)
    )
    assert read_card(path).config["precision"] == "float16"


def test_the_command_tells_what_is_saved(tmp_path: Path) -> None:
    """`--quantize int8` and `--dtype float16` print bytes, times and the error; nonsense is refused in a sentence."""
    make_network(hidden_size=64).save(tmp_path / "net.safetensors")
    result = invoke(
        tmp_path / "net.safetensors", "--out", tmp_path / "small/1", "--quantize", "int8", "--tolerance", 0.1
    )
    assert result.exit_code == 0, result.output
    assert "int8: " in result.stdout
    assert "largest error" in result.stdout
    refused = invoke(tmp_path / "net.safetensors", "--out", tmp_path / "small/2", "--quantize", "int4")
    assert refused.exit_code != 0
    assert "expected int8" in refused.stderr


def test_what_contradicts_itself_is_refused() -> None:
    """int8 starts from float32, and there are no other precisions."""
    for dtype, quantize in (("float16", "int8"), ("bfloat16", ""), ("float32", "int4")):
        with pytest.raises(PrecisionError):
            parse_precision(dtype, quantize)


def test_a_graph_without_float_weights_is_refused(tmp_path: Path) -> None:
    """Where nothing is float32 there is nothing to halve."""
    file = write(ZOO["integers_and_booleans"].model(), tmp_path / "foreign.onnx")
    assert onnx.load(file).graph.initializer == []
    with pytest.raises(PrecisionError):
        adopt_model(file, tmp_path / "out", "foreign", 1, ExportOptions(precision=Precision.FLOAT16))
    assert not (tmp_path / "out").exists()
