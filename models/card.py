"""The model card, which describes a served model, and the checksum of the artefact that contains it.

The card is stored inside the ONNX file, as JSON under the metadata key `card`, so that graph and description always
match. This is the only module that the service shares with the export; besides the standard library it imports
pydantic alone.
"""

import hashlib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CARD_KEY = "card"
SEAL_KEY = "seal"
FORMAT: Literal[1] = 1

Dtype = Literal["float32", "float16", "float64", "int64", "int32", "bool"]
_ITEM_BYTES: dict[str, int] = {"float32": 4, "float16": 2, "float64": 8, "int64": 8, "int32": 4, "bool": 1}

_SEAL_MARK = b"cellstream-sha256:"
_UNSEALED = b"0" * 64


class SealError(ValueError):
    """The file contains no checksum, or its bytes do not match it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(_Frozen):
    """Describe one input or output of a time step, without its batch and time axes."""

    name: str = Field(min_length=1)
    dtype: Dtype = "float32"
    shape: tuple[int, ...] = Field(default=(), description="Shape of one time step: (features,), or () for token ids.")
    features: tuple[str, ...] = Field(default=(), description="A name for each feature, in order.")
    units: tuple[str, ...] = Field(default=(), description="A unit for each feature, in order.")
    vocabulary: int | None = Field(default=None, ge=1, description="Token ids lie in [0, vocabulary).")

    @model_validator(mode="after")
    def _check_name_counts(self) -> Self:
        for kind, names in (("features", self.features), ("units", self.units)):
            if names and self.shape != (len(names),):
                raise ValueError(f"{self.name}: {len(names)} {kind} named for a step of shape {self.shape}")
        return self


class StateSpec(_Frozen):
    """Describe one state tensor, which is carried from step to step, without its batch axis."""

    name: str = Field(min_length=1)
    dtype: Dtype = "float32"
    shape: tuple[int, ...]
    initial: float | tuple[float, ...] = Field(
        default=0.0,
        description="State before the first step: one value for all elements, or one for each in row-major order.",
    )

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for dim in self.shape:
            size *= dim
        return size

    @model_validator(mode="after")
    def _check_initial_size(self) -> Self:
        if isinstance(self.initial, tuple) and len(self.initial) != self.size:
            raise ValueError(f"{self.name}: {len(self.initial)} initial values for a state of shape {self.shape}")
        return self


class Parity(_Frozen):
    """Record how far onnxruntime was off at export: largest difference divided by the spread of a tensor's values.

    The graph is compared with the original's run in float64 where there is one; then it may be off by the tolerance
    and a few times `float32`. In older artefacts the difference was divided by the largest absolute value.
    """

    tolerance: float = Field(gt=0)
    steps: int = Field(default=0, ge=0, description="Length of the longest sequence compared; 0 in older artefacts.")
    float32: float = Field(
        default=0.0, ge=0, description="Largest error of the original's own run in float32; 0 where it is not known."
    )
    errors: dict[str, float] = Field(description="Name of the comparison → largest difference seen.")


class ModelCard(_Frozen):
    """Describe a served model; its inputs, outputs and states are matched with those of the graph by name."""

    format: Literal[1] = FORMAT
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    version: int = Field(ge=1)
    description: str = ""
    cell: str
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    states: tuple[StateSpec, ...] = Field(description="Tensors carried from step to step; none for a stateless model.")
    max_batch: int = Field(default=256, ge=1, description="Largest number of sequences in one run.")
    ragged: bool = Field(default=True, description="Whether the graph takes the true lengths of padded chunks.")
    streams: bool = Field(
        default=True,
        description="Whether a sequence can be run one step at a time; if not, the model has no sessions.",
    )
    feedback: dict[str, str] = Field(default_factory=dict, description="Output → input, for roll-outs.")
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    parity: Parity
    created_by: str

    @model_validator(mode="before")
    @classmethod
    def _drop_retired_fields(cls, fields: Any) -> Any:
        """Read the cards of older artefacts, which have a field that is no longer used."""
        return {key: fields[key] for key in fields if key != "sampling"} if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _check_unique_names(self) -> Self:
        for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs), ("states", self.states)):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise ValueError(f"{kind}: a name is used twice in {names}")
        return self

    @property
    def state_bytes(self) -> int:
        """The bytes of one session's state."""
        return sum(state.size * _ITEM_BYTES[state.dtype] for state in self.states)


def seal_placeholder() -> str:
    """Return the metadata value to write under `SEAL_KEY`; `seal` replaces its zeros by the checksum."""
    return (_SEAL_MARK + _UNSEALED).decode()


def seal(data: bytes) -> bytes:
    """Return the file with its SHA-256, computed while the placeholder holds zeros, written over the placeholder.

    Raises:
        SealError: The placeholder is missing or occurs more than once.
    """
    start = _seal_start(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    return data[:start] + digest + data[start + len(digest) :]


def check_seal(data: bytes) -> None:
    """Check that the file is, bit for bit, the one that `seal` returned.

    Raises:
        SealError: The checksum is missing, occurs more than once or does not match.
    """
    start = _seal_start(data)
    hasher = hashlib.sha256(data[:start])
    hasher.update(_UNSEALED)
    hasher.update(memoryview(data)[start + len(_UNSEALED) :])
    if hasher.hexdigest().encode() != data[start : start + len(_UNSEALED)]:
        raise SealError("the file's bytes do not match its checksum: it is damaged, truncated or modified")


def _seal_start(data: bytes) -> int:
    count = data.count(_SEAL_MARK)
    if count != 1:
        raise SealError(f"expected one checksum in the file, found {count}: not a complete cellstream artefact")
    return data.index(_SEAL_MARK) + len(_SEAL_MARK)
