"""Everything that can go wrong: one base, and a subclass for each thing a caller can act on.

A subclass with a `code` stands for the service's error of that code. Codes that nobody can act on differently are
raised as the base, or as `Unavailable` where it is worth trying again later.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar


class CellstreamError(Exception):
    """Base of all errors: the service's `code`, HTTP `status` (0 where there was no answer), and `details`."""

    codes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, code: str, message: str, status: int = 0, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.details = dict(details or {})


class Unavailable(CellstreamError):
    """The service did not answer, or has no room just now; the same call can be made again later.

    `maybe_taken` tells whether the request can have taken effect all the same. Steps, which are numbered, and rewinds,
    which name their epoch, may be made again even then.
    """

    codes = ("table_full", "session_busy", "queue_full", "deadline_exceeded", "shutting_down", "request_timeout")

    maybe_taken: bool = False
    retry_after: float | None = None
    """Seconds that the service asks to wait."""


class InvalidInput(CellstreamError):
    """What was sent is not what the model's card asks for; `details` may say `where`, `expected` and `got`."""

    codes = ("invalid_input", "malformed_json", "body_too_large")


class StateNotFinite(CellstreamError):
    """The step would have made the state infinite or NaN; it was not taken."""

    codes = ("state_not_finite",)


class Unauthorized(CellstreamError):
    """The service wants another API key."""

    codes = ("unauthorized",)


class ModelNotFound(CellstreamError):
    """No such model is served."""

    codes = ("model_not_found",)


class SessionNotFound(CellstreamError):
    """No session of this id, or not this key's."""

    codes = ("session_not_found",)


class SessionGone(CellstreamError):
    """The session was there once; its state is not."""

    @property
    def last_step(self) -> int | None:
        """How far it came, where that is known."""
        step: int | None = self.details.get("last_step")
        return step


class SessionExpired(SessionGone):
    """It was idle for longer than its idle limit."""

    codes = ("session_expired",)


class SessionClosed(SessionGone):
    """It was closed."""

    codes = ("session_closed",)


class SessionLost(SessionGone):
    """The process that held it is gone."""

    codes = ("session_lost",)


class ModelReplaced(SessionGone):
    """Another version took the place of the session's model."""

    codes = ("model_replaced",)


class StepOutOfOrder(CellstreamError):
    """The session does not stand where this client thinks; nothing was taken. `Client.session` asks anew."""

    @property
    def expected_step(self) -> int | None:
        """The number that the next step would have."""
        step: int | None = self.details.get("expected_step")
        return step


class StepConflict(StepOutOfOrder):
    """This step was taken already, with other inputs."""

    codes = ("step_conflict",)


class StepTooOld(StepOutOfOrder):
    """This step was taken already, and others after it."""

    codes = ("step_too_old",)


class StepGap(StepOutOfOrder):
    """Steps before this one are missing."""

    codes = ("step_gap",)


class EpochConflict(CellstreamError):
    """Somebody else rewound the session or put another state into it. `Client.session` asks anew."""

    codes = ("epoch_conflict",)


class RewindTooFar(CellstreamError):
    """Fewer requests are kept than should be taken back."""

    codes = ("rewind_too_far",)

    @property
    def kept(self) -> int | None:
        """How many requests can be taken back."""
        kept: int | None = self.details.get("kept")
        return kept


class SessionInUse(CellstreamError):
    """A step is under way, so the state cannot be exchanged now."""

    codes = ("session_in_use",)


class StreamTaken(CellstreamError):
    """Another socket streams the session."""

    codes = ("stream_taken",)


class SnapshotRefused(CellstreamError):
    """The snapshot is damaged, or of another model."""

    codes = ("snapshot_corrupt", "snapshot_mismatch", "snapshot_unsupported")


def unreachable(cause: Exception, *, sent: bool) -> Unavailable:
    """Return the error for a request that got no answer; `sent` tells whether it may have reached the service."""
    error = Unavailable("unreachable", str(cause) or type(cause).__name__)
    error.maybe_taken = sent
    return error


def answered(status: int, body: bytes | str, retry_after: str | None = None) -> CellstreamError:
    """Return the error that an answer stands for: the service's own, or that of a proxy before it."""
    try:
        details = json.loads(body)
        code, message = str(details.pop("code")), str(details.pop("message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return _of_a_proxy(status, retry_after)
    kind = _KINDS.get(code) or (Unavailable if status in (408, 429, 503) else CellstreamError)
    error = kind(code, message, status, details)
    if isinstance(error, Unavailable):
        error.retry_after = _seconds(retry_after)
    return error


def closed(code: int, reason: str) -> CellstreamError:
    """Return the error that the end of a WebSocket stands for: the service names its own in the reason."""
    if 4400 <= code < 4500:
        return (_KINDS.get(reason) or CellstreamError)(reason or "closed", "the service ended the stream", code - 4000)
    error = Unavailable("unreachable", f"the stream ended with {code} {reason}".rstrip())
    error.maybe_taken = True
    return error


def _of_a_proxy(status: int, retry_after: str | None) -> CellstreamError:
    message = f"an answer of status {status} that is not the service's"
    if status not in (408, 429, 502, 503, 504):
        return CellstreamError("unknown", message, status)
    error = Unavailable("unreachable", message, status)
    error.maybe_taken = status in (502, 503, 504)  # what stands behind the proxy may have had it
    error.retry_after = _seconds(retry_after)
    return error


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None


def _below(kind: type[CellstreamError]) -> Iterator[type[CellstreamError]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


_KINDS = {code: kind for kind in _below(CellstreamError) for code in kind.codes}
