"""An artefact as a stage of a chain."""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto
from pydantic import ValidationError

from export.artefact import read_card
from export.chain.errors import StageError
from export.chain.stage import Stage, Steps
from export.figure import Array
from export.onnx_session import single_threaded
from export.reference import Rows
from export.sentences import foreign_error
from models.card import ModelCard, StateSpec, TensorSpec
from models.config import Scaler

_ROW, _SLOTS = 2, 3


class _ArtefactRunner:
    """Runs an artefact's graph as the file holds it, on arenas of three slots that are passed by value."""

    def __init__(self, name: str, model: ModelProto, card: ModelCard) -> None:
        self._name, self._card = name, card
        self._fetched = [*(spec.name for spec in card.outputs), *(f"state.{spec.name}" for spec in card.states)]
        try:
            self._session = single_threaded(model.SerializeToString())
        except Exception as exc:  # onnxruntime raises many types
            raise StageError(name, f"onnxruntime does not load it: {foreign_error(exc)}") from exc
        self._states = self._initial()

    def start(self) -> None:
        self._states = self._initial()

    def step(self, inputs: Rows) -> Rows:
        feeds = {name: np.ascontiguousarray(value[:, None]) for name, value in inputs.items()}
        feeds |= {"read_slots": np.array([_ROW]), "write_slots": np.array([_ROW])}
        feeds |= {f"arena.{name}": np.repeat(rows, _SLOTS, axis=0) for name, rows in self._states.items()}
        if self._card.ragged:
            feeds["lengths"] = np.ones(1, np.int64)
        try:
            values = self._session.run(self._fetched, feeds)
        except Exception as exc:  # onnxruntime raises many types
            raise StageError(self._name, f"onnxruntime does not run it: {foreign_error(exc)}") from exc
        found = dict(zip(self._fetched, values, strict=True))
        self._states = {name: found[f"state.{name}"] for name in self._states}
        return {spec.name: found[spec.name][:, 0] for spec in self._card.outputs}

    @property
    def states(self) -> Rows:
        return self._states

    def _initial(self) -> Rows:
        return {spec.name: _initial_row(spec) for spec in self._card.states}


def _initial_row(spec: StateSpec) -> Array:
    value = np.asarray(spec.initial, spec.dtype)
    return np.broadcast_to(value.reshape(spec.shape) if value.ndim else value, (1, *spec.shape)).copy()


@dataclass(frozen=True, slots=True)
class ArtefactSource:
    """An artefact that was read: its file, its model and its card."""

    name: str
    file: Path
    model: ModelProto
    card: ModelCard

    @classmethod
    def read(cls, name: str, file: Path, model: ModelProto) -> "ArtefactSource":
        """Check an artefact's card and its graph's inputs and outputs.

        Raises:
            ExportError: It is damaged, its graph is not what the card says, or it has no sessions.
        """
        card = read_card(file)
        name = name or card.name
        if not card.streams:
            raise StageError(name, f"{file} runs whole sequences only, so there is no single step to chain")
        arenas = {f"arena.{spec.name}" for spec in card.states}
        given = {value.name for value in model.graph.input}
        expected = {spec.name for spec in card.inputs} | arenas | {"read_slots", "write_slots"}
        expected |= {"lengths"} if card.ragged else set()
        after = {f"{kind}.{spec.name}" for spec in card.states for kind in ("state", "arena_out")}
        expected_outputs = {spec.name for spec in card.outputs} | after
        if given != expected or not expected_outputs <= {value.name for value in model.graph.output}:
            raise StageError(name, f"the inputs and outputs of {file} are not those that its card describes")
        return cls(name, file, model, card)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.card.inputs)

    def make(self, fed: Mapping[str, TensorSpec], steps: Steps, connected: Collection[str]) -> Stage:
        card = self.card
        for name in steps:
            raise StageError(self.name, f"--step {self.name}.{name}: its card says what a step is")
        made_of = {
            "artefact": f"{card.name}/{card.version}",
            "sha256": hashlib.sha256(self.file.read_bytes()).hexdigest(),
            "weights_sha256": card.weights_sha256,
            "cell": card.cell,
        }
        return Stage(
            self.name,
            card.inputs,
            card.outputs,
            card.states,
            self.model,
            _ArtefactRunner(self.name, self.model, card),
            card.weights_sha256,
            made_of,
            card.max_batch,
            card.parity.tolerance,
            card.ragged,
            scales=_scales(card),
        )


def _scales(card: ModelCard) -> dict[str, tuple[Array, Array]]:
    """Return the mean and standard deviation that a network's input scaler takes out."""
    try:
        scaler = Scaler.model_validate(card.config.get("input_scaler"))
    except ValidationError:
        return {}
    return {card.inputs[0].name: (np.array(scaler.mean), np.array(scaler.std))}
