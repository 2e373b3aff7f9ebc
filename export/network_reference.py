"""A Network as the reference: random sequences in raw units, answered by torch."""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from export.figure import Array
from export.reference import Answer, ExactAnswer, Rows
from export.roundings import roundings_of
from models.network import Network
from models.stack import NamedState


class NetworkReference:
    """Answers sequences by the network itself, from the initial state, in float32 and in float64."""

    def __init__(self, network: Network, random: np.random.Generator) -> None:
        self._network, self._random = network.eval(), random
        self._exact = copy.deepcopy(network).double()
        self._rounded = roundings_of(self._exact)
        self._runs_in_float64 = True
        (self._input,), (self._output,) = network.inputs, network.outputs

    @property
    def units(self) -> Mapping[str, Array]:
        """Return the standard deviations of the output scaler."""
        scaler = self._network.config.output_scaler
        return {} if scaler is None else {self._output.name: np.array(scaler.std)}

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
        return self._run(self._network, torch.from_numpy(inputs[self._input.name]), None)

    def answer_exactly(self, inputs: Rows, states: Mapping[str, Array] | None = None) -> ExactAnswer | None:
        """Run copies of the network in float64, from these states or from the initial ones.

        None for a cell of the user's own that does not run in float64.
        """
        if not self._runs_in_float64:
            return None
        x = torch.from_numpy(inputs[self._input.name])
        before = self._network.initial_state(len(x)) if states is None else _tensors(states)
        before = {name: _double(rows) for name, rows in before.items()}
        try:
            exact, *rounded = (self._run(network, _double(x), before) for network in (self._exact, *self._rounded))
        except Exception:  # the user's code may raise anything
            self._runs_in_float64 = False
            return None
        return ExactAnswer(exact, tuple(rounded))

    def _run(self, network: Network, x: Tensor, states: NamedState | None) -> Answer:
        with torch.no_grad():
            y, after = network(x, states)
        return Answer({self._output.name: y.numpy()}, {name: rows.numpy() for name, rows in after.items()})


class BatchNetworkReference(NetworkReference):
    """Answers several sequences at once and from any state."""

    def answer(self, inputs: Rows, states: Mapping[str, Array] | None = None) -> Answer:
        """Run the network over sequences of one length, from these states or from the initial ones."""
        return self._run(
            self._network, torch.from_numpy(inputs[self._input.name]), None if states is None else _tensors(states)
        )

    def draw_states(self, batch: int, random: np.random.Generator) -> Rows:
        """Return random states of the network's cells."""
        generator = torch.Generator().manual_seed(int(random.integers(2**31)))
        return {name: rows.numpy() for name, rows in self._network.stack.random_state(batch, generator).items()}


def _tensors(states: Mapping[str, Array]) -> NamedState:
    return {name: torch.from_numpy(rows) for name, rows in states.items()}


def _double(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values
