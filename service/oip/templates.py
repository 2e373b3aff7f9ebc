"""Cache of what infer requests say besides their numbers and their id, which clients repeat with every step.

Requests within a sequence differ only in their numbers and their id. The remaining bytes are looked up in the cache; if
they are found, only the numbers are parsed. Before they are stored, a body is made of them with another array and
another id, and it has to parse to the same fields as the request except for these two.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from service.codec.codec import Codec
from service.codec.json_values import load_json
from service.errors import MalformedJson
from service.sessions.expiring_map import ExpiringMap

_MAX_TEMPLATES = 8192
_MAX_KEY_BYTES = 2048
"""Most bytes around the numbers of a request for its template to be stored."""
_KEYS = b'"data":[', b'"data": ['
_ID = b'{"id":"'
_PROBE = b'["another"]'


Requested = tuple[tuple[int, bool], ...]
"""The outputs that a request asks for, by index, and whether each is to be binary."""


class Template(NamedTuple):
    """The parameters and requested outputs of a request; `sequence` is `Parameters.name`."""

    sequence: str
    shown: str
    epoch: int | None
    patience: float
    requested: Requested


class Templates:
    """The templates of requests to one model that have one step, no flags and no step number.

    `_known` has each tenant's templates by the bytes before and after the numbers of the request, without the id where
    that is the first field. It holds at most `_MAX_TEMPLATES`.
    """

    def __init__(self, codec: Codec, pack_step: Callable[..., bytes] | None) -> None:
        self._is_raw_step, self._pack_step = codec.is_raw_step, pack_step
        self._known: ExpiringMap[tuple[bytes, bytes], Template] = ExpiringMap(_MAX_TEMPLATES)

    def learn(
        self, tenant: str, template: Template, request_id: str, fields: dict[str, Any], head: bytes, tail: bytes
    ) -> None:
        """Store the template of a valid request that has one step of the model's only input."""
        found_id, rest = _without_id(head)
        if request_id != found_id or rest[:1] != b"{":
            return
        start, end = (len(rest), len(rest)) if tail else _numbers(rest)
        key = rest[:start], rest[end:]
        if not start or len(key[0]) + len(key[1]) > _MAX_KEY_BYTES:
            return
        (tensor,) = fields["inputs"]
        probe = b'{"id":"another",%b%b%b' % (key[0][1:], b"" if tail else _PROBE, key[1])
        if not tail:
            tensor = tensor | {"data": ["another"]}
        try:
            if load_json(probe) != fields | {"id": "another", "inputs": [tensor]}:
                return
        except MalformedJson:  # the array found is only a part of one
            return
        self._known.put(tenant, key, template)

    def read(self, tenant: str, body: bytes, length: bytes | None) -> tuple[Template, bytes, str] | None:
        """Return the template of a request, its step as raw bytes, and its id; None where no template is stored."""
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
            template = self._known.get(tenant, (rest, b""))
            return (template, tail, request_id) if template is not None and self._is_raw_step(tail) else None
        start, end = _numbers(rest)
        template = self._known.get(tenant, (rest[:start], rest[end:]))
        if template is None or self._pack_step is None:
            return None
        text = rest[start:end]
        if b"u" in text or b"f" in text:  # true and false would be packed as numbers
            return None
        try:
            return template, self._pack_step(*orjson.loads(text)), request_id
        except (orjson.JSONDecodeError, TypeError, struct.error, OverflowError):
            return None


def _numbers(body: bytes) -> tuple[int, int]:
    """Return the start and end of the first array of a key "data", if it holds no arrays; 0, 0 for none."""
    for key in _KEYS:
        found = body.find(key)
        if found >= 0:
            start = found + len(key) - 1
            return start, body.find(b"]", start) + 1
    return 0, 0


def _without_id(head: bytes) -> tuple[str, bytes]:
    """Return the id that a head begins with, if it has no escapes, else ""; and the head without it."""
    if head.startswith(_ID):
        end = head.find(b'"', len(_ID))
        text = head[len(_ID) : end]
        if head[end : end + 2] == b'",' and text.isascii() and b"\\" not in text and text.decode().isprintable():
            return text.decode(), b"{" + head[end + 2 :]
    return "", head
