"""Errors as the protocol's clients expect them: `{"error": text}`, with the service's codes and details beside it.

Where Triton has a message for a situation, it is repeated here word for word, as programs compare it.
"""

from collections.abc import Sequence

import orjson

from service.api.request import Reply, error_reply, json_reply
from service.errors import MethodNotAllowed, NotFound, ServiceError

_STATUS = {410: 400, 415: 501, 422: 400, 429: 503}
"""HTTP statuses that the protocol's clients do not know, and the ones that are sent instead."""


def oip_reply(error: ServiceError) -> Reply:
    """Return the response for an error."""
    text = error.message
    if isinstance(error, NotFound):
        text = "Not Found"
    elif isinstance(error, MethodNotAllowed):
        text = "Method Not Allowed"
    body = {"error": text, "code": error.code, **error.details, "retryable": error.retry_after is not None}
    status, headers, _ = error_reply(error)
    if error.status == 415:
        headers.append((b"accept-encoding", b"gzip, deflate"))
    return _STATUS.get(status, status), headers, orjson.dumps(body)


def not_ready(what: str) -> Reply:
    """Return the response of a health check that fails."""
    return json_reply(orjson.dumps({"error": f"{what} not ready", "code": "not_ready", "retryable": True}), 400)


class InvalidRequest(ServiceError):
    """A request that is not valid by the protocol, or for the model."""

    code, status = "invalid_input", 400


class UnknownModel(ServiceError):
    code, status = "model_not_found", 404

    def __init__(self, name: str, version: str | None = None) -> None:
        shown = name if len(name) <= 128 and name.isprintable() else "?"
        of_version = f" version {version[:20]}" if version is not None else ""
        super().__init__(f"Request for unknown model: '{shown}'{of_version} is not found")


class NoSequence(InvalidRequest):
    code = "sequence_id_missing"

    def __init__(self, model: str) -> None:
        super().__init__(f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID")


class UnexpectedInput(InvalidRequest):
    def __init__(self, name: str, model: str) -> None:
        super().__init__(f"unexpected inference input '{name[:128]}' for model '{model}'")


class UnexpectedOutput(InvalidRequest):
    def __init__(self, name: str, model: str) -> None:
        super().__init__(f"unexpected inference output '{name[:128]}' for model '{model}'")


class MissingInputs(InvalidRequest):
    def __init__(self, model: str, expected: Sequence[str], got: Sequence[str]) -> None:
        missing = [name for name in expected if name not in got]
        super().__init__(
            f"expected {len(expected)} inputs but got {len(got)} inputs for model '{model}'. Got input(s) "
            f"{_quoted(got)}, but missing required input(s) {_quoted(missing)}. Please provide all required input(s)."
        )


class WrongDatatype(InvalidRequest):
    def __init__(self, name: str, model: str, expected: str, got: str) -> None:
        super().__init__(
            f"inference input '{name}' data-type is '{got[:32]}', but model '{model}' expects '{expected}'"
        )


class WrongShape(InvalidRequest):
    def __init__(self, name: str, model: str, expected: Sequence[int], got: Sequence[int]) -> None:
        super().__init__(
            f"unexpected shape for input '{name}' for model '{model}'. Expected {_dims(expected)}, got {_dims(got)}",
            expected=list(expected),
            got=list(got),
        )


class TooFewBytes(InvalidRequest):
    def __init__(self, name: str, model: str, missing: int) -> None:
        super().__init__(
            f"unexpected size for input '{name}', expecting {missing} additional bytes for model '{model}'"
        )


class TooManyBytes(InvalidRequest):
    def __init__(self, model: str) -> None:
        super().__init__(f"unexpected additional input data for model '{model}'")


class WrongSize(InvalidRequest):
    def __init__(self, name: str, model: str, expected: int, got: int) -> None:
        super().__init__(
            f"input byte size mismatch for input '{name}' for model '{model}'. Expected {expected}, got {got}"
        )


class NeedsBinary(InvalidRequest):
    def __init__(self, datatype: str, what: str, name: str) -> None:
        super().__init__(
            f"sending {datatype} data via JSON is not supported. Please use the binary data format for {what} '{name}'"
        )


class Unsupported(ServiceError):
    """A feature of the protocol or of Triton that this service does not have."""

    code, status = "unsupported", 501

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is not supported", what=what)


class Refused(InvalidRequest):
    """A parameter that is not allowed in this request."""

    code = "parameter_refused"

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(f"parameter '{parameter[:128]}' {why}", parameter=parameter[:128])


def _quoted(names: Sequence[str]) -> str:
    return "[" + ",".join(f"'{name[:128]}'" for name in names[:16]) + "]"


def _dims(dims: Sequence[int]) -> str:
    return "[" + ",".join(map(str, dims[:16])) + "]"
