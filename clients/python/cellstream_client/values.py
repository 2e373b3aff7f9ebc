"""What goes in and what comes out: nested sequences, models, and where sessions stand."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Protocol, Self, TypeAlias, TypedDict

from cellstream_client.errors import InvalidInput


class Listable(Protocol):
    """An array of numpy, torch or the like."""

    def tolist(self) -> Any:
        """Return it as nested lists."""


Inputs: TypeAlias = Listable | Sequence[Any] | Mapping[str, Any]
"""A chunk (T, features) or (T,) token ids; name → such an array where a model has several inputs."""

Outputs: TypeAlias = list[list[float]] | Any
"""A chunk's outputs, (T, outputs); name → such an array where a model has several outputs."""

Row: TypeAlias = list[float] | Any
"""The outputs of one time step, (outputs,); name → such an array where a model has several outputs."""


class Opening(TypedDict, total=False):
    """How to open a session; everything has a default, and a history and a state exclude each other."""

    idle_limit: float | None
    """Seconds that it stays unused."""
    keep: int | None
    """So many requests can be rewound."""
    history: Inputs | None
    """Steps (T, features) to read first; without them it starts from the model's initial state."""
    state: bytes | None
    """A snapshot to go on from."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is served."""

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
    """Where a session stands, and how long it stays."""

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
    """Return JSON; whatever has `tolist` is sent as the list that it gives.

    Raises:
        InvalidInput: A number is infinite or NaN, which JSON cannot say.
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
    """Return a chunk of one time step."""
    return {name: [value] for name, value in inputs.items()} if isinstance(inputs, Mapping) else [inputs]


def one_row(outputs: Outputs) -> Row:
    """Return the outputs of a chunk of one time step."""
    return {name: rows[0] for name, rows in outputs.items()} if isinstance(outputs, dict) else outputs[0]


def length(inputs: Any) -> int:
    """Return the number of time steps in a chunk."""
    return len(next(iter(inputs.values()), ())) if isinstance(inputs, Mapping) else len(inputs)
