"""What every front shares: requests, replies, operations, ASGI types and header names."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Generic, TypeVar

import orjson

from service.errors import BodyTooLarge, ClientGone, Role, ServiceError, Unauthorized, UnsupportedEncoding
from service.repository.served_model import ServedModel

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
Reply = tuple[int, Headers, bytes]
"""Status, headers, body."""

JSON = b"application/json"
OCTETS = b"application/octet-stream"
"""The content type of raw little-endian tensors, in the card's dtype, row-major (steps, *shape)."""
CONTENT_TYPE = b"content-type"
REQUEST_ID = b"x-request-id"
STEP = b"x-step"
"""The header of a raw request that numbers its first step, and of a raw reply that numbers its last one."""
EPOCH = b"x-epoch"
REPLAYED = b"x-replayed"
IDEMPOTENCY_KEY = b"idempotency-key"


class Call:
    """One request: what its head says, and how to receive its body.

    `argument` is the id or the name in its path. The handler sets `request_id`, and `tenant` once it is authenticated,
    with the keys of a `generation`: the frames of a WebSocket are authenticated again when the keys were read again.
    `model` is the served model that the operation finds for the path, if it finds one.
    """

    __slots__ = ("argument", "generation", "headers", "model", "query", "receive", "request_id", "tenant")

    model: ServedModel

    def __init__(self, argument: str, scope: Scope, receive: Receive) -> None:
        """Take what the path names, and the ASGI scope of the request or handshake."""
        self.argument, self.receive = argument, receive
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.query: bytes = scope["query_string"]
        self.request_id, self.tenant, self.generation = b"", "", -1

    async def body(self, limit: int, compressed: bool = False) -> bytes:
        """Receive the whole body, as it was sent; its bytes are counted as they come.

        Raises:
            BodyTooLarge: It has more than `limit` bytes.
            UnsupportedEncoding: It has a content encoding, and may not be `compressed`.
            ClientGone: The client closed the connection.
        """
        if not compressed and b"content-encoding" in self.headers:
            raise UnsupportedEncoding
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            length = self.headers.get(b"content-length", b"0").lstrip(b"0")
            if length and (not length.isdigit() or len(length) > 18 or int(length) > limit):
                raise BodyTooLarge(limit)
            body = await self._rest(body, int(length or b"0"), limit)
        elif message["type"] == "http.disconnect":
            raise ClientGone
        if len(body) > limit:
            raise BodyTooLarge(limit)
        return body

    async def _rest(self, body: bytes, expected: int, limit: int) -> bytes:
        """Receive the rest of a body, which has the `expected` number of bytes, or 0 where that is not known."""
        received, size, more = BytesIO(bytes(expected)), len(body), True  # neither grows it nor gives a copy at the end
        received.write(body)
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            size += received.write(message.get("body", b""))
            if size > limit:
                raise BodyTooLarge(limit)
            more = message.get("more_body", False)
        received.truncate()
        return received.getvalue()


Result = TypeVar("Result", bound=tuple[Any, ...])
"""What an operation gives: a tuple that begins with the HTTP status."""


def json_reply(body: bytes, status: int = 200, *headers: tuple[bytes, bytes]) -> Reply:
    """Return a reply with a JSON body."""
    return status, [(CONTENT_TYPE, JSON), *headers], body


def error_reply(error: ServiceError) -> Reply:
    """Return the reply that tells of an error."""
    reply = json_reply(orjson.dumps(error.body()), error.status)
    if error.retry_after is not None:
        reply[1].append((b"retry-after", b"%d" % error.retry_after))
    if isinstance(error, Unauthorized):
        reply[1].append((b"www-authenticate", b"Bearer"))
    return reply


@dataclass(frozen=True, slots=True)
class OperationOf(Generic[Result]):
    """Something that a client can ask for, under the name that metrics and logs call it.

    `endpoint` takes the call and its body. The body is received unless `body_limit`, in bytes, is None; it may be
    `compressed` only where the endpoint decompresses it. `find` returns the model that the path names: it is called
    before the body is received, so that an unknown one is refused at once, and again when it is there, as a newer
    version may have taken its place. `check` looks at the call before its body is received, and returns the limit
    where that depends on the call. `refuse` encodes errors as this client expects them. A
    key needs the `role`, if there is one, where several tenants have keys.
    """

    name: str
    endpoint: Callable[[Call, Any], Awaitable[Result]]
    refuse: Callable[[ServiceError], Result]
    body_limit: int | None = None
    check: Callable[[Call], int] | None = None
    find: Callable[[Call], ServedModel] | None = None
    compressed: bool = False
    role: Role | None = None


Operation = OperationOf[Reply]
Endpoint = Callable[[Call, bytes], Awaitable[Reply]]


def operation(
    name: str,
    endpoint: Endpoint,
    body_limit: int | None = None,
    check: Callable[[Call], int] | None = None,
    find: Callable[[Call], ServedModel] | None = None,
) -> Operation:
    """Return an operation whose errors are the usual JSON objects."""
    return OperationOf(name, endpoint, error_reply, body_limit, check, find)
