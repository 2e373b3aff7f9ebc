"""Content encodings: compressed bodies of requests, within a limit, and of responses where a client asks for them."""

import asyncio
import zlib

from service.api.request import Call, Reply
from service.errors import BodyTooLarge, UnsupportedEncoding
from service.oip.errors import InvalidRequest

_WINDOWS = {b"gzip": 31, b"deflate": 15}
_LEAST = 1024
"""Responses of fewer bytes are sent as they are: compressing them gains nothing."""
_AT_ONCE = 256 << 10
"""Bytes that are inflated or deflated on the event loop; more of them in a thread."""


def check_encoding(call: Call) -> None:
    """Raise UnsupportedEncoding where a body is in another encoding than gzip and deflate."""
    encoding = _encoding(call)
    if encoding and encoding not in _WINDOWS:
        raise UnsupportedEncoding("gzip or deflate")


async def decompressed(call: Call, body: bytes, limit: int) -> bytes:
    """Return a body without its encoding, which has been checked; the limit is for what it decompresses to.

    Raises:
        BodyTooLarge, InvalidRequest: It holds more than `limit` bytes, or is no such stream.
    """
    encoding = _encoding(call)
    if not encoding:
        return body
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    packed = body
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


def _encoding(call: Call) -> bytes:
    """Return a body's content encoding, nothing where it has none."""
    encoding = call.headers.get(b"content-encoding", b"").strip().lower()
    return b"" if encoding == b"identity" else encoding


async def compressed(reply: Reply, call: Call) -> Reply:
    """Return a response in the encoding that its request prefers, where it names one and the body is long enough."""
    accepted = call.headers.get(b"accept-encoding")
    if accepted is None or len(reply[2]) < _LEAST:
        return reply
    encoding = _preferred(accepted)
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


def _preferred(accepted: bytes) -> bytes | None:
    """Return gzip or deflate, whichever a header Accept-Encoding gives the greater weight; None for neither."""
    best, most = None, 0.0
    for part in accepted.lower().split(b","):
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
