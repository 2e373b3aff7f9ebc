"""A Network as the reference: random sequences in raw units, answered by torch."""

from collections.abc import Mapping

import numpy as np
import torch

from export.figure import Array
from export.reference import Answer, Rows
from models.network import Network
from models.stack import NamedState


class NetworkReference:
    """Answers sequences by the network itself, from the initial state."""

    def __init__(self, network: Network, random: np.random.Generator) -> None:
        self._network, self._random = network.eval(), random
        (self._input,), (self._output,) = network.inputs, network.outputs

    def draw(self, length: int) -> Rows:
        """Return one sequence of normal numbers in raw units, or of token ids."""
        config = self._network.config
        if config.vocabulary is not None:
            return {self._input.name: self._random.integers(0, config.vocabulary, (1, length))}
        x = self._random.standard_normal((1, length, config.input_size))
        if config.input_scaler is not None:
            x = x * np.array(config.input_scaler.std) + np.array(config.input_scaler.mean)
        return {self._input.name: x.astype(np.float32)}

    def answer(self, inputs: Rows) -> Answer:
        """Run the network over sequences of one length."""
        return self._run(inputs, None)

    def _run(self, inputs: Rows, states: NamedState | None) -> Answer:
        with torch.no_grad():
            y, after = self._network(torch.from_numpy(inputs[self._input.name]), states)
        return Answer({self._output.name: y.numpy()}, {name: rows.numpy() for name, rows in after.items()})


class BatchNetworkReference(NetworkReference):
    """Answers several sequences at once and from any state."""

    def answer(self, inputs: Rows, states: Mapping[str, Array] | None = None) -> Answer:
        """Run the network over sequences of one length, from these states or from the initial ones."""
        before = None if states is None else {name: torch.from_numpy(rows) for name, rows in states.items()}
        return self._run(inputs, before)

    def draw_states(self, batch: int, random: np.random.Generator) -> Rows:
        """Return random states of the network's cells."""
        generator = torch.Generator().manual_seed(int(random.integers(2**31)))
        return {name: rows.numpy() for name, rows in self._network.stack.random_state(batch, generator).items()}
