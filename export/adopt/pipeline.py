"""Adoption from a file to an artefact on disk: read, plan, build the served graph, verify, write."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

from onnx import ModelProto

from export.adopt.apart import run_apart
from export.adopt.errors import UnsettledStatesError, WholeSequenceError
from export.adopt.fixed_time import open_fixed_time
from export.adopt.foreign_file import read_foreign
from export.adopt.free_batch import open_batch
from export.adopt.graph import build_served_graph
from export.adopt.lift import Lifted, lift_states
from export.adopt.options import AdoptOptions
from export.adopt.planning import Planned, make_plan
from export.adopt.prepare import prepare
from export.adopt.quantised import measure_quantisation, quantised_operators
from export.adopt.reference import OriginalReference
from export.adopt.whole_sequence import check_whole_sequence
from export.adopt.windows import warn_of_windows
from export.candidate import Candidate, checked, write_checked
from export.cards import UNVERIFIED, installed
from export.destination import Destination
from export.errors import ParityError
from export.options import ExportOptions
from export.verify import TOLERANCE
from models.card import ModelCard

HALF_TOLERANCE = 5e-3
"""For models that compute in float16: a row is rounded differently beside other rows."""

_DEFAULTS, _ADOPT_DEFAULTS = ExportOptions(), AdoptOptions()


def adopt_model(
    file: Path,
    root: Path,
    name: str,
    version: int,
    options: ExportOptions = _DEFAULTS,
    *,
    adopt_options: AdoptOptions = _ADOPT_DEFAULTS,
) -> Path:
    """Write `root/name/version/model.onnx` for a foreign file and return its path; or write nothing.

    Raises:
        ExportError: No artefact was written; see `export.adopt.errors` and `export.errors`.
    """
    destination = Destination(root, name, version)
    destination.check(force=options.force)
    try:
        graph, card = run_apart(partial(_graph_and_card, file, destination, adopt_options), options)
    except UnsettledStatesError as exc:
        raise exc.of(file, destination.folder) from None
    return write_checked(destination, ModelProto.FromString(graph), card, options)


def explain_model(
    file: Path, options: ExportOptions = _DEFAULTS, *, adopt_options: AdoptOptions = _ADOPT_DEFAULTS
) -> ModelCard:
    """Return the card that a foreign file would get, its figures included, and write nothing.

    Raises:
        ExportError: It would not be adopted; what was found until then was told.
    """
    nowhere = Destination(Path(), "model", 1)
    try:
        return run_apart(partial(_graph_and_card, file, nowhere, adopt_options), options)[1]
    except UnsettledStatesError as exc:
        raise exc.of(file, None) from None


def _graph_and_card(
    file: Path, destination: Destination, adopt_options: AdoptOptions, options: ExportOptions
) -> tuple[bytes, ModelCard]:
    candidate = adopt_in_memory(read_foreign(file), destination, options, adopt_options)
    return candidate.graph.SerializeToString(), candidate.card


def adopt_in_memory(
    source: ModelProto, destination: Destination, options: ExportOptions, adopt_options: AdoptOptions
) -> Candidate:
    """Return the served graph of a foreign model and its card, verified against the original; write nothing.

    Raises:
        ExportError: It cannot be adopted; see `export.adopt.errors` and `export.errors`.
    """
    prepared = prepare(source, adopt_options)
    options.on_progress("looking for states that the file does not show")
    model, known, opened = open_fixed_time(prepared.model, prepared.options)
    lifted = lift_states(model, known)
    planned = make_plan(lifted.model, lifted.options, options.on_progress)
    if lifted.contradicted(planned):
        lifted = Lifted(model, known)
        planned = make_plan(lifted.model, lifted.options, options.on_progress)
    lifted, planned = open_batch(lifted, planned, options.on_progress)
    planned = lifted.explained(planned)
    warnings = warn_of_windows(lifted.model, lifted.options)
    planned = replace(planned, findings=(*prepared.findings, *opened, *warnings, *planned.findings))
    for finding in planned.findings:
        options.on_finding(finding)
    plan = planned.plan
    dtypes = {spec.dtype for spec in plan.state_specs} | {spec.dtype for spec in plan.output_specs}
    if options.tolerance is None and "float16" in dtypes:
        options = replace(options, tolerance=HALF_TOLERANCE)
    options.on_progress("building the served graph")
    candidate = Candidate(
        build_served_graph(lifted.model, plan), _card(source, planned, destination, options), OriginalReference(planned)
    )
    later: list[str] = []

    def check_whole_run() -> None:
        options.on_progress("comparing: the original's own run over whole sequences")
        # in float32: what a lower precision costs is in the figures of the comparisons
        tolerance = TOLERANCE if options.tolerance is None else options.tolerance
        try:
            check_whole_sequence(
                planned,
                candidate.graph.SerializeToString(),
                candidate.card,
                tolerance,
                file=model,
                batch_axes=prepared.options.batch_axes,
                added=lifted.states,
                time=lifted.time,
            )
        except WholeSequenceError as exc:
            if adopt_options.frame_by_frame:
                later.append(f"served frame by frame, as --frame-by-frame says: {exc}")
            elif finding := measure_quantisation(planned, candidate, tolerance):
                later.append(finding)
            else:
                raise

    def tell(finding: str) -> str:
        options.on_finding(finding)
        return finding

    with lifted.reasons(planned):
        try:
            found = checked(candidate, options, last_check=check_whole_run)
        except ParityError as exc:
            if "strangers" not in exc.comparison or candidate.card.max_batch == 1:
                raise
            why = tell(f"rows cannot be run together, so max_batch is 1: {exc}")
            card = candidate.card.model_copy(update={"max_batch": 1})
            found = checked(replace(candidate, card=card).with_findings([why]), options, last_check=check_whole_run)
    return found.with_findings([tell(finding) for finding in later]) if later else found


def _card(model: ModelProto, planned: Planned, destination: Destination, options: ExportOptions) -> ModelCard:
    """Return the card of a model, without figures."""
    plan = planned.plan
    quantised = quantised_operators(model)
    return ModelCard(
        name=destination.name,
        version=destination.version,
        description=options.description,
        cell="adopted",
        config={
            "source_sha256": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "findings": list(planned.findings),
            **({"quantised": quantised} if quantised else {}),
        },
        inputs=plan.input_specs,
        outputs=plan.output_specs,
        states=plan.state_specs,
        max_batch=options.max_batch if plan.batched else 1,
        ragged=False,
        weights_sha256=_weights_sha256(model),
        parity=UNVERIFIED,
        created_by=installed("onnx", "onnxruntime"),
    )


def _weights_sha256(model: ModelProto) -> str:
    """Return the SHA-256 over the names, types and bytes of the model's weights, sorted by name."""
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()
