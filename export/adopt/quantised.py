"""Quantised models: which nodes make one, and whether its whole run differs from its steps by quantisation alone."""

from dataclasses import replace

import numpy as np
from onnx import ModelProto

from export.adopt.errors import AdoptError, WholeSequenceError
from export.adopt.float_twin import float_twin
from export.adopt.foreign_model import ForeignModel
from export.adopt.graph import build_served_graph
from export.adopt.planning import Planned
from export.adopt.whole_sequence import LENGTHS, Axes, add_difference, compare_whole_runs, run_served, run_whole
from export.arena_runner import FIRST_FREE_SLOT, ArenaRunner
from export.candidate import Candidate
from export.figure import Figure
from export.graphs import all_graphs
from models.card import ModelCard

_DRAWS = 2.0
"""The most by which the two, which are measured on different random sequences, may differ by chance."""
_MOST = 0.2
"""The most that quantisation may change, of the spread of a tensor: more of it could hide anything."""


def quantised_operators(model: ModelProto) -> list[str]:
    """Return the operators of a model that quantise, or compute with integers in the place of real numbers."""
    graphs = [*all_graphs(model.graph), *model.functions]
    found = {node.op_type for graph in graphs for node in graph.node}
    return sorted(name for name in found if "Quant" in name or "QLinear" in name or "Integer" in name)


def measure_quantisation(planned: Planned, candidate: Candidate, tolerance: float) -> str:
    """Return a sentence that says how far a quantised model's whole run is from its steps, and that this is all.

    Empty where something else differs: where the float twin's whole run is not its steps within the tolerance, or the
    model's differs by far more than quantisation changes in the whole run and in the steps, each against the twin.
    """
    twin = float_twin(planned.original.foreign.model)
    if twin is None:
        return ""
    plain = replace(planned, original=replace(planned.original, foreign=ForeignModel(twin)))
    served, card = candidate.graph.SerializeToString(), candidate.card
    batch_axes = planned.original.options.batch_axes
    try:
        served_twin = build_served_graph(twin, planned.plan).SerializeToString()
        without = 0.0
        for _, figures in compare_whole_runs(plain, served_twin, card, batch_axes):
            verdicts = [figure.judge(tolerance) for figure in figures.values()]
            if not verdicts or not all(verdict.passes for verdict in verdicts):
                return ""
            without = max(without, *(verdict.error for verdict in verdicts))
        measured = difference = 0.0
        for axes, figures in compare_whole_runs(planned, served, card, batch_axes):
            by_quantising = _of_quantisation(planned, plain, (served, served_twin), card, axes)
            for name, figure in figures.items():
                if not figure.error <= _DRAWS * by_quantising[name] + tolerance or by_quantising[name] > _MOST:
                    return ""
                measured, difference = max(measured, by_quantising[name]), max(difference, figure.error)
    except (AdoptError, WholeSequenceError):
        return ""
    return (
        f"the scales of quantisation are those of what is run together, so the run over a whole sequence differs from "
        f"its steps, by {difference:.2g} of the spread of the values; with the same weights and no quantisation they "
        f"differ by {without:.2g}, and quantisation itself changes {measured:.2g}"
    )


def _of_quantisation(
    planned: Planned, plain: Planned, graphs: tuple[bytes, bytes], card: ModelCard, axes: Axes
) -> dict[str, float]:
    """Return how much quantisation changes each tensor, in a whole run and in steps together, of its spread."""
    runners = [ArenaRunner(graph, card, slots=FIRST_FREE_SLOT + 2) for graph in graphs]
    at_once: dict[str, Figure] = {}
    in_steps: dict[str, Figure] = {}
    for length in LENGTHS:
        runs = [
            run_whole(replace(one, original=replace(one.original, random=np.random.default_rng(length))), axes, length)
            for one in (planned, plain)
        ]
        quantised, expected = runs
        if quantised is None or expected is None:
            continue
        steps = [run_served(runner, expected, length, lambda: 1) for runner in runners]
        add_difference(at_once, quantised.answer.outputs | quantised.answer.states, expected.answer)
        add_difference(
            in_steps,
            steps[0],
            replace(
                expected.answer,
                outputs=_only(steps[1], expected.answer.outputs),
                states=_only(steps[1], expected.answer.states),
            ),
        )
    return {name: at_once[name].error + in_steps[name].error for name in at_once}


def _only(values: dict[str, np.ndarray], names: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[name] for name in names}
