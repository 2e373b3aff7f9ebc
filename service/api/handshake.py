"""Which requests can be the handshake of a WebSocket, checked before the connection becomes one."""

from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

from service.api.request import Headers
from service.errors import HandshakeTooLarge, MalformedHandshake, ServiceError


def handshake_fault(method: str, url: bytes, headers: Headers) -> ServiceError | None:
    """Return why a request cannot be a WebSocket's handshake, None where it can."""
    if len(headers) > MAX_NUM_HEADERS:
        return HandshakeTooLarge(MAX_NUM_HEADERS, MAX_LINE_LENGTH)
    for name, value in headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0")):
            return MalformedHandshake()
        if len(name) + len(value) + len(b": \r\n") > MAX_LINE_LENGTH:
            return HandshakeTooLarge(MAX_NUM_HEADERS, MAX_LINE_LENGTH)
    if method != "GET":
        return MalformedHandshake()
    if len(url) + len(b"GET  HTTP/1.1\r\n") > MAX_LINE_LENGTH:
        return HandshakeTooLarge(MAX_NUM_HEADERS, MAX_LINE_LENGTH)
    return None
