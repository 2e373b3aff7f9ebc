"""Faults that are planted in the served graph are found in each way that leads to one, and nothing is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import nn

from export import export_network
from export.adopt import adopt_model, whole_sequence
from export.adopt.errors import WholeSequenceError
from export.adopt.graph import build_served_graph
from export.adopt.options import AdoptOptions
from export.adopt.plan import Plan
from export.adopt.planning import Planned, make_plan
from export.adopt.whole_sequence import check_whole_sequence
from export.arena_graph import build_arena_graph
from export.comparisons import LONG, SINGLE_LENGTHS, one_step, up_to
from export.errors import ExportError
from export.module import Example, export_module
from models.card import ModelCard, Parity
from tests.export.networks import make_network
from tests.export.zoo import write

Fault = Callable[[ModelProto], None]


def _scatter(model: ModelProto) -> Any:
    return next(node for node in model.graph.node if node.op_type == "ScatterND")


def _before(model: ModelProto, node: Any, *nodes: Any) -> None:
    at = list(model.graph.node).index(node)
    for new in reversed(nodes):
        model.graph.node.insert(at, new)


def state_forgotten(model: ModelProto) -> None:
    """Read the initial rows, whatever slots are asked for."""
    for node in model.graph.node:
        node.input[:] = ["slot_0" if name == "read_slots" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Sub", ["read_slots", "read_slots"], ["slot_0"]))


def state_written_wrong(model: ModelProto) -> None:
    """Store one state a thousandth too large."""
    scatter = _scatter(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.001, np.float32), "factor"))
    rows = scatter.input[2]
    scatter.input[2] = "wrong_rows"
    _before(model, scatter, helper.make_node("Mul", [rows, "factor"], ["wrong_rows"]))


def output_wrong(model: ModelProto) -> None:
    """Give one thousandth more."""
    (maker,) = (node for node in model.graph.node if model.graph.output[0].name in node.output)
    name = model.graph.output[0].name
    maker.output[list(maker.output).index(name)] = "right"
    model.graph.initializer.append(numpy_helper.from_array(np.array(1.001, np.float32), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["right", "factor"], [name]))


FAULTS: tuple[Fault, ...] = (state_forgotten, state_written_wrong, output_wrong)


def exposed() -> ModelProto:
    """Return an LSTM over sequences, x (batch, time, 3), with its states as inputs and outputs."""
    torch.manual_seed(0)
    layer = nn.LSTM(3, 5)
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    gates = [0, 3, 1, 2]  # torch has i f g o, ONNX i o f c

    def rows(name: str) -> Any:
        return np.concatenate([np.split(weights[name], 4)[gate] for gate in gates])

    constants = {
        "w": rows("weight_ih_l0")[None],
        "r": rows("weight_hh_l0")[None],
        "b": np.concatenate([rows("bias_ih_l0"), rows("bias_hh_l0")])[None],
        "direction": np.array([1]),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["xs"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["xs", "w", "r", "b", "", "h", "c"], ["ys", "h_out", "c_out"], hidden_size=5),
        helper.make_node("Squeeze", ["ys", "direction"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[1, 0, 2]),
    ]
    state: list[str | int] = [1, "batch", 5]
    x: list[str | int] = ["batch", "time", 3]
    y: list[str | int] = ["batch", "time", 5]
    graph = helper.make_graph(
        nodes,
        "exposed",
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("x", x), ("h", state), ("c", state))
        ],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name, shape in (("y", y), ("h_out", state), ("c_out", state))
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _adopt(folder: Path) -> None:
    adopt_model(write(exposed(), folder / "foreign.onnx"), folder / "out", "m", 1)


def _module(folder: Path) -> None:
    torch.manual_seed(0)
    export_module(nn.LSTM(3, 5, batch_first=True), [Example.parse("1x6x3")], folder / "out", "m", 1)


def _network(folder: Path) -> None:
    export_network(make_network(), folder / "out", "m", 1)


WAYS: dict[str, tuple[str, Callable[..., ModelProto], Callable[[Path], None]]] = {
    "adopt": ("export.adopt.pipeline.build_served_graph", build_served_graph, _adopt),
    "module": ("export.module.attempt.build_served_graph", build_served_graph, _module),
    "network": ("export.pipeline.build_arena_graph", build_arena_graph, _network),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_in_each_way(fault: Fault, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fault the artefact is written; with it nothing is."""
    where, build, export = WAYS[way]
    (tmp_path / "sound").mkdir()
    export(tmp_path / "sound")
    assert (tmp_path / "sound" / "out" / "m" / "1" / "model.onnx").exists()

    def faulty(*args: Any, **kwargs: Any) -> ModelProto:
        model = build(*args, **kwargs)
        fault(model)
        return model

    monkeypatch.setattr(where, faulty)
    with pytest.raises(ExportError):
        export(tmp_path)
    assert not (tmp_path / "out").exists()


def _planned() -> tuple[Planned, Plan, ModelCard]:
    planned = make_plan(exposed(), AdoptOptions(), lambda _: None)
    plan = planned.plan
    card = ModelCard(
        name="m",
        version=1,
        cell="adopted",
        inputs=plan.input_specs,
        outputs=plan.output_specs,
        states=plan.state_specs,
        ragged=False,
        weights_sha256="0" * 64,
        parity=Parity(tolerance=1e-5, errors={}),
        created_by="test",
    )
    return planned, plan, card


GUARDED = [(length, "one step") for length in (2, 7, SINGLE_LENGTHS[-1], LONG)]
GUARDED += [(length, "several") for length in (SINGLE_LENGTHS[-1], LONG)]  # shorter ones may be one chunk


@pytest.mark.parametrize(("length", "chunk"), GUARDED)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_run_of_the_whole_sequence_alone_finds_a_fault(
    fault: Fault, length: int, chunk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's own run, at one length and against one way to cut it, passes the right graph and no wrong one."""
    monkeypatch.setattr(whole_sequence, "LENGTHS", (length,))
    monkeypatch.setattr(whole_sequence, "_CHUNK_LENGTHS", (one_step if chunk == "one step" else up_to(8),))
    planned, plan, card = _planned()
    model = build_served_graph(exposed(), plan)
    check_whole_sequence(planned, model.SerializeToString(), card, 1e-5, file=exposed(), batch_axes={})
    fault(model)
    with pytest.raises(WholeSequenceError):
        check_whole_sequence(planned, model.SerializeToString(), card, 1e-5, file=exposed(), batch_axes={})


class Delayed(nn.Module):
    """An LSTM beside its input of many steps ago, which no layer carries."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.layer, self.steps = nn.LSTM(3, 5, batch_first=True), steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        late = torch.cat([x.new_zeros(x.shape[0], self.steps, 3), x], 1)[:, : x.shape[1]]
        return torch.cat([self.layer(x)[0], late], -1)


@pytest.mark.parametrize("steps", [1, SINGLE_LENGTHS[-1] + 6, LONG - 50])
def test_a_delay_that_is_no_state_is_found(steps: int, tmp_path: Path) -> None:
    """A module that delays its input without a state gives zeros for as many steps: it is run for longer."""
    with pytest.raises(ExportError, match="does not compute a step from its input"):
        export_module(Delayed(steps), [Example.parse("1x6x3")], tmp_path / "out", "m", 1)
    assert not (tmp_path / "out").exists()
