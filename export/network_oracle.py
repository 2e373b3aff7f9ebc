"""The answers of a Network to whole sequences, in torch."""

import numpy as np
import torch

from export.comparison import Sequence
from models.network import Network


class NetworkOracle:
    """Answers random sequences in raw units by the network itself."""

    def __init__(self, network: Network, seed: int = 0) -> None:
        self._network, self._random = network.eval(), np.random.default_rng(seed)

    def sequence(self, length: int) -> Sequence:
        """Draw one sequence and run it from the initial state."""
        config = self._network.config
        if config.vocabulary is not None:
            x = self._random.integers(0, config.vocabulary, (1, length))
        else:
            drawn = self._random.standard_normal((1, length, config.input_size))
            if config.input_scaler is not None:
                drawn = drawn * np.array(config.input_scaler.std) + np.array(config.input_scaler.mean)
            x = drawn.astype(np.float32)
        with torch.no_grad():
            y, after = self._network(torch.from_numpy(x))
        (sent,), (given,) = self._network.inputs, self._network.outputs
        return Sequence(
            {sent.name: x[0]}, {given.name: y[0].numpy()}, {name: rows[0].numpy() for name, rows in after.items()}
        )
