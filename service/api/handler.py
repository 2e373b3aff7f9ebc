"""The handler: what every request passes, whichever front received it.

The fast path, the FastAPI routes and each WebSocket frame go through `Handler.run`: keys, limits, errors, counts and
request ids are the same for all, and the replies equal to the byte.
"""

import re
from itertools import count
from time import perf_counter

import structlog

from service.api.auth import Authenticator
from service.api.request import REQUEST_ID, Call, OperationOf, Result
from service.errors import ClientGone, InternalError, ServiceError
from service.metrics import Metrics

_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

_log = structlog.get_logger()


class Handler:
    """Authenticates, receives the body, calls the endpoint, encodes errors as replies, and counts."""

    def __init__(self, authenticator: Authenticator, metrics: Metrics, boot: str) -> None:
        """Take the text that begins the ids of requests that bring none: it differs in every process."""
        self._authenticator, self._metrics = authenticator, metrics
        self._prefix, self._count = boot.encode(), count(1)

    async def run(self, operation: OperationOf[Result], call: Call, body: bytes | None = None) -> Result:
        """Answer one request, or one frame whose `body` is there; raises nothing but ClientGone and cancellation."""
        start = perf_counter()
        try:
            if call.generation != self._authenticator.generation:
                call.request_id = call.request_id or self.request_id(call.headers)
                call.tenant = self._authenticator.tenant(call.headers)
                call.generation = self._authenticator.generation
                if operation.role is not None:
                    self._authenticator.check_role(call.headers, operation.role)
            find = operation.find
            if find is not None:
                call.model = find(call)
            if operation.body_limit is not None and body is None:
                limit = operation.body_limit if operation.check is None else operation.check(call)
                body = await call.body(limit, operation.compressed)
                if find is not None:
                    call.model = find(call)
            result = await operation.endpoint(call, body)
        except ServiceError as error:
            result = operation.refuse(error)
            if error.status == 500:
                _log.warning("request_failed", **_named(operation, call), code=error.code)
        except ClientGone:
            self._metrics.answered(operation.name, 499, perf_counter() - start)
            raise
        except Exception:
            _log.exception("request_failed", **_named(operation, call), code=InternalError.code)
            result = operation.refuse(InternalError())
        self._metrics.answered(operation.name, result[0], perf_counter() - start)
        return result

    def request_id(self, headers: dict[bytes, bytes]) -> bytes:
        """Return the client's id for the request where it sent a printable one, else a new one."""
        given = headers.get(REQUEST_ID)
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return b"%b-%x" % (self._prefix, next(self._count))


def _named(operation: OperationOf[Result], call: Call) -> dict[str, str]:
    """Return what a log line says of a request."""
    return {"operation": operation.name, "request_id": call.request_id.decode()}
