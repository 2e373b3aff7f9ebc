"""The comparison of an artefact with whatever it was made from: an original file, or a torch module."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from export.errors import ForeignRowError, ParityError
from models.card import ModelCard, Parity

Array = npt.NDArray[Any]

INITIAL_SLOT = 0
FIRST_FREE_SLOT = 2
LENGTHS = (1, 2, 7, 24)
BATCHES = (2, 5, 33)
_TOGETHER = 6
"""Steps of sequences that run together."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """One sequence and its answer: name → (time, *shape), and state → (*shape) after it where that is known."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    after: dict[str, Array]


class Oracle(Protocol):
    """Answers sequences from the initial state, by other means than the served graph."""

    def sequence(self, length: int) -> Sequence:
        """Draw a random sequence of this length and answer it alone."""


def compare(
    oracle: Oracle,
    model: bytes,
    card: ModelCard,
    *,
    tolerance: float,
    seed: int = 0,
    on_comparison: Callable[[str], None] = lambda name: None,
) -> Parity:
    """Run the served graph on the oracle's sequences, alone and with strangers, and compare outputs and states.

    A figure is the largest absolute difference over the largest absolute value of the same tensor; tensors of
    integers and booleans must be equal.

    Raises:
        ParityError: A comparison is over the tolerance.
        ForeignRowError: A run changed a row that it was not told to write.
    """
    errors = {}
    bench = _Bench(oracle, Runner(model, card, seed), np.random.default_rng(seed))
    for name, run in _COMPARISONS.items():
        if card.max_batch == 1 and "strangers" in name:
            continue
        on_comparison(name)
        bench.figures = {}
        run(bench, card.max_batch)
        tensor, error = max(((key, figure.error) for key, figure in bench.figures.items()), key=lambda item: item[1])
        if not error <= tolerance:
            raise ParityError(name, error, tolerance, tensor)
        errors[name] = error
    return Parity(tolerance=tolerance, errors=errors)


@dataclass(slots=True)
class _Figure:
    """Gather, for one tensor, how far apart the two are and how large the reference is."""

    difference: float = 0.0
    scale: float = 0.0

    def add(self, found: Array, expected: Array) -> None:
        if found.dtype.kind != "f":
            self.difference = max(self.difference, 0.0 if np.array_equal(found, expected) else np.inf)
            return
        found, expected = found.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            gap = np.where(found == expected, 0.0, np.abs(found - expected))
        self.difference = max(self.difference, float(np.where(np.isnan(gap), np.inf, gap).max(initial=0.0)))
        self.scale = max(self.scale, float(np.abs(expected).max(initial=0.0)))

    @property
    def error(self) -> float:
        return 0.0 if self.difference == 0.0 else self.difference / max(self.scale, float(np.finfo(np.float32).tiny))


class Runner:
    """Runs a served graph over arenas of noise, as the service does; checks that no foreign row changes."""

    def __init__(self, model: bytes, card: ModelCard, seed: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.card, self._session = card, ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.slots = FIRST_FREE_SLOT + 2 * min(card.max_batch, max(BATCHES)) + 2
        noise = np.random.default_rng(seed)
        self.arenas = {}
        for spec in card.states:
            arena = (3 * noise.standard_normal((self.slots, *spec.shape))).astype(spec.dtype)
            arena[INITIAL_SLOT] = (
                np.reshape(spec.initial, spec.shape) if isinstance(spec.initial, tuple) else spec.initial
            )
            self.arenas[spec.name] = arena
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(arena) for name, arena in self.arenas.items()}

    def run(self, inputs: dict[str, Array], read: Array, write: Array) -> dict[str, Array]:
        """Advance rows `read` into rows `write`; inputs and outputs are name → (batch, time, *shape)."""
        binding = self._session.io_binding()
        feeds = inputs | {"read_slots": read, "write_slots": write}
        if self.card.ragged:
            batch, time = next(iter(inputs.values())).shape[:2]
            feeds["lengths"] = np.full(batch, time, np.int64)
        kept = {name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)) for name, value in feeds.items()}
        for name, value in kept.items():
            binding.bind_ortvalue_input(name, value)
        fetched = [*(spec.name for spec in self.card.outputs), *(f"state.{spec.name}" for spec in self.card.states)]
        for name in fetched:
            binding.bind_output(name, "cpu")
        for name, arena in self._values.items():
            binding.bind_ortvalue_input(f"arena.{name}", arena)
            binding.bind_ortvalue_output(f"arena_out.{name}", arena)
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return {name: value.numpy() for name, value in zip(fetched, values, strict=False)}


@dataclass(slots=True)
class _Bench:
    oracle: Oracle
    runner: Runner
    random: np.random.Generator
    figures: dict[str, _Figure] = field(default_factory=dict)

    def step(self, inputs: dict[str, Array], read: Array) -> tuple[dict[str, Array], Array]:
        """Run one chunk from slots `read` into fresh ones; return the outputs and the slots written."""
        runner = self.runner
        free = np.setdiff1d(np.arange(FIRST_FREE_SLOT, runner.slots), read)
        write = self.random.permutation(free)[: len(read)].astype(np.int64)
        before = {name: arena.copy() for name, arena in runner.arenas.items()}
        outputs = runner.run(inputs, read, write)
        for name, arena in runner.arenas.items():
            changed = np.flatnonzero((arena != before[name]).reshape(runner.slots, -1).any(1))
            if foreign := sorted(set(changed.tolist()) - set(write.tolist())):
                raise ForeignRowError("any", f"arena.{name}", foreign)
            self._figure(f"arena.{name}").add(arena[write], outputs[f"state.{name}"])
        return outputs, write

    def carry(self, sequences: list[Sequence], lengths: Iterator[int]) -> None:
        """Run sequences of one length in chunks, together and in an order that changes; compare each with itself."""
        rows: Array = np.arange(len(sequences))
        slots = np.full(len(sequences), INITIAL_SLOT, np.int64)
        start = 0
        total: int = next(iter(sequences[0].inputs.values())).shape[0]
        while start < total:
            stop = min(total, start + next(lengths))
            rows = self.random.permutation(rows)
            chunk = {
                name: np.stack([sequences[row].inputs[name][start:stop] for row in rows])
                for name in sequences[0].inputs
            }
            outputs, written = self.step(chunk, slots[rows])
            slots[rows] = written
            for place, row in enumerate(rows):
                for name, expected in sequences[row].outputs.items():
                    self._figure(name).add(outputs[name][place], expected[start:stop])
            start = stop
        for row, sequence in enumerate(sequences):
            for name, expected in sequence.after.items():
                self._figure(f"state.{name}").add(self.runner.arenas[name][slots[row]], expected)

    def _figure(self, tensor: str) -> _Figure:
        return self.figures.setdefault(tensor, _Figure())


def _one_step_at_a_time(bench: _Bench, max_batch: int) -> None:
    for length in LENGTHS:
        bench.carry([bench.oracle.sequence(length)], iter(lambda: 1, 0))


def _whole_sequence(bench: _Bench, max_batch: int) -> None:
    for length in LENGTHS:
        bench.carry([bench.oracle.sequence(length)], iter(lambda: max(LENGTHS), 0))


def _random_chunks(bench: _Bench, max_batch: int) -> None:
    for length in LENGTHS:
        bench.carry([bench.oracle.sequence(length)], iter(lambda: int(bench.random.integers(1, 9)), 0))


def _steps_with_strangers(bench: _Bench, max_batch: int) -> None:
    for batch in sorted({min(batch, max_batch) for batch in BATCHES}):
        bench.carry([bench.oracle.sequence(_TOGETHER) for _ in range(batch)], iter(lambda: 1, 0))


def _chunks_with_strangers(bench: _Bench, max_batch: int) -> None:
    for batch in sorted({min(batch, max_batch) for batch in BATCHES}):
        chunks = iter(lambda: int(bench.random.integers(1, 4)), 0)
        bench.carry([bench.oracle.sequence(_TOGETHER) for _ in range(batch)], chunks)


_COMPARISONS: dict[str, Callable[[_Bench, int], None]] = {
    "one_step_at_a_time": _one_step_at_a_time,
    "whole_sequence": _whole_sequence,
    "random_chunks": _random_chunks,
    "steps_with_strangers": _steps_with_strangers,
    "chunks_with_strangers": _chunks_with_strangers,
}
