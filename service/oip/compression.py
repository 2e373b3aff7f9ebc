"""Decompression of request bodies, up to a limit, and compression of responses for clients that accept it."""

import asyncio
import zlib

from service.api.request import Call, Reply
from service.errors import BodyTooLarge, UnsupportedEncoding
from service.oip.errors import InvalidRequest

_WINDOWS = {b"gzip": 31, b"deflate": 15}
"""The window size `wbits` of zlib for each encoding."""
_MIN_BYTES = 1024
"""Size in bytes of the smallest response that is compressed."""
_LOOP_BYTES = 256 << 10
"""Most bytes that are compressed or decompressed on the event loop; more are in a thread."""


def check_encoding(call: Call) -> None:
    """Check that a body is encoded with gzip, deflate or not at all; raise UnsupportedEncoding otherwise."""
    encoding = _encoding(call)
    if encoding and encoding not in _WINDOWS:
        raise UnsupportedEncoding("gzip or deflate")


async def decompressed(call: Call, body: bytes, limit: int) -> bytes:
    """Decompress a body, whose encoding was checked before, to at most `limit` bytes.

    Raises:
        BodyTooLarge: It is larger than that.
        InvalidRequest: It is not exactly one whole stream of its encoding.
    """
    encoding = _encoding(call)
    if not encoding:
        return body
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    packed = body
    try:
        body = inflater.decompress(packed, min(_LOOP_BYTES, limit + 1))
        if inflater.unconsumed_tail and len(body) <= limit:
            rest = limit + 1 - len(body)
            body += await asyncio.to_thread(inflater.decompress, inflater.unconsumed_tail, rest)
    except zlib.error as exc:
        raise InvalidRequest(f"expected a body in {encoding.decode()}, but it cannot be decompressed") from exc
    if len(body) > limit:
        raise BodyTooLarge(limit)
    if not inflater.eof or inflater.unused_data:
        raise InvalidRequest(f"expected one whole {encoding.decode()} stream, got a part of one or more behind it")
    return body


def _encoding(call: Call) -> bytes:
    """Return the content encoding of a body, empty where it has none."""
    encoding = call.headers.get(b"content-encoding", b"").strip().lower()
    return b"" if encoding == b"identity" else encoding


async def compressed(reply: Reply, call: Call) -> Reply:
    """Compress a response with the encoding that its request prefers, if there is one and the body is long enough."""
    accepted = call.headers.get(b"accept-encoding")
    if accepted is None or len(reply[2]) < _MIN_BYTES:
        return reply
    encoding = _preferred(accepted)
    if encoding is None:
        return reply
    status, headers, body = reply
    if len(body) <= _LOOP_BYTES:
        body = _deflated(body, _WINDOWS[encoding])
    else:
        body = await asyncio.to_thread(_deflated, body, _WINDOWS[encoding])
    return status, [*headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding")], body


def _deflated(body: bytes, window: int) -> bytes:
    deflater = zlib.compressobj(1, wbits=window)
    return deflater.compress(body) + deflater.flush()


def _preferred(accepted: bytes) -> bytes | None:
    """Return the one of gzip and deflate with the greater weight in an Accept-Encoding header, None for neither."""
    best, greatest = None, 0.0
    for part in accepted.lower().split(b","):
        name, _, parameter = part.strip().partition(b";")
        name = b"gzip" if name.strip() == b"*" else name.strip()
        if name in _WINDOWS and (weight := _weight(parameter)) > greatest:
            best, greatest = name, weight
    return best


def _weight(parameter: bytes) -> float:
    key, _, value = parameter.partition(b"=")
    if key.strip() != b"q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
