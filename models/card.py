"""The model card: what an artefact says of itself.

The card travels inside the ONNX file, as JSON under the metadata key `card`, so that graph and description cannot
drift apart. This is the only module the service shares with the export step; it needs pydantic alone.
"""

import hashlib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CARD_KEY = "card"
SEAL_KEY = "seal"
FORMAT: Literal[1] = 1

Dtype = Literal["float32", "float16", "float64", "int64", "int32", "bool"]

_SEAL_MARK = b"cellstream-sha256:"
_UNSEALED = b"0" * 64


class SealError(ValueError):
    """The file's bytes do not match the checksum it carries, or it carries none."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """One input or output of a step, without its batch and time axes."""

    name: str = Field(min_length=1)
    dtype: Dtype = "float32"
    shape: tuple[int, ...] = Field(default=(), description="Shape of one time step: (features,), or () for token ids.")
    features: tuple[str, ...] = Field(default=(), description="A name for each feature, in order.")
    units: tuple[str, ...] = Field(default=(), description="A unit for each feature, in order.")
    vocabulary: int | None = Field(default=None, ge=1, description="Token ids lie in [0, vocabulary).")

    @model_validator(mode="after")
    def _names_fit_the_shape(self) -> Self:
        for what, names in (("features", self.features), ("units", self.units)):
            if names and self.shape != (len(names),):
                raise ValueError(f"{self.name}: {len(names)} {what} named for a step of shape {self.shape}")
        return self


class StateSpec(_Frozen):
    """One tensor that is carried from step to step, without its batch axis."""

    name: str = Field(min_length=1)
    dtype: Dtype = "float32"
    shape: tuple[int, ...]
    initial: float | tuple[float, ...] = Field(
        default=0.0, description="The state before the first step: one value for all elements, or all, row-major."
    )

    @model_validator(mode="after")
    def _initial_fits_the_shape(self) -> Self:
        size = 1
        for dim in self.shape:
            size *= dim
        if isinstance(self.initial, tuple) and len(self.initial) != size:
            raise ValueError(f"{self.name}: {len(self.initial)} initial values for a state of shape {self.shape}")
        return self


class Parity(_Frozen):
    """How far onnxruntime was from torch at export, as the largest absolute difference over the state's scale."""

    tolerance: float = Field(gt=0)
    errors: dict[str, float] = Field(description="Comparison → largest difference seen.")


class ModelCard(_Frozen):
    """All that the service has to know of a model; paired with the graph by name, never by order."""

    format: Literal[1] = FORMAT
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    version: int = Field(ge=1)
    description: str = ""
    cell: str
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    states: tuple[StateSpec, ...] = Field(description="What is carried from step to step; empty for a stateless model.")
    max_batch: int = Field(default=256, ge=1, description="The most sequences in one run.")
    ragged: bool = Field(default=True, description="Whether the graph takes the true lengths of padded chunks.")
    streams: bool = Field(
        default=True,
        description="Whether sequences may be cut into steps; if not, the model has no sessions.",
    )
    feedback: dict[str, str] = Field(default_factory=dict, description="Output → input, for roll-outs.")
    sampling: dict[str, Any] = Field(default_factory=dict)
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    parity: Parity
    created_by: str

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, specs in (("inputs", self.inputs), ("outputs", self.outputs), ("states", self.states)):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise ValueError(f"{what}: a name stands twice in {names}")
        return self


def seal_placeholder() -> str:
    """Return the metadata value to write under `SEAL_KEY` before the file is sealed."""
    return (_SEAL_MARK + _UNSEALED).decode()


def seal(data: bytes) -> bytes:
    """Return the file with the SHA-256 of all its other bytes written over the placeholder.

    Raises:
        SealError: The placeholder is missing or stands more than once.
    """
    start = _seal_start(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + digest + data[start + len(digest) :]


def check_seal(data: bytes) -> None:
    """Raise SealError unless the file is, bit for bit, the one that was sealed."""
    start = _seal_start(data)
    hasher = hashlib.sha256(data[:start])
    hasher.update(_UNSEALED)
    hasher.update(memoryview(data)[start + len(_UNSEALED) :])
    if hasher.hexdigest().encode() != data[start : start + len(_UNSEALED)]:
        raise SealError("the file's bytes do not match its checksum: it is damaged, truncated or was changed")


def _seal_start(data: bytes) -> int:
    parts = data.count(_SEAL_MARK)
    if parts != 1:
        raise SealError(f"expected one checksum in the file, found {parts}: not a whole cellstream artefact")
    return data.index(_SEAL_MARK) + len(_SEAL_MARK)
