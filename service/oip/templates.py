"""Templates: what a request says beside its numbers, remembered, as a client says it again with every step.

A request in the middle of a sequence differs from the one before it only in its numbers. So it is read by what stands
around them: where those bytes are known, only the numbers are. That is no guess: what stands around them is remembered
only where a body with another array there, and another id, has been seen to read the same but for these.
"""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from service.codec.codec import Codec, load_json
from service.errors import MalformedJson
from service.sessions.replay import ExpiringMap

if TYPE_CHECKING:
    from service.oip.parameters import Wish

_MOST = 8192
_LONGEST = 2048
"""Most bytes around the numbers of a request that is remembered."""
_KEYS = b'"data":[', b'"data": ['
_ID = b'{"id":"'
_PROBE = b'["another"]'


class Templates:
    """The requests of one model that were read before and bring one step, by the bytes around their numbers.

    Their id, where it is the first thing that they say, may be another every time. Requests with a step number or a
    flag do not come again, and are not remembered.
    """

    def __init__(self, codec: Codec, pack_step: Callable[..., bytes] | None) -> None:
        self._is_raw_step, self._pack_step = codec.is_raw_step, pack_step
        self._known: ExpiringMap[tuple[bytes, bytes], Wish] = ExpiringMap(_MOST)

    def learn(self, wish: "Wish", fields: dict[str, Any], head: bytes, tail: bytes) -> None:
        """Remember a request of one input that was found to be good and to bring one step."""
        request_id, rest = _without_id(head)
        if wish.start or wish.end or wish.number or wish.id != request_id or rest[:1] != b"{":
            return
        start, end = (len(rest), len(rest)) if tail else _numbers(rest)
        key = rest[:start], rest[end:]
        if not start or len(key[0]) + len(key[1]) > _LONGEST:
            return
        (tensor,) = fields["inputs"]
        probe = b'{"id":"another",%b%b%b' % (key[0][1:], b"" if tail else _PROBE, key[1])
        if not tail:
            tensor = tensor | {"data": ["another"]}
        try:
            if load_json(probe) != fields | {"id": "another", "inputs": [tensor]}:
                return
        except MalformedJson:  # what was found is a part of an array
            return
        self._known.put(key, wish)

    def read(self, body: bytes, length: bytes | None) -> "tuple[Wish, bytes, str] | None":
        """Return what a request asks for, its one step as raw bytes, and its id, where it is known; else None."""
        tail = b""
        if length is not None:
            if not length.isdigit() or len(length) > 12:
                return None
            size = int(length)
            if size > len(body):
                return None
            body, tail = body[:size], body[size:]
        request_id, rest = _without_id(body)
        if tail:
            wish = self._known.get((rest, b""))
            return (wish, tail, request_id) if wish is not None and self._is_raw_step(tail) else None
        start, end = _numbers(rest)
        wish = self._known.get((rest[:start], rest[end:]))
        if wish is None or self._pack_step is None:
            return None
        text = rest[start:end]
        if b"u" in text or b"f" in text:  # true and false would pack as numbers
            return None
        try:
            return wish, self._pack_step(*orjson.loads(text)), request_id
        except (orjson.JSONDecodeError, TypeError, struct.error, OverflowError):
            return None


def _numbers(body: bytes) -> tuple[int, int]:
    """Return where the first array that is called data begins and ends, if it has no arrays in it; 0 for none."""
    for key in _KEYS:
        found = body.find(key)
        if found >= 0:
            start = found + len(key) - 1
            return start, body.find(b"]", start) + 1
    return 0, 0


def _without_id(head: bytes) -> tuple[str, bytes]:
    """Return the id with which a head begins, if it is of plain characters, and the head as it were without."""
    if head.startswith(_ID):
        end = head.find(b'"', len(_ID))
        text = head[len(_ID) : end]
        if head[end : end + 2] == b'",' and text.isascii() and b"\\" not in text and text.decode().isprintable():
            return text.decode(), b"{" + head[end + 2 :]
    return "", head
