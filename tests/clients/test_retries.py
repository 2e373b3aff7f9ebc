"""Which requests are sent again, and when, with scripted responses that a real service does not give on demand."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import cellstream_client
from cellstream_client import (
    CellstreamError,
    Client,
    Retries,
    Session,
    SessionNotFound,
    StepGap,
    StepTooOld,
    Unavailable,
)
from cellstream_client.errors import error_of_close, error_of_response
from tests.clients.conftest import QUICK

INFO = {
    "session_id": "r0-b-1",
    "model": "m",
    "version": 1,
    "step": 0,
    "epoch": 0,
    "keep": 0,
    "idle_limit": 900.0,
    "durability": "memory",
    "expires_at": "2026-01-01T00:00:00Z",
    "a field of a later version": True,
}
STEP = httpx.Response(200, json={"outputs": [[1.0]], "step": 1, "replayed": False})


class Scripted(httpx.BaseTransport):
    """Open a session, then give the responses of a script one by one, and record the requests."""

    def __init__(self, *script: httpx.Response | type[httpx.TransportError]) -> None:
        self._script = list(script)
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/sessions"):
            return httpx.Response(201, json=INFO)
        request.read()
        self.requests.append(request)
        answer = self._script.pop(0)
        if isinstance(answer, httpx.Response):
            return answer
        raise answer("as the script says", request=request)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]


def session_of(transport: Scripted, retries: Retries = QUICK) -> Session:
    return Client("http://service", "key", retries=retries, transport=transport).open("m")


def refusal(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": "so"}, headers=headers)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError,
        httpx.ReadTimeout,
        httpx.RemoteProtocolError,
        refusal(408, "request_timeout"),
        refusal(429, "session_busy"),
        refusal(503, "queue_full"),
        refusal(503, "a code of a later version"),
        httpx.Response(502, text="<html>a proxy's</html>"),
    ],
)
def test_a_step_is_repeated_as_it_was(failure: httpx.Response | type[httpx.TransportError]) -> None:
    """After a temporary failure the same body, with the same step number, is sent again with the API key."""
    transport = Scripted(failure, failure, STEP)
    session = session_of(transport)
    assert session.step([2.0]) == [1.0]
    assert transport.bodies == [{"inputs": [[2.0]], "step": 1, "epoch": 0}] * 3
    assert {request.headers["authorization"] for request in transport.requests} == {"Bearer key"}


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 413, 422, 500])
def test_a_permanent_error_is_not_retried(status: int) -> None:
    """An error that the same request would get again is raised at once."""
    transport = Scripted(refusal(status, "some_code"))
    with pytest.raises(CellstreamError, match="some_code: so") as caught:
        session_of(transport).step([2.0])
    assert (caught.value.code, caught.value.status, len(transport.requests)) == ("some_code", status, 1)


@pytest.mark.parametrize("change", [Session.fork, Session.rewind])
def test_a_fork_or_a_rewind_is_repeated_as_it_was(change: Callable[[Session], object]) -> None:
    """Every attempt carries the same idempotency key, or the same epoch, by which the service recognises it."""
    info = httpx.Response(200, json=INFO)
    transport = Scripted(httpx.ConnectError, httpx.ReadTimeout, refusal(503, "shutting_down"), info)
    change(session_of(transport))
    assert len({(request.content, request.headers.get("idempotency-key")) for request in transport.requests}) == 1
    assert len(transport.requests) == 4


def test_retry_after_is_respected() -> None:
    """The pause is at least `Retry-After`; if that is longer than all attempts may take, the error is raised."""
    transport = Scripted(refusal(503, "queue_full", **{"Retry-After": "0.3"}), STEP)
    began = time.monotonic()
    session_of(transport).step([2.0])
    assert time.monotonic() - began >= 0.3
    with pytest.raises(Unavailable) as caught:
        session_of(Scripted(refusal(429, "table_full", **{"Retry-After": "3600"}))).step([2.0])
    assert (caught.value.retry_after, caught.value.maybe_taken) == (3600, False)


def test_retries_end() -> None:
    """The attempts are limited in number and in time, and `last_step` is unchanged when they fail."""
    transport = Scripted(*[httpx.ReadTimeout] * 6)
    session = session_of(transport)
    with pytest.raises(Unavailable):
        session.step([2.0])
    assert (len(transport.requests), session.last_step) == (6, 0)
    transport = Scripted(*[httpx.ReadTimeout] * 100)
    with pytest.raises(Unavailable):
        session_of(transport, Retries(100, seconds=0.2, pause=0.01, longest_pause=0.05, jitter=0)).step([2.0])
    assert len(transport.requests) < 30


def test_an_error_in_the_block_is_not_hidden() -> None:
    """When the body of a `with` fails, closing the session is tried once, and its own failure is not raised."""
    transport = Scripted(httpx.ConnectError)
    with pytest.raises(ZeroDivisionError), session_of(transport):
        raise ZeroDivisionError
    assert [request.method for request in transport.requests] == ["DELETE"]


def test_each_code_has_its_error() -> None:
    """The service's codes become the matching error classes, from HTTP responses and from WebSocket closes."""
    body = json.dumps({"code": "step_gap", "message": "so", "expected_step": 5})
    gap = error_of_response(409, body)
    assert isinstance(gap, StepGap)
    assert gap.expected_step == gap.details["expected_step"] == 5
    assert isinstance(error_of_response(409, body.replace("gap", "too_old")), StepTooOld)
    assert isinstance(error_of_close(4404, "session_not_found"), SessionNotFound)
    assert isinstance(error_of_close(1012, "7"), Unavailable)
    assert type(error_of_response(418, "[]")) is CellstreamError


def test_every_error_is_exported() -> None:
    """Every error class can be imported from the package."""
    from cellstream_client import errors

    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert kinds <= set(cellstream_client.__all__)


def test_an_address_needs_a_scheme() -> None:
    """An address without http or https is refused before anything is sent."""
    with pytest.raises(ValueError, match="expected http"):
        Client("localhost:8000")
