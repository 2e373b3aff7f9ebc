"""Templates: what a request says beside its numbers, remembered, as a client says it again with every step.

A request in the middle of a sequence differs from the one before it only in its numbers. So it is read by what stands
around them: where those bytes are known, only the numbers are. That is no guess: a body whose array is exchanged for
another whole JSON array reads as it did, but for that array; and a head of the same bytes is the same head.
"""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import orjson

from service.codec import Codec

if TYPE_CHECKING:
    from service.oip.wishes import Wish

_MOST = 8192
_KEY = b'"data":['


class Templates:
    """The requests of one model that were read before and bring one step, by the bytes around their numbers.

    Requests that have an id, a step number or a flag do not come again, and are not remembered.
    """

    def __init__(self, codec: Codec, pack_step: Callable[..., bytes] | None) -> None:
        self._is_raw_step, self._pack_step = codec.is_raw_step, pack_step
        self._known: dict[tuple[bytes, bytes], Wish] = {}

    def learn(self, wish: "Wish", head: bytes, tail: bytes) -> None:
        """Remember a request that was found to be good and to bring one step."""
        if wish.id or wish.start or wish.end or wish.number:
            return
        if tail:
            key = head, b""
        elif head.count(b'"data"') == 1:
            start, end = _numbers(head)
            key = head[:start], head[end:]
        else:
            return
        if len(self._known) >= _MOST:
            del self._known[next(iter(self._known))]
        self._known[key] = wish

    def read(self, body: bytes, length: bytes | None) -> "tuple[Wish, bytes] | None":
        """Return what a request asks for, and its one step as raw bytes, where it is known; else None."""
        if length is not None:
            if not length.isdigit() or len(length) > 12:
                return None
            size = int(length)
            wish = self._known.get((body[:size], b""))
            if wish is None:
                return None
            raw = body[size:]
            return (wish, raw) if self._is_raw_step(raw) else None
        start, end = _numbers(body)
        wish = self._known.get((body[:start], body[end:]))
        if wish is None or self._pack_step is None:
            return None
        text = body[start:end]
        if b"u" in text or b"f" in text:  # true and false would pack as numbers
            return None
        try:
            return wish, self._pack_step(*orjson.loads(text))
        except (orjson.JSONDecodeError, TypeError, struct.error, OverflowError):
            return None


def _numbers(body: bytes) -> tuple[int, int]:
    """Return where the first array that is called data begins and ends, if it has no arrays in it."""
    start = body.find(_KEY) + len(_KEY) - 1
    return start, body.find(b"]", start) + 1
