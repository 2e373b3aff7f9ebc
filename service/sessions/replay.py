"""Caches to answer repeated requests: bounded maps of session creations and of final responses."""

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
    """A map that is limited in the number, the bytes and the age of its values, and drops the oldest value first.

    The age of a value is counted from its `put`; reading does not renew it. `put` drops values beyond the limits,
    `expire` those that are too old; these can be read until then. Each method takes constant time on average.

    `_kept` has (time of expiry, value) by key, the oldest first; the times never decrease, as all values may become
    equally old. `_bytes` is the sum of `size` over all values.
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
        """Create an empty map of at most `most` values and `most_bytes` bytes, each kept for `seconds`.

        `size` returns the bytes of a value. `dropped` is called with each key and value that a limit or its age
        removes, but not with those that are popped or replaced.
        """
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
        """Store a value as the newest, instead of the key's present value; drop the oldest beyond the limits."""
        self.pop(key)
        self._kept[key] = (self._clock() + self._seconds, value)
        self._bytes += self._size(value)
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._drop_oldest()

    def pop(self, key: K) -> V | None:
        """Remove the value of a key and return it, None where there is none."""
        kept = self._kept.pop(key, None)
        if kept is None:
            return None
        self._bytes -= self._size(kept[1])
        return kept[1]

    def expire(self) -> None:
        """Drop the values that are too old."""
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
    """The sessions that were opened with an Idempotency-Key: the last 100,000, each for an hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._opened: ExpiringMap[tuple[str, str, bytes], _Creation] = ExpiringMap(
            MOST_CREATIONS, CREATION_SECONDS, clock=clock
        )

    def recall(self, tenant: str, what: str, key: bytes, body: bytes) -> str | None:
        """Return the id of the session that the tenant opened with this key for the model or session `what`, else None.

        Raises:
            InvalidInput: The key is not 1 to 128 visible characters.
            IdempotencyConflict: The key was used with another body.
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
        """Store which session was opened with a key."""
        self._opened.put((tenant, what, key), _Creation(session_id, digest((body,))))

    def forget(self, tenant: str, what: str, key: bytes) -> None:
        """Remove a key whose session could not be opened after all."""
        self._opened.pop((tenant, what, key))


RequestIdentity = tuple[str, int, int]
"""What identifies a request that is sent again: its name, its step number and its digest."""


class FinalResponse(NamedTuple):
    """The raw outputs of the request that ended a sequence, the version that ran it, and the request's identity."""

    session_id: str
    model: ServedModel
    request: RequestIdentity
    outputs: bytes
    steps: int
    last_step: int


class FinalResponses:
    """Cache of the final responses of sequences, to replay the request that ended one.

    `_kept` has by (tenant, model, name) at most 20,000 responses with together 16 MiB of outputs, each for 15 minutes.
    A response is returned only until another sequence of the name ends, and until its version is retired.
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
        """Store the response to a chunk that ended its sequence."""
        self._kept.expire()
        response = FinalResponse(
            session.id, session.model, request, raw_outputs(chunk.outputs), chunk.steps, chunk.last_step
        )
        self._kept.put((session.tenant, session.model.name, name), response)

    def find(self, tenant: str, model: str, name: str, last: str | None) -> FinalResponse | None:
        """Return the final response of a sequence; `last` is the id of the last session of its name that ended."""
        self._kept.expire()
        key = (tenant, model, name)
        response = self._kept.get(key)
        if response is not None and (response.model.retired or last != response.session_id):
            self._kept.pop(key)
            return None
        return response
