"""Idempotency keys: a creation that is sent again gives the session that it gave before."""

from collections import OrderedDict
from collections.abc import Callable

from service.errors import IdempotencyConflict, InvalidInput

_MOST = 100_000
_SECONDS = 3600.0
_LENGTH = 128


class Creations:
    """Which session each key opened: the last 100,000, for an hour."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._opened: OrderedDict[tuple[str, str, bytes], tuple[str, int, float]] = OrderedDict()

    def recall(self, tenant: str, what: str, key: bytes, body: bytes) -> str | None:
        """Return the id of the session that this key of the tenant's opened, if it did.

        Raises:
            InvalidInput: The key is not 1 to 128 visible characters.
            IdempotencyConflict: It was used with another body.
        """
        if not 1 <= len(key) <= _LENGTH or not all(33 <= byte <= 126 for byte in key):
            raise InvalidInput("Idempotency-Key", f"1 to {_LENGTH} visible ASCII characters", "another value")
        now = self._clock()
        while self._opened:
            first, (_, _, at) = next(iter(self._opened.items()))
            if at + _SECONDS > now:
                break
            del self._opened[first]
        known = self._opened.get((tenant, what, key))
        if known is None:
            return None
        session_id, content, _ = known
        if content != hash(body):
            raise IdempotencyConflict
        return session_id

    def remember(self, tenant: str, what: str, key: bytes, body: bytes, session_id: str) -> None:
        """Note that a key has opened a session."""
        self._opened[tenant, what, key] = (session_id, hash(body), self._clock())
        if len(self._opened) > _MOST:
            self._opened.popitem(last=False)

    def forget(self, tenant: str, what: str, key: bytes) -> None:
        """Note that what a key opened came to nothing."""
        self._opened.pop((tenant, what, key), None)
