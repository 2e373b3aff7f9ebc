"""GRUs without biases: z, r = σ(W · [h', x]);  g = tanh(W · [r h', x]), the equations of Olah 2015."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models.cells import CELLS
from models.from_torch import NotLoadableError, load_torch_weights
from models.network import CheckpointError, Network, NetworkConfig
from models.stack import Stack
from tests.models.oracles import ORACLES
from tests.models.oracles.common import array, sigmoid

GRUS = [name for name in CELLS if name.startswith("gru_")]


def network(name: str, **options: bool) -> Network:
    torch.manual_seed(3)
    config = NetworkConfig(cell=name, input_size=5, hidden_size=8, output_size=2, cell_options=options)
    return Network(config).eval()


@pytest.mark.parametrize("name", GRUS)
def test_without_biases_the_rest_of_the_equations_is_the_same(name: str) -> None:
    """A GRU without biases computes the float64 loop with biases of zero, and has the weights of three maps."""
    torch.manual_seed(1)
    cell = CELLS[name](5, 8, bias=False)
    x, state = torch.randn(50, 3, 5), cell.random_state(3, torch.Generator().manual_seed(2))
    assert sum(weight.numel() for weight in cell.parameters()) == 3 * 8 * (5 + 8)
    with torch.no_grad():
        y, (h,) = cell.sequence(x, state)
    wanted, (last,) = ORACLES[name](cell, x.double().numpy(), [array(rows) for rows in state])
    np.testing.assert_allclose(y.numpy(), wanted, rtol=0, atol=2e-6)
    np.testing.assert_allclose(h.numpy(), last, rtol=0, atol=2e-6)


def test_it_is_the_gru_of_concatenated_vectors() -> None:
    """The reset before the product and z that writes, without biases, is h = (1 − z) h' + z tanh(W · [r h', x])."""
    torch.manual_seed(1)
    cell = CELLS["gru_reset_before_z_writes"](5, 8, bias=False)
    gates, candidate = cell.get_submodule("gates"), cell.get_submodule("candidate")
    w_z, w_r = np.split(np.hstack([array(gates.R), array(gates.W)]), 2)
    w = np.hstack([array(candidate.R), array(candidate.W)])
    x, h = torch.randn(40, 5), np.zeros(8)
    with torch.no_grad():
        y, _ = cell.sequence(x[:, None], cell.initial_state(1))
    for x_t, y_t in zip(x.double().numpy(), y[:, 0].numpy(), strict=True):
        z, r = (sigmoid(weights @ np.concatenate([h, x_t])) for weights in (w_z, w_r))
        h = (1 - z) * h + z * np.tanh(w @ np.concatenate([r * h, x_t]))
        np.testing.assert_allclose(y_t, h, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", GRUS)
def test_it_is_saved_and_loaded_without_biases(name: str, tmp_path: Path) -> None:
    """A file holds no bias; one with biases does not fit the configuration, nor the other way round."""
    without, given = network(name, bias=False), network(name)
    for made in (without, given):
        made.save(tmp_path / "network.safetensors")
        loaded = Network.load(tmp_path / "network.safetensors")
        assert loaded.weights_sha256() == made.weights_sha256()
        assert any(key.endswith((".b", "bias")) for key in loaded.stack.state_dict()) == (made is given)
    fields = {"without": without.config, "given": given.config}
    for weights, config in ((given, fields["without"]), (without, fields["given"])):
        weights.config = config
        weights.save(tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match="do not fit its configuration"):
            Network.load(tmp_path / "other.safetensors")


def test_biases_are_not_lost_when_torchs_weights_are_loaded() -> None:
    """torch's GRU without biases fits cells without; one with biases is refused, for they would not be saved."""
    stack = Stack([CELLS["gru_reset_after"](5, 8, bias=False)])
    module = nn.GRU(5, 8, bias=False)
    load_torch_weights(stack, module.state_dict())
    x = torch.randn(20, 3, 5)
    with torch.no_grad():
        torch.testing.assert_close(stack(x, stack.initial_state(3))[0], module(x)[0], atol=1e-6, rtol=0)
    with pytest.raises(NotLoadableError, match="have no biases, and the bias is not zero"):
        load_torch_weights(stack, nn.GRU(5, 8).state_dict())
