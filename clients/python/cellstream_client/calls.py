"""The HTTP API as values: what is sent, and how the answer is read. Nothing here sends."""

import base64
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

import httpx

from cellstream_client.errors import CellstreamError, Unavailable, answered
from cellstream_client.values import Inputs, Model, Opening, Outputs, SessionInfo, encode

T = TypeVar("T")
JSON = "application/json"
OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how its answer is read. Sent twice, it has the effect of once."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    fine: tuple[type[CellstreamError], ...] = ()
    """Errors that mean that what was wanted is so already."""

    def request(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        headers = {**self.headers, **({"Content-Type": self.content_type} if self.content is not None else {})}
        return http.build_request(self.method, self.path, content=self.content, headers=headers)

    def result(self, response: httpx.Response) -> T:
        """Return what the answer says.

        Raises:
            CellstreamError: It is a refusal.
        """
        if not response.is_success:
            error = answered(response.status_code, response.content, response.headers.get("retry-after"))
            if not isinstance(error, self.fine):
                raise error
        return self.read(response)


def may_have_arrived(error: httpx.TransportError) -> bool:
    """Return whether a request that got no answer can have reached the service."""
    return not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def body(**values: object) -> bytes:
    """Return a JSON object of what is not None."""
    return encode({name: value for name, value in values.items() if value is not None}).encode()


def nothing(response: httpx.Response) -> None:
    """Read an answer that says nothing more."""


def key() -> dict[str, str]:
    """Return the header by which the service knows a creation again."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def session_info(response: httpx.Response) -> SessionInfo:
    return SessionInfo.read(response.json())


def ready() -> Call[None]:
    return Call("GET", "/readyz", nothing)


def waiting(base_url: str, seconds: float, pause: float) -> Iterator[float]:
    """Yield how long to wait before asking again.

    Raises:
        Unavailable: The time is over.
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
    """Open a session; the key makes one of all the times that this call is sent."""
    values: dict[str, object] = dict(opening)
    if (state := opening.get("state")) is not None:
        values["state"] = base64.b64encode(state).decode()
    path = f"/v1/models/{quote(model, safe='')}/sessions"
    return Call("POST", path, session_info, body(**values), headers=key())


def describe(session_id: str) -> Call[SessionInfo]:
    return Call("GET", session_path(session_id), session_info)


def sessions(limit: int, after: str | None = None) -> Call[tuple[list[SessionInfo], str | None]]:
    """List a page of sessions, and say where the next one begins."""

    def read(response: httpx.Response) -> tuple[list[SessionInfo], str | None]:
        page: dict[str, Any] = response.json()
        return [SessionInfo.read(session) for session in page["sessions"]], page["next"]

    query = {"limit": str(limit)} | ({} if after is None else {"after": after})
    return Call("GET", f"/v1/sessions?{urlencode(query)}", read)


def session_path(session_id: str, rest: str = "") -> str:
    return f"/v1/sessions/{quote(session_id, safe='')}{rest}"
