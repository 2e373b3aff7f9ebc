"""Request and response bodies, for the documentation of the API."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Tensor = list[Any] | dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorBody(BaseModel):
    """Body of every error: a code for programs, a message for people, and details."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(examples=["session_not_found"])
    message: str = Field(examples=["no session of this id"])


class StepBody(_Body):
    """One chunk: T consecutive time steps of one session."""

    model_config = ConfigDict(title="StepRequest")

    inputs: Tensor = Field(
        description="(T, features) numbers, or (T,) token ids; name → array where the model has several inputs",
        examples=[[[5.0], [11.0]]],
    )
    step: int | None = Field(
        None,
        description="index of the chunk's first step; a request sent again with the same inputs is taken once",
        ge=1,
    )
    epoch: int | None = Field(None, description="the session's epoch, as GET gives it", ge=0)


class StepAnswer(_Body):
    outputs: Tensor = Field(description="(T, outputs) numbers", examples=[[[7.2], [13.9]]])
    step: int = Field(description="index of the chunk's last step; a session's first step is 1", examples=[2])
    replayed: bool = Field(description="whether this is the stored response to a request that was sent again")


class PredictBody(_Body):
    """Whole sequences, of any lengths; no state is kept."""

    model_config = ConfigDict(title="PredictRequest")

    inputs: list[Tensor] = Field(examples=[[[[5.0], [11.0]], [[16.0]]]])


class PredictAnswer(_Body):
    outputs: list[Tensor] = Field(examples=[[[[7.2], [13.9]], [[18.4]]]])


class FleetBody(_Body):
    """One chunk for each of many sessions of a model."""

    model_config = ConfigDict(title="FleetRequest")

    sessions: list[str] = Field(description="ids of sessions, or names that the client chooses", examples=[["a", "b"]])
    inputs: list[Tensor] = Field(description="a chunk for each session", examples=[[[[5.0]], [[11.0]]]])
    create: bool = Field(False, description="open a session for each name that has none")
    steps: list[int | None] | None = Field(None, description="index of each row's first step; null for none")
    epochs: list[int | None] | None = Field(None, description="epoch of each row's session; null for none")


class FleetError(BaseModel):
    """A row that failed, and why."""

    model_config = ConfigDict(extra="allow")

    row: int
    code: str
    message: str


class FleetAnswer(_Body):
    outputs: list[Tensor | None] = Field(description="outputs of each row; null where the row failed")
    steps: list[int | None] = Field(description="index of each row's last step; null where the row failed")
    replayed: list[int] = Field(description="rows that got the stored response to a request that was sent again")
    created: list[int] = Field(description="rows whose sessions this request opened")
    errors: list[FleetError] = Field(description="rows that failed, and why")


_MAX_KEEP = 64
"""Most requests that a session may be able to rewind."""

_IdleLimit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ForkSession(_Body):
    """How long a session may be idle, and how many requests can be rewound; both have defaults."""

    idle_limit: _IdleLimit | None = Field(None, description="seconds after which the idle session ends")
    keep: int | None = Field(None, ge=0, le=_MAX_KEEP, description="number of requests that can be rewound")


class OpenSession(ForkSession):
    """Options of a new session; all have defaults. `history` and `state` exclude each other."""

    history: Tensor | None = Field(
        None, description="steps to take first, as the inputs of a step; their outputs are not returned"
    )
    state: str | None = Field(None, description="a snapshot to continue from, in base64")


class ExtendSession(_Body):
    idle_limit: _IdleLimit = Field(description="seconds, from now on, after which the idle session ends")


class RewindSession(_Body):
    requests: int = Field(ge=1, description="number of requests to take back, the last ones", examples=[1])
    epoch: int | None = Field(
        None, ge=0, description="the session's epoch; a request sent again with it takes effect once"
    )


class SessionAnswer(_Body):
    session_id: str
    model: str
    version: int
    step: int = Field(description="time steps taken so far")
    epoch: int = Field(description="number of times that its state was rewound or restored")
    keep: int = Field(description="most requests that can be rewound")
    idle_limit: float = Field(description="seconds after which it ends unless it is used before")
    durability: Literal["memory"] = Field(
        description="memory: lost when the process ends; requests are then answered with session_lost"
    )
    expires_at: str = Field(description="when it ends unless it is used before (RFC 3339)")


class SessionList(_Body):
    sessions: list[SessionAnswer] = Field(description="sessions, the oldest first")
    next: str | None = Field(description="value of `after` for the next page; null on the last page")


class EngineAnswer(_Body):
    """How the service runs a model, as measured when it was loaded."""

    provider: str
    threads: int
    runs_on: Literal["loop", "thread"] = Field(
        description="loop: the event loop, as its runs are short; thread: a thread of its own"
    )
    run_us: float = Field(description="fixed duration of a run in µs")
    step_us: float = Field(description="additional duration for each time step in µs")
    row_us: float = Field(description="additional duration for each row and time step in µs")
    max_batch: int = Field(description="most rows in one run")


class ModelSummary(_Body):
    name: str
    version: int
    description: str
    cell: str
    sessions: int = Field(description="your live sessions on this version")
    max_sessions: int = Field(description="most sessions that you may have on this version at a time")


class ModelList(_Body):
    models: list[ModelSummary]


class ModelAnswer(ModelSummary):
    card: dict[str, Any] = Field(description="the model card, as exported")
    engine: EngineAnswer
    state_bytes: int = Field(description="size of a session's state in bytes")


Status = Literal["live", "starting", "ready", "draining"]


class Health(_Body):
    status: Status
