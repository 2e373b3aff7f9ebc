"""Adoption from a file to an artefact on disk: read, look through, build, prove, verify, write."""

import hashlib
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Unpack

from onnx import ModelProto

from export.adopt.graph import build_served_graph
from export.adopt.oracle import OriginalOracle
from export.adopt.planning import Planned, make_plan
from export.adopt.reading import read_foreign
from export.adopt.whole_sequence import check_whole_sequence
from export.adopt.wishes import Wishes
from export.order import Options, Order
from export.pipeline import write_artefact
from export.place import check_target
from export.proving import prove
from export.transposes import hold_transposes
from export.verify import TOLERANCE
from models.card import ModelCard, Parity

HALF_TOLERANCE = 5e-3
"""For models that compute in float16: its rounding depends on the company a row is in."""


def adopt_model(
    file: Path,
    root: Path,
    name: str,
    version: int,
    *,
    wishes: Wishes | None = None,
    **options: Unpack[Options],
) -> Path:
    """Write `root/name/version/model.onnx` for a foreign file and return its path; or write nothing.

    The options are those of an `Order`.

    Raises:
        ExportError: No artefact was written; see `export.adopt.errors` and `export.errors`.
    """
    order = Order(**options)
    target = root / name / str(version)
    check_target(target, force=order.force)
    model = read_foreign(file)
    planned = make_plan(model, wishes or Wishes(), order.on_progress)
    for finding in planned.findings:
        order.on_finding(finding)
    plan = planned.plan
    order.on_progress("building the served graph")
    served = build_served_graph(model, plan)
    half = "float16" in {spec.dtype for spec in plan.state_specs} | {one.spec.dtype for one in plan.outputs}
    tolerance = HALF_TOLERANCE if half and order.tolerance is None else order.tolerance
    card = _card(model, planned, name, version, order)
    proved, proved_card = prove(
        served,
        card,
        OriginalOracle(planned),
        precision=order.precision,
        tolerance=tolerance,
        on_progress=order.on_progress,
        on_finding=order.on_finding,
    )
    order.on_progress("comparing: the original's own run over whole sequences")
    # before it was held in a lower precision: what that costs is in the figures above
    check_whole_sequence(
        planned, hold_transposes(served).SerializeToString(), card, TOLERANCE if tolerance is None else tolerance
    )
    order.on_progress("writing")
    return write_artefact(target, proved, proved_card, force=order.force)


def _card(model: ModelProto, planned: Planned, name: str, version: int, order: Order) -> ModelCard:
    """Return the card of a model, its parity still open."""
    plan = planned.plan
    return ModelCard(
        name=name,
        version=version,
        description=order.description,
        cell="adopted",
        config={
            "source_sha256": hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest(),
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "findings": list(planned.findings),
        },
        inputs=tuple(one.spec for one in plan.inputs),
        outputs=tuple(one.spec for one in plan.outputs),
        states=plan.state_specs,
        max_batch=order.max_batch if plan.batched else 1,
        ragged=False,
        weights_sha256=_weights_sha256(model),
        parity=Parity(tolerance=1.0, errors={}),
        created_by=" ".join(f"{package} {installed_version(package)}" for package in ("onnx", "onnxruntime")),
    )


def _weights_sha256(model: ModelProto) -> str:
    """Return the SHA-256 over the names, types and bytes of the model's weights, sorted by name."""
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()
