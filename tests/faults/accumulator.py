"""A model whose state is the sum of its inputs: a step that is lost or taken twice changes every later output."""

from pathlib import Path

import torch

from export import export_network
from models.network import Network, NetworkConfig

NAME = "accumulator"
EXACT = 1 << 24
"""Sums of positive integers below this number are exact in float32."""


def accumulator() -> Network:
    """Return a network with y = state = relu(state + x)."""
    network = Network(NetworkConfig(cell="rnn_relu", input_size=1, hidden_size=1, output_size=1))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.0 if name.endswith(("bias", ".b")) else 1.0)
    return network.eval()


def export_accumulator(folder: Path) -> Path:
    """Write the accumulator as an artefact under `folder`, and return the folder."""
    export_network(accumulator(), folder, NAME, 1)
    return folder
