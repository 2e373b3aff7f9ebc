"""The comparison of a served graph with what it was made from: a network, a torch module or somebody else's file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from export.arena_runner import FIRST_FREE_SLOT, INITIAL_SLOT, ArenaRunner
from export.cards import network_card
from export.comparisons import Comparison, comparisons_of
from export.errors import CoarseFloat32Error, ForeignRowError, GraphFailedError, ParityError
from export.figure import LEAST_SPREAD, Array, Figure, Verdict
from export.network_reference import BatchNetworkReference
from export.reference import Answer, BatchReference, ExactReference, Reference, Rows, stack
from models.card import ModelCard, Parity
from models.network import Network
from models.threads import torch_threads

TOLERANCE = 1e-5
MOST_IN_FLOAT32 = 1000.0
"""The largest error of float32 itself over a run, in tolerances, with which a comparison still says something."""
MOST_AT_FIRST = 100.0
"""The same at the first step, where rounding has had no time to grow: more than that is an offset of the outputs."""


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

    A comparison's figure is that of its worst tensor: its largest difference over the spread of its values, where both
    are finite. Where the reference can compute in float64, that is what both are compared with, and the graph may be
    off by the tolerance and a few times what the reference's own float32 run is off. `on_comparison` is told each
    comparison's name as it begins. `random` draws slots, lengths and the rows' positions.

    Raises:
        ParityError: A comparison is over the tolerance, or not finite.
        CoarseFloat32Error: The reference's own float32 run is so far from its float64 run that none would be.
        ForeignRowError: A run changed a row it was not told to write; slot 0 is never one of those it may.
    """
    comparisons = comparisons_of(reference, card)
    largest = max(batch for comparison in comparisons.values() for batch in comparison.batches)
    # rows to read, rows to write, and some that are neither
    spare = largest if isinstance(reference, BatchReference) else 2
    runner = ArenaRunner(model, card, FIRST_FREE_SLOT + 2 * largest + spare)
    random = np.random.default_rng(0) if random is None else random
    errors, float32, steps = {}, 0.0, 0
    for name, comparison in comparisons.items():
        on_comparison(name)
        run = _Run(name, comparison, reference, runner, random, frozenset(spec.name for spec in card.outputs))
        verdict, compared = run.compare_all(tolerance)
        errors[name], float32, steps = verdict.error, max(float32, verdict.float32), max(steps, compared)
    return Parity(tolerance=tolerance, steps=steps, float32=float32, errors=errors)


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
    outputs: frozenset[str]
    figures: dict[str, Figure] = field(default_factory=dict)

    def compare_all(self, tolerance: float) -> tuple[Verdict, int]:
        """Run all sequences; return the verdict on the tensor that is furthest off and the most steps compared.

        Raises:
            ParityError: See `check`.
            CoarseFloat32Error: See `check`; of the comparison's long sequence, it only means that none is compared.
        """
        for length in self.comparison.lengths:
            for batch in self.comparison.batches:
                self.compare(length, batch)
        verdict, most = self.check(tolerance), max(self.comparison.lengths)
        if self.comparison.long <= most:
            return verdict, most
        for batch in self.comparison.batches:
            self.compare(self.comparison.long, batch)
        try:
            return self.check(tolerance), self.comparison.long
        except CoarseFloat32Error:
            return verdict, most

    def compare(self, length: int, batch: int) -> None:
        """Draw a batch of sequences, run them through the graph, and compare them with the reference's answers."""
        slots = np.full(batch, INITIAL_SLOT, np.int64)
        states = None
        if self.comparison.from_states:
            slots, states = self._fill_slots(batch)
        inputs = stack([self.reference.draw(length) for _ in range(batch)])
        lengths = self.random.integers(1, length + 1, batch) if self.comparison.ragged else None
        outputs, slots = self._run(inputs, slots, lengths)
        for rows, steps, answer, exact in self._answers(inputs, states, lengths):
            for name, expected in answer.outputs.items():
                in_float64 = [one.outputs[name] for one in exact]
                self._figure(name).add(outputs[name][rows, :steps], expected, *in_float64)
            for name, expected in answer.states.items():
                in_float64 = [one.states[name] for one in exact]
                self._add_rows(f"state.{name}", self.runner.arenas[name][slots[rows]], expected, in_float64, steps)

    def check(self, tolerance: float) -> Verdict:
        """Return the verdict on the tensor that is furthest off.

        Raises:
            ParityError: A tensor is further off than is allowed.
            CoarseFloat32Error: The original's own run in float32 is, so that the comparison would say nothing.
        """
        verdicts = {name: figure.judge(tolerance) for name, figure in self.figures.items()}
        if not all(verdict.passes for verdict in verdicts.values()):
            tensor = max(verdicts, key=lambda name: (not verdicts[name].passes, verdicts[name].error))
            verdict = verdicts[tensor]
            raise ParityError(self.name, verdict.error, verdict.allowed, tensor, verdict.step)
        for tensor, verdict in verdicts.items():
            for error, most in ((verdict.float32_at_first, MOST_AT_FIRST), (verdict.float32, MOST_IN_FLOAT32)):
                most_allowed = most * max(tolerance, TOLERANCE)
                if error > most_allowed:
                    raise CoarseFloat32Error(self.name, tensor, error, most_allowed)
        return max(verdicts.values(), key=lambda verdict: verdict.error)

    def _answers(
        self, inputs: Rows, states: Rows | None, lengths: Array | None
    ) -> Iterator[tuple[slice, int, Answer, list[Answer]]]:
        """Yield which rows and how many steps an answer is for, the answer, and those in float64."""
        batch, length = next(iter(inputs.values())).shape[:2]
        if isinstance(self.reference, BatchReference) and lengths is None:
            yield slice(0, batch), length, self.reference.answer(inputs, states), self._exact_answers(inputs, states)
            return
        for row in range(batch):
            steps = length if lengths is None else int(lengths[row])
            alone = {name: values[row : row + 1, :steps] for name, values in inputs.items()}
            yield slice(row, row + 1), steps, self.reference.answer(alone), self._exact_answers(alone, None)

    def _exact_answers(self, inputs: Rows, states: Rows | None) -> list[Answer]:
        reference = self.reference
        exact = reference.answer_exactly(inputs, states) if isinstance(reference, ExactReference) else None
        return [] if exact is None else [exact.answer, *exact.rounded]

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
                if len(values) != batch:
                    raise GraphFailedError(f"the output {name!r} has {len(values)} rows for a batch of {batch}")
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
            self._add_rows(f"arena.{name}", arena[write], outputs.pop(f"state.{name}"), [], 1)
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

    def _add_rows(self, name: str, found: Array, expected: Array, exact: list[Array], steps: int) -> None:
        """Compare rows of a state (batch, *shape) after so many steps."""
        in_float64 = [one[:, None] for one in exact]
        self._figure(name).add(found[:, None], expected[:, None], *in_float64, first_step=steps - 1)

    def _figure(self, tensor: str) -> Figure:
        if tensor not in self.figures:
            units = self.reference.units if isinstance(self.reference, ExactReference) else {}
            # a state is seen after a few steps only: the spread of one of its values is that of the widest
            is_output = tensor in self.outputs
            self.figures[tensor] = Figure(units.get(tensor, 1.0), LEAST_SPREAD if is_output else 1.0)
        return self.figures[tensor]


def _bytes(arena: Array) -> Array:
    """Return an arena's bytes, (slots, bytes): NaN is equal to itself."""
    return arena.reshape(len(arena), -1).view(np.uint8)
