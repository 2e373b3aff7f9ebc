"""Templates: what a request says beside its numbers and its id, cached, as a client repeats it with every step.

A request in the middle of a sequence differs from the one before it only in its numbers and its id. The bytes around
these are looked up, and only the numbers are read. A template is stored only after a body with another array and
another id in it has been shown to read the same but for these.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from service.codec.codec import Codec
from service.codec.json_values import load_json
from service.errors import MalformedJson
from service.sessions.replay import ExpiringMap

_MOST = 8192
_LONGEST = 2048
"""Most bytes around the numbers of a request whose template is stored."""
_KEYS = b'"data":[', b'"data": ['
_ID = b'{"id":"'
_PROBE = b'["another"]'


Requested = tuple[tuple[int, bool], ...]
"""The outputs that a request asks for, by index, and whether each is to be binary."""


class Template(NamedTuple):
    """What the parameters and requested outputs of a request say; the fields are those of `Parameters`."""

    sequence: str
    shown: str
    epoch: int | None
    patience: float
    requested: Requested


class Templates:
    """The templates of one model's requests that bring one step and have neither flags nor a step number.

    They are found by the bytes around their numbers, without their id where that is the first field.
    """

    def __init__(self, codec: Codec, pack_step: Callable[..., bytes] | None) -> None:
        self._is_raw_step, self._pack_step = codec.is_raw_step, pack_step
        self._known: ExpiringMap[tuple[bytes, bytes], Template] = ExpiringMap(_MOST)

    def learn(self, template: Template, request_id: str, fields: dict[str, Any], head: bytes, tail: bytes) -> None:
        """Store the template of a valid request of one step of the one input."""
        found_id, rest = _without_id(head)
        if request_id != found_id or rest[:1] != b"{":
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
        self._known.put(key, template)

    def read(self, body: bytes, length: bytes | None) -> tuple[Template, bytes, str] | None:
        """Return a request's template, its one step as raw bytes, and its id; None where there is no template."""
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
            template = self._known.get((rest, b""))
            return (template, tail, request_id) if template is not None and self._is_raw_step(tail) else None
        start, end = _numbers(rest)
        template = self._known.get((rest[:start], rest[end:]))
        if template is None or self._pack_step is None:
            return None
        text = rest[start:end]
        if b"u" in text or b"f" in text:  # true and false would pack as numbers
            return None
        try:
            return template, self._pack_step(*orjson.loads(text)), request_id
        except (orjson.JSONDecodeError, TypeError, struct.error, OverflowError):
            return None


def _numbers(body: bytes) -> tuple[int, int]:
    """Return where the first array under the key data begins and ends, if it holds no arrays; 0, 0 for none."""
    for key in _KEYS:
        found = body.find(key)
        if found >= 0:
            start = found + len(key) - 1
            return start, body.find(b"]", start) + 1
    return 0, 0


def _without_id(head: bytes) -> tuple[str, bytes]:
    """Return the id that a head begins with, if it is of plain characters, and the head without it."""
    if head.startswith(_ID):
        end = head.find(b'"', len(_ID))
        text = head[len(_ID) : end]
        if head[end : end + 2] == b'",' and text.isascii() and b"\\" not in text and text.decode().isprintable():
            return text.decode(), b"{" + head[end + 2 :]
    return "", head
