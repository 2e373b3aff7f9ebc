"""Request and response bodies of the protocol, for the documentation of the API."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Scalar = bool | int | float | str


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class OipError(_Body):
    """Body of every error: a message, as the protocol asks for, and beside it a code for programs and details."""

    error: str
    code: str
    retryable: bool = Field(description="whether the same request may succeed later")


class ServerMetadata(_Body):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Body):
    name: str
    datatype: str
    shape: list[int] = Field(description="rows, steps, and the shape of a step; -1 for any length")


class ModelMetadata(_Body):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(_Body):
    name: str
    ready: bool


class ModelConfiguration(_Body):
    """Triton's model configuration, in JSON."""

    name: str
    platform: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    sequence_batching: dict[str, Any] | None = Field(None, description="only of a model that carries a state")


class RequestInput(_Body):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, _Scalar] = Field({}, description="`binary_data_size`: its size in bytes after the JSON head")
    data: list[Any] | None = Field(None, description="its elements, flat or nested, unless they are binary")


class RequestOutput(_Body):
    name: str
    parameters: dict[str, _Scalar] = Field({}, description="`binary_data`: whether it is to be binary")


class InferParameters(_Body):
    sequence_id: int | str | None = Field(None, description="the sequence to advance; 0 or empty: none")
    sequence_start: bool = Field(False, description="begin the sequence, from the initial state")
    sequence_end: bool = Field(False, description="end the sequence after these steps")
    step: int | None = Field(None, ge=1, description="index of the first step; a request sent again is taken once")
    epoch: int | None = Field(None, ge=0, description="epoch of the session, which every rewind or restore raises")
    create: bool = Field(False, description="of a fleet step: open a session for each name that has none")
    timeout: int = Field(
        0, ge=0, description="longest time in µs that the request may wait in the queue; 0: the service's limit alone"
    )
    priority: int = Field(0, ge=0, description="must be 0")
    binary_data_output: bool = Field(False, description="whether outputs are binary that do not say so themselves")


class InferRequest(_Body):
    """One or more steps of one sequence or of many, or whole sequences of a model that carries no state."""

    id: str = Field(
        "",
        description="an id that the client chooses; the last request of a sequence, sent again with it, is taken once",
    )
    parameters: InferParameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None


class ResponseOutput(_Body):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, _Scalar] | None = Field(
        None, description="`binary_data_size`: its size in bytes after the JSON head"
    )
    data: list[Any] | None = Field(None, description="its elements, flat, unless they are binary")


class InferResponse(_Body):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, _Scalar] | None = Field(
        None, description="`step`: index of the last step; `replayed`: whether this is a stored response"
    )
    outputs: list[ResponseOutput]


class IndexRequest(_Body):
    ready: bool = Field(False, description="list only models that are ready")


class IndexedModel(_Body):
    name: str
    version: str
    state: Literal["READY", "UNLOADING", "UNAVAILABLE"]
    reason: str


class ControlRequest(_Body):
    parameters: dict[str, Any] | None = None


class StatisticsAnswer(_Body):
    model_stats: list[dict[str, Any]]
