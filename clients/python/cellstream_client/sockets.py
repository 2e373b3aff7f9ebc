"""Functions shared by both kinds of stream: the path of a WebSocket, and the error for one that failed."""

from websockets.exceptions import ConnectionClosed, InvalidStatus

from cellstream_client.calls import session_path
from cellstream_client.errors import CellstreamError, error_of_close, error_of_response, unreachable


def stream_path(session_id: str, *, takeover: bool) -> str:
    return session_path(session_id, "/stream?takeover=1" if takeover else "/stream")


def socket_error(cause: Exception) -> CellstreamError:
    """Return the error for a WebSocket that was refused, closed by the service or disconnected."""
    if isinstance(cause, InvalidStatus):
        response = cause.response
        return error_of_response(response.status_code, bytes(response.body or b""), response.headers.get("Retry-After"))
    if isinstance(cause, ConnectionClosed) and cause.rcvd is not None:
        return error_of_close(cause.rcvd.code, cause.rcvd.reason)
    return unreachable(cause, sent=True)
