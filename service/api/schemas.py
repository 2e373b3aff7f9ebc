"""Bodies of requests and answers, as the API's documentation shows them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Tensor = list[Any] | dict[str, Any]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorBody(BaseModel):
    """Every error: a code for programs, a sentence for people, and details beside them."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(examples=["session_not_found"])
    message: str = Field(examples=["no session of this id"])


class StepBody(_Body):
    """One chunk: T consecutive time steps of one session."""

    inputs: Tensor = Field(
        description="(T, features) numbers, or (T,) token ids; name → array where the model has several inputs",
        examples=[[[5.0], [11.0]]],
    )
    step: int | None = Field(
        None, description="index of the chunk's first step; sent again with the same inputs, it is taken once", ge=1
    )
    epoch: int | None = Field(None, description="the session's epoch, as its description gives it", ge=0)


class StepAnswer(_Body):
    outputs: Tensor = Field(description="(T, outputs) numbers", examples=[[[7.2], [13.9]]])
    step: int = Field(description="index of the chunk's last step; a session's first step is 1", examples=[2])
    replayed: bool = Field(description="whether this is the stored answer of a request that was sent again")


class PredictBody(_Body):
    """Whole sequences, of any lengths; nothing is kept of them."""

    inputs: list[Tensor] = Field(examples=[[[[5.0], [11.0]], [[16.0]]]])


class PredictAnswer(_Body):
    outputs: list[Tensor] = Field(examples=[[[[7.2], [13.9]], [[18.4]]]])


class FleetBody(_Body):
    """One chunk for each of many sessions of a model."""

    sessions: list[str] = Field(description="ids, or names that the client chooses", examples=[["a", "b"]])
    inputs: list[Tensor] = Field(description="a chunk for each session", examples=[[[[5.0]], [[11.0]]]])
    create: bool = Field(False, description="open a session under each name that has none")
    steps: list[int | None] | None = Field(None, description="index of each row's first step; null where it has none")
    epochs: list[int | None] | None = Field(None, description="each session's epoch, likewise")


class FleetError(BaseModel):
    """Why a row was not taken."""

    model_config = ConfigDict(extra="allow")

    row: int
    code: str
    message: str


class FleetAnswer(_Body):
    outputs: list[Tensor | None] = Field(description="a row's outputs; null where it was not taken")
    steps: list[int | None] = Field(description="index of each row's last step")
    replayed: list[int] = Field(description="rows that were given the stored answer of a request sent before")
    created: list[int] = Field(description="rows whose sessions were opened by this request")
    errors: list[FleetError] = Field(description="rows that were not taken, and why")


KEEP_MOST = 64

_IdleLimit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ForkSession(_Body):
    """How long a session stays, and how far back it can be rewound; both have defaults."""

    idle_limit: _IdleLimit | None = Field(None, description="seconds after which the idle session ends")
    keep: int | None = Field(None, ge=0, le=KEEP_MOST, description="so many requests can be rewound")


class OpenSession(ForkSession):
    """How to open a session; everything has a default. A history and a state exclude each other."""

    history: Tensor | None = Field(None, description="steps to take first, as a step's inputs; no outputs are given")
    state: str | None = Field(None, description="a snapshot to go on from, in base64")


class ExtendSession(_Body):
    idle_limit: _IdleLimit = Field(description="seconds, from now on, after which the idle session ends")


class RewindSession(_Body):
    requests: int = Field(ge=1, description="so many of the last requests are taken back", examples=[1])
    epoch: int | None = Field(None, ge=0, description="the session's epoch; sent again with it, it is done once")


class SessionAnswer(_Body):
    session_id: str
    model: str
    version: int
    step: int = Field(description="time steps taken so far")
    epoch: int = Field(description="how often its state was rewound or restored")
    keep: int = Field(description="so many requests can be rewound at most")
    idle_limit: float = Field(description="seconds after which it ends unless it is used before")
    durability: Literal["memory"] = Field(description="memory: lost with the process, and then says so")
    expires_at: str = Field(description="when it ends unless it is used before (RFC 3339)")


class SessionList(_Body):
    sessions: list[SessionAnswer] = Field(description="in the order in which they were opened")
    next: str | None = Field(description="give it as `after` to get the next page; null on the last one")


class EngineAnswer(_Body):
    """How a model is run here, as measured when it was loaded."""

    provider: str
    threads: int
    runs_on: Literal["loop", "thread"] = Field(description="loop: a run is shorter than a thread hop is worth")
    run_us: float = Field(description="µs a run takes by itself")
    step_us: float = Field(description="µs more for each time step")
    row_us: float = Field(description="µs more for each row and time step")
    max_batch: int = Field(description="most rows in one run here")


class ModelSummary(_Body):
    name: str
    version: int
    description: str
    cell: str
    sessions: int
    max_sessions: int


class ModelList(_Body):
    models: list[ModelSummary]


class ModelAnswer(ModelSummary):
    card: dict[str, Any] = Field(description="the model card, as exported")
    engine: EngineAnswer
    state_bytes: int = Field(description="bytes of state a session takes")


Status = Literal["live", "starting", "ready", "draining"]


class Health(_Body):
    status: Status
