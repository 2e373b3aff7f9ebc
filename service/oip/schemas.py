"""Bodies of the protocol, as the API's documentation shows them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_Scalar = bool | int | float | str


class _Open(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class OipError(_Open):
    """Every error: a sentence, as the protocol has it, and a code for programs and details beside it."""

    error: str
    code: str
    retryable: bool = Field(description="whether the same request may succeed later")


class ServerMetadata(_Open):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(_Open):
    name: str
    datatype: str
    shape: list[int] = Field(description="rows, steps, and a step's own shape; -1 for any length")


class ModelMetadata(_Open):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(_Open):
    name: str
    ready: bool


class ModelConfiguration(_Open):
    """Triton's model configuration, in JSON."""

    name: str
    platform: str
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    sequence_batching: dict[str, Any] | None = Field(None, description="there where the model carries a state")


class RequestInput(_Open):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, _Scalar] = Field({}, description="`binary_data_size`: bytes of it behind the head")
    data: list[Any] | None = Field(None, description="its elements, flat or nested, where they are not in binary")


class RequestOutput(_Open):
    name: str
    parameters: dict[str, _Scalar] = Field({}, description="`binary_data`: whether it is wanted in binary")


class InferParameters(_Open):
    sequence_id: int | str | None = Field(None, description="whose steps these are; 0 and the empty text: nobody's")
    sequence_start: bool = Field(False, description="begin anew, from the initial state")
    sequence_end: bool = Field(False, description="the sequence ends behind these steps")
    step: int | None = Field(None, ge=1, description="index of the first step; sent again, it is taken once")
    epoch: int | None = Field(None, ge=0, description="the session's epoch")
    create: bool = Field(False, description="of a fleet step: open a session under each name that has none")
    timeout: int = Field(0, ge=0, description="µs the request may wait for its turn")
    priority: int = Field(0, ge=0, description="must be 0")
    binary_data_output: bool = Field(False, description="all outputs in binary, unless one says otherwise")


class InferRequest(_Open):
    """One or more steps of one sequence, of many, or whole sequences of a model that carries no state."""

    id: str = Field("", description="what the client calls it; sent again as a sequence's last, it is taken once")
    parameters: InferParameters | None = None
    inputs: list[RequestInput]
    outputs: list[RequestOutput] | None = None


class ResponseOutput(_Open):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, _Scalar] | None = Field(None, description="`binary_data_size`: bytes of it behind the head")
    data: list[Any] | None = Field(None, description="its elements, flat, where they are not in binary")


class InferResponse(_Open):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, _Scalar] | None = Field(None, description="`step`: index of the last one; `replayed`")
    outputs: list[ResponseOutput]


class IndexRequest(_Open):
    ready: bool = Field(False, description="list only models that are ready")


class IndexedModel(_Open):
    name: str
    version: str
    state: Literal["READY", "UNLOADING", "UNAVAILABLE"]
    reason: str


class ControlRequest(_Open):
    parameters: dict[str, Any] | None = None


class StatisticsAnswer(_Open):
    model_stats: list[dict[str, Any]]
