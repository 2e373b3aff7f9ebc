"""Farewells: the last answers of sequences that ended, for those who did not hear them."""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple
from weakref import ref

from service.engine.work import Chunk
from service.repository.repository import ServedModel
from service.sessions.session import Session

Decode = Callable[[ServedModel], Chunk]
"""Reads a request's steps as a version of the model takes them."""

_MOST, _MOST_BYTES, _SECONDS = 20_000, 16 << 20, 900.0


class Taken(NamedTuple):
    """A chunk that was taken, and the version of the model that took it."""

    model: ServedModel
    chunk: Chunk


class _Ended(NamedTuple):
    """The last answer of a sequence that ended, raw, and the request that it was for."""

    session_id: str
    model: ref[ServedModel]
    request: tuple[str, int, int]
    answer: bytes
    steps: int
    last_step: int
    at: float


class Farewells:
    """The last answers of ended sequences, for those who did not hear them: bounded in number, bytes and time.

    One is of use only while no other sequence of that name has begun.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ended: OrderedDict[tuple[str, str, str], _Ended] = OrderedDict()
        self._bytes = 0

    def remember(self, session: Session, name: str, chunk: Chunk) -> None:
        """Keep the answer of a chunk that ended its sequence."""
        key = (session.tenant, session.model.name, name)
        self._forget(key)
        answer, now = chunk.raw_outputs(), self._clock()
        self._ended[key] = _Ended(
            session.id, ref(session.model), request_of(chunk), answer, chunk.steps, chunk.last_step, now
        )
        self._bytes += len(answer)
        while self._bytes > _MOST_BYTES or len(self._ended) > _MOST or self._oldest().at + _SECONDS < now:
            self._forget(next(iter(self._ended)))

    def replayed(self, tenant: str, model: str, name: str, last: str | None, decode: Decode) -> Taken | None:
        """Return the answer that was given to the same request before, if it was.

        `last` is the id of the last session of that name that ended.
        """
        ended = self._ended.get((tenant, model, name))
        if ended is None:
            return None
        served = ended.model()
        if served is None or served.retired or last != ended.session_id or ended.at + _SECONDS < self._clock():
            self._forget((tenant, model, name))
            return None
        chunk = decode(served)
        if request_of(chunk) != ended.request:
            return None
        chunk.results = [(served.codec.stored(ended.answer, ended.steps), 0, ended.steps)]
        chunk.last_step, chunk.replayed = ended.last_step, True
        return Taken(served, chunk)

    def _oldest(self) -> _Ended:
        return next(iter(self._ended.values()))

    def _forget(self, key: tuple[str, str, str]) -> None:
        ended = self._ended.pop(key, None)
        if ended is not None:
            self._bytes -= len(ended.answer)


def request_of(chunk: Chunk) -> tuple[str, int, int]:
    """Return what a request is known again by: its name, its number and its content."""
    return chunk.request, chunk.number, chunk.content()
