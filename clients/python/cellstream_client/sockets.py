"""What the two kinds of stream share about their sockets: the address, and what an end of one means."""

from websockets.exceptions import ConnectionClosed, InvalidStatus

from cellstream_client.calls import session_path
from cellstream_client.errors import CellstreamError, answered, closed, unreachable


def stream_path(session_id: str, *, takeover: bool) -> str:
    return session_path(session_id, "/stream?takeover=1" if takeover else "/stream")


def lost(cause: Exception) -> CellstreamError:
    """Return the error for a socket that was refused, closed or cut."""
    if isinstance(cause, InvalidStatus):
        response = cause.response
        return answered(response.status_code, bytes(response.body or b""), response.headers.get("Retry-After"))
    if isinstance(cause, ConnectionClosed) and cause.rcvd is not None:
        return closed(cause.rcvd.code, cause.rcvd.reason)
    return unreachable(cause, sent=True)
