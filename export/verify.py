"""The comparison of a served graph with what it was made from: a network, a torch module or somebody else's file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from export.arena_runner import FIRST_FREE_SLOT, INITIAL_SLOT, ArenaRunner
from export.cards import network_card
from export.comparisons import Comparison, comparisons_of
from export.errors import ForeignRowError, ParityError
from export.figure import Array, Figure
from export.network_reference import BatchNetworkReference
from export.reference import Answer, BatchReference, Reference, Rows, stack
from models.card import ModelCard, Parity
from models.network import Network
from models.threads import torch_threads

TOLERANCE = 1e-5


def compare(
    reference: Reference,
    model: bytes,
    card: ModelCard,
    *,
    tolerance: float,
    random: np.random.Generator | None = None,
    on_comparison: Callable[[str], None] = lambda name: None,
) -> Parity:
    """Run the served graph on the reference's random sequences and compare outputs and states.

    A comparison's figure is that of its worst tensor: the largest absolute difference over the largest absolute value,
    where both are finite. `on_comparison` is told each comparison's name as it begins. `random` draws slots, lengths
    and the rows' positions.

    Raises:
        ParityError: A comparison is over the tolerance, or not finite.
        ForeignRowError: A run changed a row it was not told to write; slot 0 is never one of those it may.
    """
    comparisons = comparisons_of(reference, card)
    largest = max(batch for comparison in comparisons.values() for batch in comparison.batches)
    # rows to read, rows to write, and some that are neither
    spare = largest if isinstance(reference, BatchReference) else 2
    runner = ArenaRunner(model, card, FIRST_FREE_SLOT + 2 * largest + spare)
    random = np.random.default_rng(0) if random is None else random
    errors = {}
    for name, comparison in comparisons.items():
        on_comparison(name)
        run = _Run(name, comparison, reference, runner, random)
        for length in comparison.lengths:
            for batch in comparison.batches:
                run.compare(length, batch)
        errors[name] = run.check(tolerance)
    return Parity(tolerance=tolerance, errors=errors)


def verify(
    network: Network,
    model: bytes,
    *,
    tolerance: float = TOLERANCE,
    on_comparison: Callable[[str], None] = lambda name: None,
) -> Parity:
    """Compare a network's served graph with torch.

    Raises:
        ParityError: See `compare`.
        ForeignRowError: See `compare`.
    """
    random = np.random.default_rng(0)
    reference, card = BatchNetworkReference(network, random), network_card(network, "network", 1)
    with torch_threads(1):
        return compare(reference, model, card, tolerance=tolerance, random=random, on_comparison=on_comparison)


@dataclass(slots=True)
class _Run:
    """One comparison under way; `figures` collects the differences of each tensor."""

    name: str
    comparison: Comparison
    reference: Reference
    runner: ArenaRunner
    random: np.random.Generator
    figures: dict[str, Figure] = field(default_factory=dict)

    def compare(self, length: int, batch: int) -> None:
        """Draw a batch of sequences, run them through the graph, and compare them with the reference's answers."""
        slots = np.full(batch, INITIAL_SLOT, np.int64)
        states = None
        if self.comparison.from_states:
            slots, states = self._fill_slots(batch)
        inputs = stack([self.reference.draw(length) for _ in range(batch)])
        lengths = self.random.integers(1, length + 1, batch) if self.comparison.ragged else None
        outputs, slots = self._run(inputs, slots, lengths)
        for rows, steps, answer in self._answers(inputs, states, lengths):
            for name, expected in answer.outputs.items():
                self._figure(name).add(outputs[name][rows, :steps], expected)
            for name, expected in answer.states.items():
                self._figure(f"state.{name}").add(self.runner.arenas[name][slots[rows]], expected)

    def check(self, tolerance: float) -> float:
        """Return the figure of the worst tensor.

        Raises:
            ParityError: It is over the tolerance.
        """
        tensor, figure = max(self.figures.items(), key=lambda item: item[1].error)
        if not figure.error <= tolerance:
            raise ParityError(self.name, figure.error, tolerance, tensor)
        return figure.error

    def _answers(self, inputs: Rows, states: Rows | None, lengths: Array | None) -> Iterator[tuple[slice, int, Answer]]:
        """Yield which rows and how many steps an answer is for, and the answer."""
        batch, length = next(iter(inputs.values())).shape[:2]
        if isinstance(self.reference, BatchReference) and lengths is None:
            yield slice(0, batch), length, self.reference.answer(inputs, states)
            return
        for row in range(batch):
            steps = length if lengths is None else int(lengths[row])
            alone = {name: values[row : row + 1, :steps] for name, values in inputs.items()}
            yield slice(row, row + 1), steps, self.reference.answer(alone)

    def _run(self, inputs: Rows, slots: Array, lengths: Array | None) -> tuple[Rows, Array]:
        """Run sequences in chunks from `slots`; return all outputs and the slots of the states after them."""
        batch, total = next(iter(inputs.values())).shape[:2]
        rows, slots = np.arange(batch), slots.copy()
        parts: dict[str, list[Array]] = {}
        start = 0
        while start < total:
            stop = start + self.comparison.chunk_length(self.random)
            if self.comparison.shuffled:
                rows = self.random.permutation(rows)
            chunk = {name: values[rows, start:stop] for name, values in inputs.items()}
            outputs, slots[rows] = self._step(chunk, slots[rows], lengths)
            for name, values in outputs.items():
                parts.setdefault(name, []).append(values[np.argsort(rows)])
            start = stop
        return {name: np.concatenate(values, axis=1) for name, values in parts.items()}, slots

    def _step(self, inputs: Rows, read: Array, lengths: Array | None) -> tuple[Rows, Array]:
        """Run one chunk from slots `read` into fresh ones; return the outputs and the slots written."""
        runner = self.runner
        write = self._fresh_slots(len(read), read)
        before = runner.snapshot()
        outputs = runner.run(inputs, read, write, lengths)
        for name, arena in runner.arenas.items():
            changed = np.flatnonzero((_bytes(arena) != _bytes(before[name])).any(1))
            if foreign := sorted(set(changed.tolist()) - set(write.tolist())):
                raise ForeignRowError(self.name, f"arena.{name}", foreign)
            # the arena must hold what the run returns
            self._figure(f"arena.{name}").add(arena[write], outputs.pop(f"state.{name}"))
        return outputs, write

    def _fresh_slots(self, batch: int, taken: Array) -> Array:
        """Return random slots that are neither reserved nor taken."""
        free = np.setdiff1d(np.arange(FIRST_FREE_SLOT, self.runner.slots), taken)
        return self.random.permutation(free)[:batch].astype(np.int64)

    def _fill_slots(self, batch: int) -> tuple[Array, Rows]:
        """Write random states to random slots; return both."""
        assert isinstance(self.reference, BatchReference)
        slots = self._fresh_slots(batch, np.array([], np.int64))
        states = self.reference.draw_states(batch, self.random)
        for name, rows in states.items():
            self.runner.arenas[name][slots] = rows
        return slots, states

    def _figure(self, tensor: str) -> Figure:
        return self.figures.setdefault(tensor, Figure())


def _bytes(arena: Array) -> Array:
    """Return an arena's bytes, (slots, bytes): NaN is equal to itself."""
    return arena.reshape(len(arena), -1).view(np.uint8)
