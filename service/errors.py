"""All errors that a client can receive, each with a code, an HTTP status and a WebSocket close code.

There is a subclass for each error that a client can act on. The message is built here, from typed arguments; `details`
are sent beside it, so that programs need not parse the message.
"""

from enum import StrEnum
from typing import Any, ClassVar, Self


class Role(StrEnum):
    """What a key may do beside what concerns its own tenant; needed only where several tenants have keys."""

    METRICS = "metrics"
    """Read the counts of all tenants."""
    ADMIN = "admin"
    """Load and unload models, which all tenants use."""


class ServiceError(Exception):
    """Base of all errors that are sent to clients. `retry_after` is in seconds."""

    code: ClassVar[str]
    status: ClassVar[int]
    close: ClassVar[int | None] = None
    """WebSocket close code where the error ends a stream; None where the stream continues."""

    def __init__(self, message: str, retry_after: int | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.details = details if retry_after is None else {"retry_after": retry_after, **details}

    def untraced(self) -> Self:
        """Return it without the traceback of where it was raised before: it may be raised for several requests."""
        return self.with_traceback(None)

    def body(self) -> dict[str, Any]:
        """Return the JSON object that is sent."""
        return {"code": self.code, "message": self.message, **self.details}


class Unauthorized(ServiceError):
    code, status, close = "unauthorized", 401, 4401

    def __init__(self) -> None:
        super().__init__("expected a valid API key, as `Authorization: Bearer KEY` or as `X-API-Key: KEY`")


class ForeignOrigin(ServiceError):
    """A request that a web page of another origin sent through a browser to a service without API keys."""

    code, status, close = "foreign_origin", 403, 4403

    def __init__(self, header: str, got: bytes) -> None:
        shown = got[:128].decode("ascii", "replace")
        shown = shown if shown.isprintable() else "another value"
        super().__init__(
            f"a service without API keys answers only requests to this machine and from its own pages: expected the "
            f"{header} to be a loopback or private address, localhost or a name without a dot, got {shown}"
        )


class RoleNeeded(ServiceError):
    """The request shows or changes what concerns all tenants, and several have keys; this key lacks the role."""

    code, status = "role_needed", 403

    def __init__(self, role: Role) -> None:
        what = "shows counts of" if role is Role.METRICS else "changes the models of"
        super().__init__(f"this {what} all tenants: expected an API key with the role {role}", role=role.value)


class MalformedJson(ServiceError):
    code, status = "malformed_json", 400

    def __init__(self, why: str) -> None:
        super().__init__(f"expected a JSON body, but it cannot be read: {why}")


class InvalidInput(ServiceError):
    """A part of the request is not valid, or does not match the model's card."""

    code, status = "invalid_input", 422

    def __init__(self, where: str, expected: str, got: str) -> None:
        super().__init__(f"{where}: expected {expected}, got {got}", where=where, expected=expected, got=got)


class StateNotFinite(ServiceError):
    code, status = "state_not_finite", 422

    def __init__(self) -> None:
        super().__init__("the step would give a state or an output that is not finite; it was not taken")


class BodyTooLarge(ServiceError):
    code, status, close = "body_too_large", 413, 1009

    def __init__(self, limit: int) -> None:
        super().__init__(f"expected a body of at most {limit} bytes, got a larger one", limit=limit)


class HeadTooLarge(ServiceError):
    code, status = "head_too_large", 431

    def __init__(self, limit: int) -> None:
        super().__init__(f"expected a request line and headers of at most {limit} bytes, got more", limit=limit)


class RequestTimeout(ServiceError):
    code, status = "request_timeout", 408

    def __init__(self, seconds: float) -> None:
        super().__init__(f"expected the whole request within {seconds:g} s of its first byte, but it stopped coming")


class MalformedRequest(ServiceError):
    code, status = "malformed_request", 400

    def __init__(self) -> None:
        super().__init__("expected an HTTP/1.1 request, got bytes that are none")


class MalformedHost(ServiceError):
    code, status = "malformed_request", 400

    def __init__(self) -> None:
        super().__init__("expected exactly one Host header, got none or several")


class MalformedHandshake(ServiceError):
    """The request asks for a WebSocket, but is no handshake; it is answered before there is a WebSocket."""

    code, status = "malformed_request", 400

    def __init__(self) -> None:
        super().__init__("expected a WebSocket's handshake, a GET request without a body, got another request")


class HandshakeTooLarge(ServiceError):
    code, status = "head_too_large", 431

    def __init__(self, headers: int, length: int) -> None:
        super().__init__(
            f"expected a WebSocket's handshake of at most {headers} headers, each line of at most {length} bytes",
            headers=headers,
            length=length,
        )


class TooManyConnections(ServiceError):
    code, status = "too_many_connections", 503

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} connections are open already", retry_after=1, limit=limit)


class UnsupportedEncoding(ServiceError):
    code, status = "unsupported_encoding", 415

    def __init__(self, known: str = "") -> None:
        super().__init__(f"expected a body without Content-Encoding{known and f', or in {known}'}")


class ModelNotFound(ServiceError):
    code, status, close = "model_not_found", 404, 4404

    def __init__(self, name: str) -> None:
        shown = name if len(name) <= 128 and name.isprintable() else "of that name"
        super().__init__(f"no model {shown} is served here; GET /v1/models lists those that are")


class ModelNotLoaded(ServiceError):
    """A model that a client asked to load could not be loaded; the log has the cause."""

    code, status = "model_not_loaded", 400

    def __init__(self, name: str, why: str, retry_after: int | None = None) -> None:
        super().__init__(f"failed to load '{name}': {why}", retry_after=retry_after)


class ModelControlOff(ServiceError):
    code, status = "model_control_off", 503

    def __init__(self) -> None:
        super().__init__("explicit model load / unload is not allowed: the service was started without --model-control")


class NotStreamable(ServiceError):
    code, status, close = "not_streamable", 409, 4409

    def __init__(self, name: str) -> None:
        super().__init__(f"the model {name} reads whole sequences and has no sessions: POST /v1/models/{name}/predict")


class SessionNotFound(ServiceError):
    """The session is unknown, or another tenant's: the response is the same."""

    code, status, close = "session_not_found", 404, 4404

    def __init__(self) -> None:
        super().__init__("no session of this id")


class SessionGone(ServiceError):
    """The session existed, and its state is no longer kept."""

    status, close = 410, 4410
    sentence: ClassVar[str]

    def __init__(self, last_step: int | None) -> None:
        super().__init__(self.sentence, last_step=last_step)


class SessionExpired(SessionGone):
    code, sentence = "session_expired", "the session was idle for longer than its idle limit, and its state was let go"


class SessionClosed(SessionGone):
    code, sentence = "session_closed", "the session was deleted"


class SessionLost(SessionGone):
    code = "session_lost"
    sentence = "the session lived in memory, and the process that held it has been restarted since"

    def __init__(self) -> None:
        super().__init__(last_step=None)


class ModelReplaced(SessionGone):
    code, sentence = "model_replaced", "the version of the model that the session ran on is no longer served"


class SequenceNotStarted(ServiceError):
    """There is no sequence with that id; where it is known how the last one ended, the code says so."""

    code, status = "invalid_input", 400

    def __init__(self, sequence: str, model: str, why: ServiceError) -> None:
        super().__init__(
            f"inference request for sequence {sequence} to model '{model}' must specify the START flag on the first "
            f"request of the sequence",
            **{"code": why.code, "reason": why.message, **why.details},
        )


class StepOutOfOrder(ServiceError):
    """A numbered step is not the next one; the session was not advanced."""

    status = 409
    sentence: ClassVar[str]

    def __init__(self, number: int, expected: int) -> None:
        super().__init__(f"{self.sentence}: expected step {expected}, got {number}", expected_step=expected)


class StepConflict(StepOutOfOrder):
    code, sentence = "step_conflict", "this step was taken with other content"


class StepTooOld(StepOutOfOrder):
    code, sentence = "step_too_old", "this step was taken, and its answer is no longer kept"


class StepGap(StepOutOfOrder):
    code, sentence = "step_gap", "steps before this one are missing"


class EpochConflict(ServiceError):
    """The request names another epoch: the session was rewound or restored in between."""

    code, status = "epoch_conflict", 409

    def __init__(self, named: int, epoch: int) -> None:
        super().__init__(f"the session is in epoch {epoch}, the request was meant for epoch {named}", epoch=epoch)


class RewindTooFar(ServiceError):
    code, status = "rewind_too_far", 409

    def __init__(self, requests: int, kept: int) -> None:
        super().__init__(f"expected at most the {kept} requests that are kept, got {requests}", kept=kept)


class SessionInUse(ServiceError):
    code, status = "session_in_use", 409

    def __init__(self) -> None:
        super().__init__("a step of this session is under way; its state can be exchanged when it is answered")


class StreamTaken(ServiceError):
    code, status, close = "stream_taken", 409, 4409

    def __init__(self) -> None:
        super().__init__("another socket streams this session; ?takeover=1 ends that one")


class IdempotencyConflict(ServiceError):
    code, status = "idempotency_conflict", 409

    def __init__(self) -> None:
        super().__init__("the Idempotency-Key was used with another body")


class SnapshotCorrupt(ServiceError):
    code, status = "snapshot_corrupt", 422

    def __init__(self, why: str) -> None:
        super().__init__(f"expected a snapshot as GET …/state gives it: {why}")


class SnapshotMismatch(ServiceError):
    code, status = "snapshot_mismatch", 409

    def __init__(self, where: str, expected: str, got: str) -> None:
        super().__init__(
            f"the snapshot's {where}: expected {expected}, got {got}", where=where, expected=expected, got=got
        )


class SnapshotUnsupported(ServiceError):
    code, status = "snapshot_unsupported", 409

    def __init__(self) -> None:
        super().__init__("states that live on a CUDA device cannot be read or written from outside")


class TableFull(ServiceError):
    code, status, close = "table_full", 429, 4429

    def __init__(self, limit: int) -> None:
        super().__init__(f"all {limit} sessions of this model are taken", retry_after=1, limit=limit)


class TenantFull(ServiceError):
    """The tenant holds as many of the model's sessions as it may, while others have keys too."""

    code, status, close = "tenant_full", 429, 4429

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"your sessions have reached your share of this model's sessions, {limit} at most",
            retry_after=1,
            limit=limit,
        )


class QueueFull(ServiceError):
    code, status = "queue_full", 503

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests are waiting for this model already", retry_after=1, limit=limit)


class TenantBusy(ServiceError):
    """As many requests of the tenant wait for the model as may, while others have keys too."""

    code, status = "tenant_busy", 429

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"your waiting requests have reached your share of this model's queue, {limit} at most",
            retry_after=1,
            limit=limit,
        )


class SessionBusy(ServiceError):
    code, status = "session_busy", 429

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} requests of this session are waiting already", retry_after=1, limit=limit)


class DeadlineExceeded(ServiceError):
    code, status = "deadline_exceeded", 503

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request waited {seconds:g} s for its turn; it was not run", retry_after=1)


class RequestCancelled(ServiceError):
    """The request was cancelled before it was answered; this is recorded, and sent to no client."""

    code, status = "request_cancelled", 499

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class EngineFailed(ServiceError):
    code, status = "engine_failed", 500

    def __init__(self) -> None:
        super().__init__("the model could not be run; no state has changed")


class InternalError(ServiceError):
    """An unexpected error in the service; the log has the cause, the response does not."""

    code, status, close = "internal_error", 500, 1011

    def __init__(self) -> None:
        super().__init__("the service failed to answer; its log has the request id")


class NotFound(ServiceError):
    code, status, close = "not_found", 404, 4404

    def __init__(self) -> None:
        super().__init__("nothing is served at this path; /docs shows what is")


class MethodNotAllowed(ServiceError):
    code, status = "method_not_allowed", 405

    def __init__(self) -> None:
        super().__init__("this path is served, but not with this method; /docs shows which")


class ClientGone(Exception):
    """The client closed the connection before its request was complete, so no response is sent."""


class ShuttingDown(ServiceError):
    code, status, close = "shutting_down", 503, 1012

    def __init__(self) -> None:
        super().__init__("the service is shutting down", retry_after=1)


class RefusedToStart(Exception):
    """The service cannot run as configured; the text is one sentence for the operator."""


class ArtefactRefused(RefusedToStart):
    """A model file is damaged, or does not match its card."""


class InsufficientMemory(RefusedToStart):
    """A newer version does not fit into the state memory until a version that is in memory is closed."""
