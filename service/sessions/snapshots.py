"""Snapshots: a session's state as a safetensors file.

The file's metadata is a JSON object under a single key: model, version, digest of the weights, step, and the SHA-256
checksum of the same file with an empty checksum. The same state is always written as the same bytes, so a file is
verified by writing its contents again and comparing all bytes.
"""

import hashlib
import json
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.card import ModelCard
from service.errors import SnapshotCorrupt, SnapshotMismatch, SnapshotUnsupported
from service.repository.served_model import ServedModel
from service.sessions.session import Session

_METADATA_KEY = "cellstream"
_HEAD_BYTES = 16 << 10
"""Most bytes of a file besides its tensors."""
_MAX_STEP = 2**62
"""The last step that a snapshot may have: far beyond what sessions reach, and below the limit of 64-bit integers."""
_DTYPES = {"F32": "float32", "F16": "float16", "F64": "float64", "I64": "int64", "I32": "int32", "BOOL": "bool"}
"""The dtypes of safetensors and numpy's names for them."""


class _Label(BaseModel):
    """The metadata of a snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    version: int
    weights_sha256: str
    step: int = Field(ge=0, le=2**63 - 1)
    checksum: str = ""


def max_bytes(model: "ServedModel") -> int:
    """Return the largest size in bytes of a snapshot of a model's state."""
    return model.state_bytes + _HEAD_BYTES


def write_snapshot(session: Session) -> bytes:
    """Return the session's committed state as the bytes of a file.

    Raises:
        SnapshotUnsupported: The states are on a CUDA device.
    """
    card, arena = session.model.card, session.model.arena
    if not arena.readable:
        raise SnapshotUnsupported
    return _write(_label(card, session.step), arena.row(session.slot))


def read_snapshot(body: bytes, model: ServedModel) -> tuple[dict[str, np.ndarray], int]:
    """Return the row of each state, and the step, from a file for exactly this version of a model.

    Raises:
        SnapshotCorrupt: `write_snapshot` does not write such a file.
        SnapshotMismatch: The file is for another model, version or weights, or its states do not match the card.
        SnapshotUnsupported: The states are on a CUDA device.
    """
    if not model.arena.readable:
        raise SnapshotUnsupported
    row, text = _parse(body)
    try:
        label = _Label.model_validate_json(text)
    except ValidationError as exc:
        raise SnapshotCorrupt("its metadata is not a snapshot's") from exc
    if _write(label.model_copy(update={"checksum": ""}), row) != body:
        raise SnapshotCorrupt("its checksum is another's")
    if label.step > _MAX_STEP:
        raise SnapshotCorrupt("no session has taken so many steps")
    _check(label, row, model.card)
    return row, label.step


def _label(card: ModelCard, step: int) -> _Label:
    return _Label(model=card.name, version=card.version, weights_sha256=card.weights_sha256, step=step)


def _write(label: _Label, row: dict[str, np.ndarray]) -> bytes:
    """Return the file for a row and a label with an empty checksum, which is filled in."""
    checksum = hashlib.sha256(_save(label, row)).hexdigest()
    return _save(label.model_copy(update={"checksum": checksum}), row)


def _save(label: _Label, row: dict[str, np.ndarray]) -> bytes:
    return safetensors.numpy.save(row, {_METADATA_KEY: label.model_dump_json()})


def _parse(body: bytes) -> tuple[dict[str, np.ndarray], str]:
    """Return the tensors and the metadata's JSON text of a safetensors file; raise SnapshotCorrupt for another."""
    try:
        tensors: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(body)  # type: ignore[no-untyped-call]
        head: dict[str, Any] = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
        text = head["__metadata__"][_METADATA_KEY]
        row = {
            name: np.frombuffer(tensor["data"], np.dtype(_DTYPES[tensor["dtype"]])).reshape(tensor["shape"])
            for name, tensor in tensors
        }
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as exc:
        raise SnapshotCorrupt("it cannot be read as safetensors with a snapshot's metadata") from exc
    if type(text) is not str:
        raise SnapshotCorrupt("its metadata is not text")
    return row, text


def _check(label: _Label, row: dict[str, np.ndarray], card: ModelCard) -> None:
    """Check a label and a row against a card; raise SnapshotMismatch where they differ."""
    expected = _label(card, label.step)
    for field in ("model", "version", "weights_sha256"):
        if getattr(label, field) != getattr(expected, field):
            raise SnapshotMismatch(field, str(getattr(expected, field)), str(getattr(label, field))[:128])
    states = {state.name: f"{state.dtype} {list(state.shape)}" for state in card.states}
    found = {name: f"{values.dtype} {list(values.shape)}" for name, values in row.items()}
    if found.keys() != states.keys():
        raise SnapshotMismatch("states", ", ".join(sorted(states)), ", ".join(sorted(found))[:128])
    for name, described in states.items():
        if found[name] != described:
            raise SnapshotMismatch(name, described, found[name])
        if row[name].dtype.kind == "f" and not np.isfinite(row[name]).all():
            raise SnapshotMismatch(name, "finite numbers", "NaN or an infinity")
