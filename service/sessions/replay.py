"""What is kept of requests that were answered, to answer the same request again: bounded in number, bytes and time."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from service.engine.chunk import Chunk
from service.engine.digest import digest
from service.engine.outputs import raw_outputs
from service.errors import IdempotencyConflict, InvalidInput
from service.repository.served_model import ServedModel
from service.sessions.session import Session

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST_CREATIONS, CREATION_SECONDS = 100_000, 3600.0
MOST_RESPONSES, MOST_RESPONSE_BYTES, RESPONSE_SECONDS = 20_000, 16 << 20, 900.0
_KEY_LENGTH = 128


class ExpiringMap(Generic[K, V]):
    """Values by key, at most so many, of at most so many bytes, each for so many seconds; the oldest goes first.

    A value is as old as its `put`: reading does not renew it. Values over a limit go within `put`; those whose time is
    over go in `expire`, and can be read until then. Each method takes constant time on average.

    `_kept` has (time of expiry, value) by key, the oldest first: as all stay equally long, times never fall.
    `_bytes` is the sum of `size` over all values.
    """

    def __init__(
        self,
        most: int,
        seconds: float = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_bytes: float = math.inf,
        size: Callable[[V], int] = lambda _: 0,
        dropped: Callable[[K, V], None] = lambda _key, _value: None,
    ) -> None:
        """Make an empty map; `dropped` is told of each value that goes by a limit or its time, not of those popped."""
        self._most, self._seconds, self._most_bytes = most, seconds, most_bytes
        self._clock, self._size, self._dropped = clock, size, dropped
        self._kept: OrderedDict[K, tuple[float, V]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<ExpiringMap {len(self._kept)} values of {self._bytes} bytes>"

    def get(self, key: K) -> V | None:
        """Return the value of a key, None where there is none."""
        kept = self._kept.get(key)
        return kept[1] if kept is not None else None

    def put(self, key: K, value: V) -> None:
        """Keep a value as the newest, instead of the one that the key had; drop the oldest ones over the limits."""
        self.pop(key)
        self._kept[key] = (self._clock() + self._seconds, value)
        self._bytes += self._size(value)
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._drop_oldest()

    def pop(self, key: K) -> V | None:
        """Take out the value of a key and return it, None where there is none."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        self._bytes -= self._size(kept[1])
        return kept[1]

    def expire(self) -> None:
        """Drop the values whose time is over."""
        now = self._clock()
        while self._kept and next(iter(self._kept.values()))[0] <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        key, (_, value) = self._kept.popitem(last=False)
        self._bytes -= self._size(value)
        self._dropped(key, value)


class _Creation(NamedTuple):
    session_id: str
    content: int
    """The digest of the request's body."""


class Creations:
    """Which session each Idempotency-Key opened: the last 100,000, for an hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._opened: ExpiringMap[tuple[str, str, bytes], _Creation] = ExpiringMap(
            MOST_CREATIONS, CREATION_SECONDS, clock=clock
        )

    def recall(self, tenant: str, what: str, key: bytes, body: bytes) -> str | None:
        """Return the id of the session that this key of the tenant's opened, if it did.

        Raises:
            InvalidInput: The key is not 1 to 128 visible characters.
            IdempotencyConflict: It was used with another body.
        """
        if not 1 <= len(key) <= _KEY_LENGTH or not all(33 <= byte <= 126 for byte in key):
            raise InvalidInput("Idempotency-Key", f"1 to {_KEY_LENGTH} visible ASCII characters", "another value")
        self._opened.expire()
        known = self._opened.get((tenant, what, key))
        if known is None:
            return None
        if known.content != digest((body,)):
            raise IdempotencyConflict
        return known.session_id

    def remember(self, tenant: str, what: str, key: bytes, body: bytes, session_id: str) -> None:
        """Note that a key has opened a session."""
        self._opened.put((tenant, what, key), _Creation(session_id, digest((body,))))

    def forget(self, tenant: str, what: str, key: bytes) -> None:
        """Note that the session that a key opened came to nothing."""
        self._opened.pop((tenant, what, key))


RequestIdentity = tuple[str, int, int]
"""What a request is recognised by when it is sent again: its name, its step number and its digest."""


class FinalResponse(NamedTuple):
    """The raw outputs of the request that ended a sequence, which version gave them, and how to recognise it."""

    session_id: str
    model: ServedModel
    request: RequestIdentity
    outputs: bytes
    steps: int
    last_step: int


class FinalResponses:
    """The final responses of ended sequences, to replay a request that ended one: 20,000 of 16 MiB, for 15 minutes.

    A response is of use only while no other sequence of that name has begun, and its version of the model is served.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._kept: ExpiringMap[tuple[str, str, str], FinalResponse] = ExpiringMap(
            MOST_RESPONSES,
            RESPONSE_SECONDS,
            clock=clock,
            most_bytes=MOST_RESPONSE_BYTES,
            size=lambda response: len(response.outputs),
        )

    def remember(self, session: Session, name: str, request: RequestIdentity, chunk: Chunk) -> None:
        """Keep the response to a chunk that ended its sequence."""
        self._kept.expire()
        response = FinalResponse(
            session.id, session.model, request, raw_outputs(chunk.outputs), chunk.steps, chunk.last_step
        )
        self._kept.put((session.tenant, session.model.name, name), response)

    def find(self, tenant: str, model: str, name: str, last: str | None) -> FinalResponse | None:
        """Return the final response of the sequence of a name, whose session with the id `last` ended as the latest."""
        self._kept.expire()
        key = (tenant, model, name)
        response = self._kept.get(key)
        if response is not None and (response.model.retired or last != response.session_id):
            self._kept.pop(key)
            return None
        return response
