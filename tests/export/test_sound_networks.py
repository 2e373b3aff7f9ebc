"""A sound network is exported however far its weights carry a rounding, and a wrong graph of it is still refused."""

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from export.arena_graph import build_arena_graph
from export.errors import CoarseFloat32Error, ParityError
from export.verify import verify
from models.cells import CELLS
from models.network import Network, NetworkConfig, Scaler
from tests.export.networks import make_network

SENSITIVE = {("greff_noaf", 0), ("full_peephole_lstm", 2), ("greff_nog", 2), ("lstm_no_output_gate", 0)}
"""Networks among the 264 in which a rounding grows most."""


def doubled(cell: str, seed: int) -> Network:
    """Return a two-layer network with weights of twice their usual size."""
    torch.manual_seed(seed)
    width = 8 if CELLS[cell].square else 3
    network = Network(NetworkConfig(cell=cell, input_size=width, hidden_size=8, output_size=2, num_layers=2)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(2.0)
    return network


def wrong_head(model: ModelProto, factor: float) -> bytes:
    """Multiply the head's weights."""
    for tensor in model.graph.initializer:
        if tensor.name.startswith("head_w"):
            array = (numpy_helper.to_array(tensor) * factor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    found: bytes = model.SerializeToString()
    return found


@pytest.mark.parametrize(
    ("cell", "seed"),
    [
        (cell, seed) if (cell, seed) in SENSITIVE else pytest.param(cell, seed, marks=pytest.mark.slow)
        for cell in CELLS
        for seed in range(8)
    ],
)
def test_doubled_weights_pass_and_a_wrong_head_does_not(cell: str, seed: int) -> None:
    """Of each cell and 8 draws, every graph is as near to float64 as torch is; one half a percent off fails."""
    network = doubled(cell, seed)
    model = build_arena_graph(network)
    verify(network, model.SerializeToString())
    with pytest.raises(ParityError):
        verify(network, wrong_head(model, 1.005))


@pytest.mark.parametrize("mean", [0.0, 1013.25, 101_325.0, -101_325.0])
def test_an_offset_of_the_outputs_hides_no_error(mean: float) -> None:
    """A head that is wrong by half a percent is refused beside an offset of a thousand times the spread."""
    network = make_network(output_size=1, output_scaler=Scaler(mean=(mean,), std=(100.0,)))
    model = build_arena_graph(network)
    verify(network, model.SerializeToString())
    with pytest.raises(ParityError, match=r"\(y, step"):
        verify(network, wrong_head(model, 1.005))


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_outputs_that_float32_cannot_hold_are_refused(factor: float) -> None:
    """Beside an offset of 1e9, float32 has no digits left: no comparison would say anything."""
    network = make_network(output_size=1, output_scaler=Scaler(mean=(1e9,), std=(1.0,)))
    with pytest.raises(CoarseFloat32Error, match="offset out of the outputs"):
        verify(network, wrong_head(build_arena_graph(network), factor))


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_outputs_that_overflow_are_refused(factor: float) -> None:
    """A state that grows beyond float32's range ends in NaN, which is never equal."""
    network = make_network("ind_rnn")
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith(".u"):
                weight.fill_(9.0)
    with pytest.raises(ParityError, match="NaN or infinite"):
        verify(network, wrong_head(build_arena_graph(network), factor))


def test_small_units_are_not_hidden_by_large_ones() -> None:
    """Each output is measured in the units of its own scaler."""
    network = make_network(output_size=2, output_scaler=Scaler(mean=(0.0, 0.0), std=(1e6, 1e-3)))
    model = build_arena_graph(network)
    verify(network, model.SerializeToString())
    for tensor in model.graph.initializer:
        if tensor.name.startswith("head_w"):
            array = numpy_helper.to_array(tensor) * np.array([1.0, 1.005], np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(ParityError, match="y, step"):
        verify(network, model.SerializeToString())
