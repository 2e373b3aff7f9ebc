"""Replace what differs from one run to the next by names, the same thing by the same name."""

import json
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

_SESSION = re.compile(rb"r0-[A-Za-z0-9]{4}-[A-Za-z0-9_-]{22}(?![A-Za-z0-9_-])")
_FIXED: tuple[tuple[re.Pattern[bytes], bytes], ...] = (
    (re.compile(rb'("expires_at":")[^"]*'), rb"\1<time>"),
    (re.compile(rb'("(?:run_us|step_us|row_us)":)[0-9.e+-]+'), rb"\1<measured>"),
    (re.compile(rb'("parity":)\{"tolerance":[^{}]*\{[^{}]*\}\}'), rb"\1<measured>"),
    (re.compile(rb'("created_by":")[^"]*'), rb"\1<tools>"),
    (re.compile(rb'("(?:ns|last_inference)":)\d+'), rb"\1<time>"),
    (re.compile(rb'("name":"cellstream","version":")[^"]*'), rb"\1<version>"),
    (re.compile(rb"(?m)^(cellstream_request_seconds_sum\{.*\} ).*$"), rb"\1<time>"),
)
_HEADERS: tuple[tuple[re.Pattern[bytes], bytes], ...] = (
    (re.compile(rb"(?im)^(date: ).*?(\r?)$"), rb"\1<time>\2"),
    (re.compile(rb"(?im)^(x-request-id: )[A-Za-z0-9]{4}-[0-9a-f]+(\r?)$"), rb"\1<id>\2"),
)
_BUCKETS = re.compile(rb'(?m)(?:^cellstream_request_seconds_bucket\{le="[0-9.]+",.*\n)+')
_BOUND = re.compile(rb'le="([0-9.]+)",(.*)\} ')
_ALLOWED = re.compile(rb"(?im)^(allow: )(.*?)(\r?)$")
_LENGTH = re.compile(rb"(?im)^(content-length: )\d+(\r?)$")
_LONG = re.compile(rb"(?im)^(content-length: )\d{5,}(\r?)$")
"""The length that HEAD gives of a document, whose prose may change."""
_UNTOLD = ("description", "summary", "title", "operationId", "examples", "example", "tags")
"""What an OpenAPI document says in prose, or derives from the names of functions."""
_NAMED = ("properties", "paths", "schemas", "responses")
"""Objects whose keys are names, so that none of them is prose."""


class Masks:
    """Give sessions the numbers in which they were first seen, and everything else one name for its kind."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, bytes] = {}

    def sessions(self, text: bytes) -> bytes:
        """Return the text with the ids of sessions replaced."""
        return _SESSION.sub(self._session, text)

    def answer(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Return an answer's head and body with all replaced that differs between runs."""
        masked = body
        for encoding, window in ((b"gzip", 31), (b"deflate", 15)):
            if re.search(rb"(?im)^content-encoding: %b\r?$" % encoding, head):
                masked = b"<%b> %b" % (encoding, zlib.decompress(body, window))
        if b'"openapi":"' in body[:64]:
            masked = b"".join(_outline_lines(outline(json.loads(body))))
        elif body[:512].lstrip()[:15].lower() == b"<!doctype html>":
            masked = b"<page>"
        for pattern, text in _FIXED:
            masked = pattern.sub(text, masked)
        masked = _BUCKETS.sub(_bounds, masked)
        for pattern, text in _HEADERS:
            head = pattern.sub(text, head)
        head = _ALLOWED.sub(_sorted, head)
        if masked != body and len(masked) != len(body):
            head = _LENGTH.sub(rb"\1<length>\2", head)
        if not body:
            head = _LONG.sub(rb"\1<length>\2", head)
        return self.sessions(head), self.sessions(masked)

    def _session(self, found: re.Match[bytes]) -> bytes:
        return self._sessions.setdefault(found[0], b"<session %d>" % (len(self._sessions) + 1))


def _sorted(found: re.Match[bytes]) -> bytes:
    """Return a list of methods in one order: starlette keeps them in a set."""
    return found[1] + b", ".join(sorted(found[2].split(b", "))) + found[3]


def _bounds(found: re.Match[bytes]) -> bytes:
    """Return the lines of a histogram, whose numbers depend on durations, as one with all its bounds."""
    bounds = _BOUND.findall(found[0])
    return b"cellstream_request_seconds_bucket{le=%b,%b} <time>\n" % (b"|".join(le for le, _ in bounds), bounds[0][1])


def _outline_lines(document: Any) -> Iterator[bytes]:
    """Yield an OpenAPI document a line for each operation and each schema."""
    for path, methods in document.pop("paths").items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path} {json.dumps(operation)}\n".encode()
    for name, schema in document["components"].pop("schemas").items():
        yield f"schema {name} {json.dumps(schema)}\n".encode()
    yield json.dumps(document).encode()


def outline(document: Any, named: bool = False) -> Any:
    """Return an OpenAPI document without its prose: paths, methods, parameters, schemas, statuses."""
    if isinstance(document, list):
        return [outline(item) for item in document]
    if not isinstance(document, dict):
        return document
    kept = {key: value for key, value in document.items() if named or key not in _UNTOLD}
    return {key: outline(value, not named and key in _NAMED) for key, value in kept.items()}


def shown(data: bytes, most: int = 1 << 20, digest: Callable[[bytes], str] | None = None) -> str:
    """Return bytes as printable ASCII, a line for each of theirs; of too many, their number and digest."""
    if digest is not None and len(data) > most:
        return f"<{len(data)} bytes, {digest(data)}>"
    return "".join(_SHOWN[byte] for byte in data)


_SHOWN = [chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in range(256)]
_SHOWN[ord("\\")], _SHOWN[ord("\r")], _SHOWN[ord("\t")] = "\\\\", "\\r", "\\t"
_SHOWN[ord("\n")] = "\\n\n"
