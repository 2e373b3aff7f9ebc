"""The errors of the client: one base class, and a subclass for each condition that a caller can handle.

The `codes` of a subclass are the error codes of the service that it represents. Any other code is raised as the base
class, or as `Unavailable` if the same request may succeed later.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class CellstreamError(Exception):
    """Base of all errors: the service's `code` and `message`, the HTTP `status` (0 without a response), `details`."""

    codes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, code: str, message: str, status: int = 0, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.details = dict(details or {})


class Unavailable(CellstreamError):
    """The service does not answer, or is at a limit at present; the same call can be made again later.

    `maybe_taken` is true if the request may have taken effect nevertheless. Steps, which are numbered, and rewinds,
    which name their epoch, can be repeated safely even then.
    """

    codes = (
        "table_full",
        "tenant_full",
        "tenant_busy",
        "session_busy",
        "queue_full",
        "deadline_exceeded",
        "shutting_down",
        "request_timeout",
    )

    maybe_taken: bool = False
    retry_after: float | None = None
    """Seconds to wait before the next attempt, as the service says in `Retry-After`."""


class InvalidInput(CellstreamError):
    """The inputs do not match the model card; `details` may contain `where`, `expected` and `got`."""

    codes = ("invalid_input", "malformed_json", "body_too_large")


class StateNotFinite(CellstreamError):
    """The step would make the state infinite or NaN; it was not taken."""

    codes = ("state_not_finite",)


class Unauthorized(CellstreamError):
    """The API key is missing or not valid."""

    codes = ("unauthorized",)


class ModelNotFound(CellstreamError):
    """No such model is served."""

    codes = ("model_not_found",)


class SessionNotFound(CellstreamError):
    """There is no session with this id, or it belongs to another API key."""

    codes = ("session_not_found",)


class SessionGone(CellstreamError):
    """The session has ended, and its state no longer exists."""

    @property
    def last_step(self) -> int | None:
        """Number of steps the session had taken, or None if that is not known."""
        step: int | None = self.details.get("last_step")
        return step


class SessionExpired(SessionGone):
    """The session was idle for longer than its idle limit."""

    codes = ("session_expired",)


class SessionClosed(SessionGone):
    """The session was closed."""

    codes = ("session_closed",)


class SessionLost(SessionGone):
    """The service process that held the session has ended."""

    codes = ("session_lost",)


class ModelReplaced(SessionGone):
    """The session's model was replaced by another version."""

    codes = ("model_replaced",)


class StepOutOfOrder(CellstreamError):
    """The session is not at the step that the client expects; nothing was taken. `Client.session` asks for the step."""

    @property
    def expected_step(self) -> int | None:
        """Number of the session's next step, or None if the service did not send it."""
        step: int | None = self.details.get("expected_step")
        return step


class StepConflict(StepOutOfOrder):
    """This step was already taken with other inputs."""

    codes = ("step_conflict",)


class StepTooOld(StepOutOfOrder):
    """This step was already taken, and others after it."""

    codes = ("step_too_old",)


class StepGap(StepOutOfOrder):
    """Steps before this one have not been taken."""

    codes = ("step_gap",)


class EpochConflict(CellstreamError):
    """Another client has rewound the session or replaced its state. `Client.session` asks for the epoch."""

    codes = ("epoch_conflict",)


class RewindTooFar(CellstreamError):
    """The session keeps fewer requests than were to be rewound."""

    codes = ("rewind_too_far",)

    @property
    def kept(self) -> int | None:
        """Number of requests that can be rewound, or None if the service did not send it."""
        kept: int | None = self.details.get("kept")
        return kept


class SessionInUse(CellstreamError):
    """A step of the session is running, so its state cannot be replaced now."""

    codes = ("session_in_use",)


class StreamTaken(CellstreamError):
    """Another WebSocket streams the session."""

    codes = ("stream_taken",)


class SnapshotRefused(CellstreamError):
    """The snapshot is damaged, or belongs to another model."""

    codes = ("snapshot_corrupt", "snapshot_mismatch", "snapshot_unsupported")


def unreachable(cause: Exception, *, sent: bool) -> Unavailable:
    """Return the error for a request without a response; `sent` is true if it may have reached the service."""
    error = Unavailable("unreachable", str(cause) or type(cause).__name__)
    error.maybe_taken = sent
    return error


def error_of_response(status: int, body: bytes | str, retry_after: str | None = None) -> CellstreamError:
    """Return the error of an HTTP response or JSON frame: the service's own, or that of a proxy in front of it."""
    try:
        details = json.loads(body)
        code, message = str(details.pop("code")), str(details.pop("message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return _proxy_error(status, retry_after)
    kind = _CLASSES.get(code) or (Unavailable if status in (408, 429, 503) else CellstreamError)
    error = kind(code, message, status, details)
    if isinstance(error, Unavailable):
        error.retry_after = _seconds(retry_after)
    return error


def error_of_close(code: int, reason: str) -> CellstreamError:
    """Return the error of a WebSocket close: for codes 4400 to 4499 the reason is the service's error code."""
    if 4400 <= code < 4500:
        return (_CLASSES.get(reason) or CellstreamError)(
            reason or "closed", "the service ended the stream", code - 4000
        )
    error = Unavailable("unreachable", f"the stream ended with {code} {reason}".rstrip())
    error.maybe_taken = True
    return error


def _proxy_error(status: int, retry_after: str | None) -> CellstreamError:
    message = f"a response with status {status} that is not from the service"
    if status not in (408, 429, 502, 503, 504):
        return CellstreamError("unknown", message, status)
    error = Unavailable("unreachable", message, status)
    error.maybe_taken = status in (502, 503, 504)  # the service behind the proxy may have received it
    error.retry_after = _seconds(retry_after)
    return error


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None


def _subclasses(kind: type[CellstreamError]) -> Iterator[type[CellstreamError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _subclasses(child)


_CLASSES = {code: kind for kind in _subclasses(CellstreamError) for code in kind.codes}
