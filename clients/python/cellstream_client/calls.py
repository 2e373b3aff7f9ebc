"""The requests of the HTTP API as values: what is sent, and how the response is read. This module sends nothing."""

import base64
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import httpx

from cellstream_client.errors import CellstreamError, Unavailable, error_of_response
from cellstream_client.values import Inputs, Model, Opening, Outputs, SessionInfo, encode

T = TypeVar("T")
JSON = "application/json"
OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and a function that reads its response. A call that is sent twice takes effect once."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    accepted: tuple[type[CellstreamError], ...] = ()
    """Errors that count as success, because the requested outcome already exists."""

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        headers = {**self.headers, **({"Content-Type": self.content_type} if self.content is not None else {})}
        return http.build_request(self.method, self.path, content=self.content, headers=headers)

    def result(self, response: httpx.Response) -> T:
        """Return the value that the response holds.

        Raises:
            CellstreamError: The response is an error that is not in `accepted`.
        """
        if not response.is_success:
            error = error_of_response(response.status_code, response.content, response.headers.get("retry-after"))
            if not isinstance(error, self.accepted):
                raise error
        return self.read(response)


def may_have_arrived(error: httpx.TransportError) -> bool:
    """Return whether a request that failed with this error may have reached the service."""
    return not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def body(**values: object) -> bytes:
    """Return a JSON object of the values that are not None."""
    return encode({name: value for name, value in values.items() if value is not None}).encode()


def no_result(response: httpx.Response) -> None:
    """Read a response whose body is not needed."""


def idempotency_key() -> dict[str, str]:
    """Return the header by which the service recognises a repeated creation."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def session_info(response: httpx.Response) -> SessionInfo:
    return SessionInfo.read(response.json())


def ready() -> Call[None]:
    return Call("GET", "/readyz", no_result)


def poll_delays(base_url: str, seconds: float, pause: float) -> Iterator[float]:
    """Yield the seconds to wait before each next request.

    Raises:
        Unavailable: `seconds` have passed.
    """
    deadline = time.monotonic() + seconds
    yield pause
    while (left := deadline - time.monotonic()) > 0:
        yield min(pause, left)
    raise Unavailable("not_ready", f"{base_url} was not ready within {seconds:g} s")


def models() -> Call[list[Model]]:
    return Call("GET", "/v1/models", lambda response: [Model.read(model) for model in response.json()["models"]])


def predict(model: str, sequences: Sequence[Inputs]) -> Call[list[Outputs]]:
    def read(response: httpx.Response) -> list[Outputs]:
        outputs: list[Outputs] = response.json()["outputs"]
        return outputs

    return Call("POST", f"/v1/models/{quote(model, safe='')}/predict", read, body(inputs=sequences))


def open_session(model: str, opening: Opening) -> Call[SessionInfo]:
    """Open a session; by its idempotency key, sending the call again opens no second session."""
    values: dict[str, object] = dict(opening)
    if (state := opening.get("state")) is not None:
        values["state"] = base64.b64encode(state).decode()
    path = f"/v1/models/{quote(model, safe='')}/sessions"
    return Call("POST", path, session_info, body(**values), headers=idempotency_key())


def describe(session_id: str) -> Call[SessionInfo]:
    return Call("GET", session_path(session_id), session_info)


def sessions(limit: int, after: str | None = None) -> Call[tuple[list[SessionInfo], str | None]]:
    """Return a page of sessions, and the id after which the next page begins, or None at the end."""

    def read(response: httpx.Response) -> tuple[list[SessionInfo], str | None]:
        page: dict[str, Any] = response.json()
        return [SessionInfo.read(session) for session in page["sessions"]], page["next"]

    query = {"limit": str(limit)} | ({} if after is None else {"after": after})
    return Call("GET", f"/v1/sessions?{urlencode(query)}", read)


def session_path(session_id: str, rest: str = "") -> str:
    return f"/v1/sessions/{quote(session_id, safe='')}{rest}"
