"""The comparison of an artefact with the network it was made from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from export.errors import ForeignRowError, ParityError
from export.runner import FIRST_FREE_SLOT, INITIAL_SLOT, ArenaRunner, Array
from models.card import Parity
from models.network import Network
from models.threads import torch_threads

LENGTHS = (1, 2, 7, 50)
BATCHES = (1, 3, 33)
TOLERANCE = 1e-5

_SLOTS = FIRST_FREE_SLOT + 3 * max(BATCHES)


def verify(
    network: Network,
    model: bytes,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    on_comparison: Callable[[str], None] = lambda name: None,
) -> Parity:
    """Run torch and onnxruntime on the same random sequences and compare outputs and states.

    Each comparison covers all of LENGTHS × BATCHES. Its figure is the largest absolute difference over the largest
    absolute value of the same tensor. `on_comparison` is told each comparison's name as it begins.

    Raises:
        ParityError: A comparison is over the tolerance.
        ForeignRowError: A run changed a row it was not told to write; slot 0 is never one of those it may.
    """
    errors: dict[str, float] = {}
    with torch_threads(1):
        bench = _Bench(network, model, seed)
        for name, compare in comparisons_of(network).items():
            on_comparison(name)
            bench.begin(name)
            for length in LENGTHS:
                for batch in BATCHES:
                    compare(bench, length, batch)
            errors[name] = bench.check(tolerance)
    return Parity(tolerance=tolerance, errors=errors)


@dataclass(slots=True)
class _Figure:
    """Gather, for one tensor, how far apart the two are and how large the reference is."""

    difference: float = 0.0
    scale: float = 0.0

    def add(self, found: Array, expected: Array) -> None:
        with np.errstate(invalid="ignore"):
            gap = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        self.difference = max(self.difference, float(np.where(np.isnan(gap), np.inf, gap).max(initial=0.0)))
        self.scale = max(self.scale, float(np.abs(expected.astype(np.float64)).max(initial=0.0)))

    @property
    def error(self) -> float:
        """Return the difference over the scale; a tensor that is zero throughout has no scale and must match."""
        return 0.0 if self.difference == 0.0 else self.difference / max(self.scale, float(np.finfo(np.float32).tiny))


@dataclass(slots=True)
class _Sequences:
    """Hold random sequences and torch's answer to them: y (batch, time, out), states by name (batch, *shape)."""

    x: Array
    y: Array
    after: Mapping[str, Array]


@dataclass(slots=True)
class _Bench:
    """Hold both implementations, the random numbers, and the figures of the comparison under way."""

    network: Network
    model: bytes
    seed: int
    comparison: str = ""
    figures: dict[str, _Figure] = field(default_factory=dict)
    runner: ArenaRunner = field(init=False)
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.network.eval()
        self.runner = ArenaRunner(self.model, self.network.states, _SLOTS, self.seed)
        self.random = np.random.default_rng(self.seed)

    def begin(self, comparison: str) -> None:
        self.comparison = comparison
        self.figures = {}

    def check(self, tolerance: float) -> float:
        tensor, figure = max(self.figures.items(), key=lambda item: item[1].error)
        if not figure.error <= tolerance:
            raise ParityError(self.comparison, figure.error, tolerance, tensor)
        return figure.error

    def sequences(self, length: int, batch: int, state: Mapping[str, Array] | None = None) -> _Sequences:
        """Draw inputs in the raw units the model takes, and let torch answer them."""
        x = self.draw_inputs(length, batch)
        y, after = self.torch_run(x, state)
        return _Sequences(x, y, after)

    def draw_inputs(self, length: int, batch: int) -> Array:
        config = self.network.config
        if config.vocabulary is not None:
            return self.random.integers(0, config.vocabulary, (batch, length))
        x = self.random.standard_normal((batch, length, config.input_size))
        if config.input_scaler is not None:
            x = x * np.array(config.input_scaler.std) + np.array(config.input_scaler.mean)
        return x.astype(np.float32)

    def torch_run(self, x: Array, state: Mapping[str, Array] | None = None) -> tuple[Array, dict[str, Array]]:
        before = None if state is None else {name: torch.from_numpy(rows) for name, rows in state.items()}
        with torch.no_grad():
            y, after = self.network(torch.from_numpy(x), before)
        return y.numpy(), {name: rows.numpy() for name, rows in after.items()}

    def fresh_slots(self, batch: int, taken: Array) -> Array:
        """Return random slots that are neither reserved nor taken."""
        free = np.setdiff1d(np.arange(FIRST_FREE_SLOT, _SLOTS), taken)
        return self.random.permutation(free)[:batch].astype(np.int64)

    def initial_slots(self, batch: int) -> Array:
        return np.full(batch, INITIAL_SLOT, np.int64)

    def step(self, x: Array, read: Array, lengths: Array | None = None) -> tuple[Array, Array]:
        """Run one chunk from slots `read` into fresh ones; return y and the slots written."""
        batch, time = x.shape[:2]
        write = self.fresh_slots(batch, read)
        before = self.runner.snapshot()
        lengths = np.full(batch, time, np.int64) if lengths is None else lengths
        y, rows = self.runner.run(x, lengths, read, write)
        for name, arena in self.runner.arenas.items():
            changed = np.flatnonzero((arena != before[name]).reshape(_SLOTS, -1).any(1))
            if foreign := sorted(set(changed.tolist()) - set(write.tolist())):
                raise ForeignRowError(self.comparison, f"arena.{name}", foreign)
            # the arena holds what the run says it holds
            self.figure(f"arena.{name}").add(arena[write], rows[name])
        return y, write

    def figure(self, tensor: str) -> _Figure:
        return self.figures.setdefault(tensor, _Figure())

    def compare(self, sequences: _Sequences, y: Array, slots: Array) -> None:
        self.figure("y").add(y, sequences.y)
        for name, expected in sequences.after.items():
            self.figure(f"state.{name}").add(self.runner.arenas[name][slots], expected)

    def in_chunks(self, sequences: _Sequences, lengths: Iterator[int]) -> None:
        """Run the sequences in consecutive chunks of these lengths, carrying the state in the arena."""
        slots = self.initial_slots(len(sequences.x))
        outputs = []
        start = 0
        while start < sequences.x.shape[1]:
            stop = start + next(lengths)
            y, slots = self.step(sequences.x[:, start:stop], slots)
            outputs.append(y)
            start = stop
        self.compare(sequences, np.concatenate(outputs, axis=1), slots)


def _whole_sequence(bench: _Bench, length: int, batch: int) -> None:
    sequences = bench.sequences(length, batch)
    bench.compare(sequences, *bench.step(sequences.x, bench.initial_slots(batch)))


def _one_step_at_a_time(bench: _Bench, length: int, batch: int) -> None:
    bench.in_chunks(bench.sequences(length, batch), iter(lambda: 1, 0))


def _random_chunks(bench: _Bench, length: int, batch: int) -> None:
    bench.in_chunks(bench.sequences(length, batch), iter(lambda: int(bench.random.integers(1, 12)), 0))


def _initial_state(bench: _Bench, length: int, batch: int) -> None:
    """Start from random rows that stand in slots, as a restored or warm session does."""
    slots = bench.fresh_slots(batch, np.array([], np.int64))
    generator = torch.Generator().manual_seed(int(bench.random.integers(2**31)))
    state = {name: rows.numpy() for name, rows in bench.network.stack.random_state(batch, generator).items()}
    for name, rows in state.items():
        bench.runner.arenas[name][slots] = rows
    sequences = bench.sequences(length, batch, state)
    bench.compare(sequences, *bench.step(sequences.x, slots))


def _ragged_batch(bench: _Bench, length: int, batch: int) -> None:
    """Run strangers of different lengths in one batch, padded with noise, each against itself alone."""
    x = bench.draw_inputs(length, batch)
    lengths = bench.random.integers(1, length + 1, batch)
    y, slots = bench.step(x, bench.initial_slots(batch), lengths)
    for row, true_length in enumerate(lengths):
        alone = x[row : row + 1, :true_length]
        bench.compare(_Sequences(alone, *bench.torch_run(alone)), y[row : row + 1, :true_length], slots[row : row + 1])


_COMPARISONS: dict[str, Callable[[_Bench, int, int], None]] = {
    "whole_sequence": _whole_sequence,
    "one_step_at_a_time": _one_step_at_a_time,
    "random_chunks": _random_chunks,
    "ragged_batch": _ragged_batch,
    "initial_state": _initial_state,
}

_IN_PIECES = {"one_step_at_a_time", "random_chunks"}


def comparisons_of(network: Network) -> dict[str, Callable[[_Bench, int, int], None]]:
    """Return the comparisons that a network can be put to, by name; one that cannot stream is never cut in pieces."""
    return {name: run for name, run in _COMPARISONS.items() if network.streams or name not in _IN_PIECES}
