"""The gate: what every operation passes, whichever way its request came.

The hot lane and the FastAPI routes both call `Gate.run`, so that keys, errors, counts and request ids are one and
the same, and the answers equal to the byte.
"""

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any

import orjson
import structlog

from service.api.auth import Authenticator
from service.errors import BodyTooLarge, ClientGone, InternalError, ServiceError, Unauthorized, UnsupportedEncoding
from service.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, Headers, bytes]
"""Status, headers, body."""

REQUEST_ID = b"x-request-id"
JSON = (b"content-type", b"application/json")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")

_log = structlog.get_logger()


class Call:
    """One request on its way to an operation. `argument` is the id or name in its path."""

    __slots__ = ("argument", "headers", "query", "receive", "tenant")

    def __init__(self, tenant: str, argument: str, headers: dict[bytes, bytes], query: bytes, receive: Receive) -> None:
        self.tenant, self.argument, self.headers, self.query, self.receive = tenant, argument, headers, query, receive

    def body(self, limit: int) -> Awaitable[bytes]:
        """Receive the whole body; bytes are counted as they come.

        Raises:
            BodyTooLarge, UnsupportedEncoding: It has more bytes than `limit`, or is compressed.
            ClientGone: The client closed the connection.
        """
        if b"content-encoding" in self.headers:
            raise UnsupportedEncoding
        return self.encoded_body(limit)

    async def encoded_body(self, limit: int) -> bytes:
        """Receive the body as it was sent, in whatever encoding; likewise."""
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            length = self.headers.get(b"content-length", b"0")
            if not length.isdigit() or int(length) > limit:
                raise BodyTooLarge(limit)
            body = await self._rest(body, limit)
        elif message["type"] == "http.disconnect":
            raise ClientGone
        if len(body) > limit:
            raise BodyTooLarge(limit)
        return body

    async def _rest(self, body: bytes, limit: int) -> bytes:
        parts, size, more = [body], len(body), True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise BodyTooLarge(limit)
            more = message.get("more_body", False)
        return b"".join(parts)


Operation = Callable[[Call], Awaitable[Reply]]


class Gate:
    """Finds the tenant, runs the operation, turns errors into answers, counts, and names the request."""

    def __init__(self, authenticator: Authenticator, metrics: Metrics, boot: str) -> None:
        self._authenticator, self._metrics = authenticator, metrics
        self._prefix, self._count = boot, count(1)

    async def run(
        self,
        name: str,
        operation: Operation,
        argument: str,
        scope: Scope,
        receive: Receive,
        refusal: "Callable[[ServiceError], Reply] | None" = None,
    ) -> Reply:
        """Answer one HTTP request; raises nothing but ClientGone and cancellation.

        `refusal` gives errors the form of a protocol that has one of its own.
        """
        refusal = refusal or error_reply
        start = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = self.request_id(headers)
        try:
            tenant = self._authenticator.tenant(headers)
            reply = await operation(Call(tenant, argument, headers, scope["query_string"], receive))
        except ServiceError as error:
            reply = refusal(error)
            if error.status == 500:
                _log.warning("request_failed", operation=name, code=error.code, request_id=request_id.decode())
        except ClientGone:
            self._metrics.answered(name, 499, time.perf_counter() - start)
            raise
        except Exception:
            _log.exception("request_failed", operation=name, code=InternalError.code, request_id=request_id.decode())
            reply = refusal(InternalError())
        reply[1].append((REQUEST_ID, request_id))
        self._metrics.answered(name, reply[0], time.perf_counter() - start)
        return reply

    def answered(self, name: str, status: int, start: float) -> None:
        """Count what a stream answered outside of `run`."""
        self._metrics.answered(name, status, time.perf_counter() - start)

    def tenant(self, headers: dict[bytes, bytes]) -> str:
        """Return the tenant of a WebSocket's handshake; raises Unauthorized."""
        return self._authenticator.tenant(headers)

    def request_id(self, headers: dict[bytes, bytes]) -> bytes:
        """Return the client's id for the request where it sent a printable one, else a new one."""
        given = headers.get(REQUEST_ID)
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return b"%b-%x" % (self._prefix.encode(), next(self._count))


def json_reply(body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> Reply:
    """Return a JSON answer."""
    return status, [JSON, *headers], body


def error_reply(error: ServiceError) -> Reply:
    """Return the answer that tells of an error."""
    reply = json_reply(orjson.dumps(error.body()), error.status)
    if error.retry_after is not None:
        reply[1].append((b"retry-after", b"%d" % error.retry_after))
    if isinstance(error, Unauthorized):
        reply[1].append((b"www-authenticate", b"Bearer"))
    return reply
