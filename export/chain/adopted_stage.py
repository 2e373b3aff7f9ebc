"""A model without state as a stage of a chain: adopted in memory, with all that adoption checks."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from export.adopt.errors import AmbiguousError
from export.adopt.options import AdoptOptions
from export.adopt.pipeline import adopt_in_memory
from export.adopt.public_names import public_names
from export.candidate import Candidate
from export.chain.errors import StageError
from export.chain.stage import Stage, StageRunner, Steps
from export.destination import Destination
from export.errors import ExportError
from export.options import ExportOptions
from export.precision import Precision
from export.reference import Reference, Rows
from models.card import TensorSpec


class _FileRunner:
    """Runs a file without state directly, as it is."""

    def __init__(self, reference: Reference, outputs: Sequence[str]) -> None:
        self._reference, self._outputs = reference, outputs

    def start(self) -> None:
        pass

    def step(self, inputs: Rows) -> Rows:
        found = self._reference.answer({name: rows[:, None] for name, rows in inputs.items()}).outputs
        return {name: found[name][:, 0] for name in self._outputs}

    @property
    def states(self) -> Rows:
        return {}


@dataclass(frozen=True, slots=True)
class FileSource:
    """An ONNX file that is no artefact."""

    name: str
    file: Path
    model: ModelProto
    options: ExportOptions

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(_public_inputs(self.model).values())

    def make(self, fed: Mapping[str, TensorSpec], steps: Steps, connected: Collection[str]) -> Stage:
        names = {public: name for name, public in _public_inputs(self.model).items()}
        # what a stage gives, or the user connects, is no state
        adopt_options = AdoptOptions(
            states={names[public]: "" for public in connected},
            steps={names[public]: shape for public, shape in steps.items()},
        )
        candidate = adopted(self.name, self.model, self.options, adopt_options)
        made_of = {"file": self.file.name, "sha256": hashlib.sha256(self.file.read_bytes()).hexdigest()}
        runner = _FileRunner(candidate.reference, [spec.name for spec in candidate.card.outputs])
        return stage_of(self.name, candidate, runner, made_of)


def adopted(name: str, model: ModelProto, options: ExportOptions, adopt_options: AdoptOptions) -> Candidate:
    """Return a model without state as adoption would serve it, verified.

    Raises:
        StageError: It cannot be adopted, or has a state.
    """
    quiet = replace(
        options,
        precision=Precision.FLOAT32,
        on_finding=lambda finding: None,
        on_progress=lambda what: options.on_progress(f"{name}: {what}"),
    )
    try:
        candidate = adopt_in_memory(model, Destination(Path(), "stage", 1), quiet, adopt_options)
    except AmbiguousError as exc:
        raise StageError(name, f"{exc}, which adopt has: adopt the file first, and chain that artefact") from exc
    except ExportError as exc:
        raise StageError(name, str(exc)) from exc
    if candidate.card.states:
        states = ", ".join(spec.name for spec in candidate.card.states)
        raise StageError(
            name, f"it has a state ({states}): make an artefact of it by adopt first, and chain that artefact"
        )
    return candidate


def stage_of(
    name: str,
    candidate: Candidate,
    runner: StageRunner,
    made_of: dict[str, Any],
    inputs: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
) -> Stage:
    """Return the stage of an adopted model; `inputs` and `outputs` are names in the graph → public names."""
    card = candidate.card
    names = {("in", one.name): (inputs or {}).get(one.name, one.name) for one in card.inputs}
    names |= {("out", one.name): (outputs or {}).get(one.name, one.name) for one in card.outputs}
    return Stage(
        name,
        tuple(one.model_copy(update={"name": names["in", one.name]}) for one in card.inputs),
        tuple(one.model_copy(update={"name": names["out", one.name]}) for one in card.outputs),
        (),
        candidate.graph,
        runner,
        card.weights_sha256,
        made_of,
        card.max_batch,
        card.parity.tolerance,
        values={(side, public): value for (side, value), public in names.items()},
    )


def _public_inputs(model: ModelProto) -> dict[str, str]:
    defaults = {tensor.name for tensor in model.graph.initializer}
    return public_names(value.name for value in model.graph.input if value.name not in defaults)
