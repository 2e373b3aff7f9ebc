"""Caches to answer repeated requests: bounded maps of session creations and of final responses, fair to all tenants."""

from collections.abc import Callable
from typing import NamedTuple

from service.engine.chunk import Chunk
from service.engine.digest import digest
from service.engine.outputs import raw_outputs
from service.errors import IdempotencyConflict, InvalidInput
from service.repository.served_model import ServedModel
from service.sessions.expiring_map import ExpiringMap
from service.sessions.session import Session

MOST_CREATIONS, CREATION_SECONDS = 100_000, 3600.0
MOST_RESPONSES, MOST_RESPONSE_BYTES, RESPONSE_SECONDS = 20_000, 16 << 20, 900.0
_KEY_LENGTH = 128


class _Creation(NamedTuple):
    session_id: str
    content: int
    """The digest of the request's body."""


class Creations:
    """The sessions that were opened with an Idempotency-Key: 100,000, shared among the tenants, each for an hour.

    `_opened` has them by the model or session that was asked for, and the key.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._opened: ExpiringMap[tuple[str, bytes], _Creation] = ExpiringMap(
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
        known = self._opened.get(tenant, (what, key))
        if known is None:
            return None
        if known.content != digest((body,)):
            raise IdempotencyConflict
        return known.session_id

    def remember(self, tenant: str, what: str, key: bytes, body: bytes, session_id: str) -> None:
        """Store which session was opened with a key."""
        self._opened.put(tenant, (what, key), _Creation(session_id, digest((body,))))

    def forget(self, tenant: str, what: str, key: bytes) -> None:
        """Remove a key whose session could not be opened after all."""
        self._opened.pop(tenant, (what, key))


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

    `_kept` has by tenant and (model, name) at most 20,000 responses with together 16 MiB of outputs, each for 15
    minutes. A response is returned only until another sequence of the name ends, and until its version is retired.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._kept: ExpiringMap[tuple[str, str], FinalResponse] = ExpiringMap(
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
        self._kept.put(session.tenant, (session.model.name, name), response)

    def find(self, tenant: str, model: str, name: str, last: str | None) -> FinalResponse | None:
        """Return the final response of a sequence; `last` is the id of the last session of its name that ended."""
        self._kept.expire()
        response = self._kept.get(tenant, (model, name))
        if response is not None and (response.model.retired or last != response.session_id):
            self._kept.pop(tenant, (model, name))
            return None
        return response
