"""The last steps of every export: check that no arena is copied, compare, lower the precision, write, rename."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from onnx import ModelProto

from export.arena_runner import FIRST_FREE_SLOT, INITIAL_SLOT, ArenaRunner
from export.artefact import save_artefact
from export.destination import Destination
from export.options import Callback, ExportOptions
from export.precision import Precision, lower_precision
from export.reference import Reference
from export.structure import check_arenas_stay
from export.verify import compare
from models.card import ModelCard

_TIMED_STEPS = 200


@dataclass(frozen=True, slots=True)
class Candidate:
    """A served graph that may become an artefact, its card, and the reference that it is compared with.

    The card has no figures until the graph is verified. `random` draws the slots, lengths and positions of the
    comparison.
    """

    graph: ModelProto
    card: ModelCard
    reference: Reference
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def is_verified(self) -> bool:
        """Return whether the card has the figures of this graph."""
        return bool(self.card.parity.errors)

    def with_findings(self, findings: Sequence[str]) -> "Candidate":
        """Return the candidate with more sentences among its card's findings."""
        config = self.card.config | {"findings": [*self.card.config.get("findings", ()), *findings]}
        return replace(self, card=self.card.model_copy(update={"config": config}))

    def verified(self, tolerance: float, on_progress: Callback) -> "Candidate":
        """Return the candidate with its figures on its card.

        Raises:
            ArenaCopiedError: The graph would copy an arena.
            ParityError: It differs from the reference by more than the tolerance.
            ForeignRowError: It writes a row that it was not told to write.
        """
        model = self.graph.SerializeToString(deterministic=True)
        on_progress("checking that no arena is copied")
        check_arenas_stay(model, (spec.name for spec in self.card.states))
        parity = compare(
            self.reference,
            model,
            self.card,
            tolerance=tolerance,
            random=self.random,
            on_comparison=lambda name: on_progress(f"comparing: {name}"),
        )
        return replace(self, card=self.card.model_copy(update={"parity": parity}))


def write_artefact(
    destination: Destination,
    candidate: Candidate,
    options: ExportOptions,
    *,
    last_check: Callable[[], None] = lambda: None,
) -> Path:
    """Verify a candidate, write it, and return the file; or write nothing. See `checked`.

    Raises:
        ExportError: See `checked`.
        DestinationExistsError: Another export has written this version in the meantime.
    """
    candidate = checked(candidate, options, last_check=last_check)
    return write_checked(destination, candidate.graph, candidate.card, options)


def write_checked(destination: Destination, graph: ModelProto, card: ModelCard, options: ExportOptions) -> Path:
    """Write a graph that was verified, and its card, and return the file; every export ends here.

    Raises:
        DestinationExistsError: Another export has written this version in the meantime.
    """
    options.on_progress("writing")
    return save_artefact(destination.folder, graph, card, force=options.force)


def checked(
    candidate: Candidate, options: ExportOptions, *, last_check: Callable[[], None] = lambda: None
) -> Candidate:
    """Return a candidate in the precision that is asked for, verified.

    A candidate that is verified already is not verified again in float32. `last_check` may raise what else keeps the
    artefact from being written.

    Raises:
        PrecisionError: The graph cannot be held in the precision, or it would save nothing.
        ExportError: See `Candidate.verified`, and `last_check`.
    """
    if options.precision is not Precision.FLOAT32:
        graph, card = lower_precision(candidate.graph, candidate.card, options.precision)
        lowered = replace(candidate, graph=graph, card=card).verified(options.allowed, options.on_progress)
        options.on_finding(_saving(candidate, lowered, options.precision))
        candidate = lowered
    elif not candidate.is_verified:
        candidate = candidate.verified(options.allowed, options.on_progress)
    last_check()
    return candidate


def _saving(before: Candidate, after: Candidate, precision: Precision) -> str:
    """Return a sentence on what a lower precision saves and costs."""
    seconds = [_step_seconds(one) for one in (before, after)]
    limit = "; one row at a time: another's values would change its scale" if precision is Precision.INT8 else ""
    return (
        f"{precision.value}: {before.graph.ByteSize():,} → {after.graph.ByteSize():,} bytes, a row of states "
        f"{before.card.state_bytes:,} → {after.card.state_bytes:,}; a step of one row takes {1e6 * seconds[0]:.1f} → "
        f"{1e6 * seconds[1]:.1f} µs on this CPU; largest error over "
        f"{after.card.parity.steps} steps {max(after.card.parity.errors.values()):.1e} of the spread of a value{limit}"
    )


def _step_seconds(candidate: Candidate) -> float:
    """Return the median seconds of one step of one row, inputs of zeros."""
    runner = ArenaRunner(candidate.graph.SerializeToString(), candidate.card, slots=FIRST_FREE_SLOT + 1)
    inputs = {spec.name: np.zeros((1, 1, *spec.shape), spec.dtype) for spec in candidate.card.inputs}
    read, write = np.array([INITIAL_SLOT]), np.array([FIRST_FREE_SLOT])
    times = []
    for _ in range(_TIMED_STEPS):
        start = perf_counter()
        runner.run(inputs, read, write)
        times.append(perf_counter() - start)
    return median(times)
