"""Small networks to export."""

from typing import Any

import torch

from models.cells import CELLS
from models.network import Network, NetworkConfig, Scaler

SCALERS: dict[str, Any] = {
    "input_scaler": Scaler(mean=(40.0, -3.0), std=(12.0, 0.25)),
    "output_scaler": Scaler(mean=(5.0, 0.0, 900.0), std=(1.0, 2.0, 30.0)),
}


def make_network(cell: str = "lstm", **fields: Any) -> Network:
    """Return a two-layer network with seeded weights, large enough that no gate is idle."""
    torch.manual_seed(13)
    sizes = {"input_size": 9 if CELLS[cell].square else 2, "hidden_size": 9, "output_size": 3, "num_layers": 2}
    if cell == "clockwork_rnn":
        sizes["hidden_size"] = 8  # a whole number of groups
    network = Network(NetworkConfig.model_validate({"cell": cell, **sizes, **fields}))
    return network.eval()
