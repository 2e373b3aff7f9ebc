"""The values that the client takes and returns: arrays as nested sequences, models and session descriptions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Protocol, Self, TypeAlias, TypedDict

from cellstream_client.errors import InvalidInput


class Listable(Protocol):
    """An array of numpy, torch or another library that has `tolist`."""

    def tolist(self) -> Any:
        """Return the array as nested lists."""


Inputs: TypeAlias = Listable | Sequence[Any] | Mapping[str, Any]
"""A chunk: (T, features), or (T,) token ids; a mapping of names to such arrays if the model has several inputs."""

Outputs: TypeAlias = list[list[float]] | Any
"""The outputs of a chunk, (T, outputs); a mapping of names to such arrays if the model has several outputs."""

Row: TypeAlias = list[float] | Any
"""The outputs of one time step, (outputs,); a mapping of names to such arrays if the model has several outputs."""


class Opening(TypedDict, total=False):
    """The options of opening a session; all have defaults, and at most one of `history` and `state` may be given."""

    idle_limit: float | None
    """Seconds after which an unused session expires."""
    keep: int | None
    """Number of requests that can be rewound."""
    history: Inputs | None
    """Steps (T, features) that the session reads first; by default it starts from the model's initial state."""
    state: bytes | None
    """A snapshot from which the session continues."""


@dataclass(frozen=True, slots=True)
class Model:
    """A served model: the fields of the service's list of models."""

    name: str
    version: int
    description: str
    cell: str
    sessions: int
    max_sessions: int

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        return cls(**{field.name: answer[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as the service describes it: its step and epoch, and when it expires; `idle_limit` is in seconds."""

    session_id: str
    model: str
    version: int
    step: int
    epoch: int
    keep: int
    idle_limit: float
    durability: str
    expires_at: datetime

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        values = {field.name: answer[field.name] for field in fields(cls)}
        return cls(**values | {"expires_at": datetime.fromisoformat(answer["expires_at"])})


def encode(value: object) -> str:
    """Return a value as JSON; an object that has `tolist` is encoded as that list.

    Raises:
        InvalidInput: A number is infinite or NaN, which JSON cannot represent.
        TypeError: The value contains something other than numbers, strings, sequences, mappings and arrays.
    """
    try:
        return json.dumps(value, default=_plain, separators=(",", ":"), allow_nan=False)
    except ValueError as exc:
        raise InvalidInput("invalid_input", f"expected finite numbers: {exc}") from exc


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"expected numbers, nested sequences of them or something with tolist(), got {type(value)}")


def one_step(inputs: Any) -> Inputs:
    """Return a chunk that consists of one time step."""
    return {name: [value] for name, value in inputs.items()} if isinstance(inputs, Mapping) else [inputs]


def one_row(outputs: Outputs) -> Row:
    """Return the outputs of the only time step of a chunk."""
    return {name: rows[0] for name, rows in outputs.items()} if isinstance(outputs, dict) else outputs[0]


def length(inputs: Any) -> int:
    """Return the number of time steps in a chunk."""
    return len(next(iter(inputs.values()), ())) if isinstance(inputs, Mapping) else len(inputs)
