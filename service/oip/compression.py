"""Content encodings: compressed bodies of requests, which may be bombs, and answers where a client asks for them."""

import asyncio
import zlib

from service.api.handler import Call, Reply
from service.errors import BodyTooLarge, UnsupportedEncoding
from service.oip.errors import InvalidRequest

_WINDOWS = {b"gzip": 31, b"deflate": 15}
_LEAST = 1024
"""Answers of fewer bytes are sent as they are: they would gain nothing."""
_AT_ONCE = 256 << 10
"""Bytes that are inflated or deflated on the loop; more of them in a thread."""


async def read_body(call: Call, limit: int) -> bytes:
    """Receive a body and decompress it; the limit counts for what it is compressed and decompressed.

    Raises:
        UnsupportedEncoding: It is in another encoding than gzip and deflate.
        BodyTooLarge, InvalidRequest: It holds more than `limit` bytes, or is no such stream.
    """
    encoding = call.headers.get(b"content-encoding")
    if encoding is None or (encoding := encoding.strip().lower()) in (b"", b"identity"):
        return await call.encoded_body(limit)
    window = _WINDOWS.get(encoding)
    if window is None:
        raise UnsupportedEncoding("gzip or deflate")
    packed = await call.encoded_body(limit)
    inflater = zlib.decompressobj(window)
    try:
        body = inflater.decompress(packed, min(_AT_ONCE, limit + 1))
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


async def compressed(reply: Reply, call: Call) -> Reply:
    """Return an answer in the encoding that its request prefers, where it asks for one and it is long enough."""
    wish = call.headers.get(b"accept-encoding")
    if wish is None or len(reply[2]) < _LEAST:
        return reply
    encoding = _preferred(wish)
    if encoding is None:
        return reply
    status, headers, body = reply
    if len(body) <= _AT_ONCE:
        body = _deflated(body, _WINDOWS[encoding])
    else:
        body = await asyncio.to_thread(_deflated, body, _WINDOWS[encoding])
    return status, [*headers, (b"content-encoding", encoding), (b"vary", b"accept-encoding")], body


def _deflated(body: bytes, window: int) -> bytes:
    deflater = zlib.compressobj(1, wbits=window)
    return deflater.compress(body) + deflater.flush()


def _preferred(wish: bytes) -> bytes | None:
    """Return the encoding of ours that a header Accept-Encoding gives the greatest weight, None for none."""
    best, most = None, 0.0
    for part in wish.lower().split(b","):
        name, _, parameter = part.strip().partition(b";")
        name = b"gzip" if name.strip() == b"*" else name.strip()
        if name in _WINDOWS and (weight := _weight(parameter)) > most:
            best, most = name, weight
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
