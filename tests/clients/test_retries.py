"""What is sent again, and when: answers that a real service cannot be made to give at will."""

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
from cellstream_client.errors import answered, closed
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
    """Open a session, then give the answers of a script, one by one, and keep what was asked."""

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
    """After a failure that may pass the same body is sent again, with the key, and its number stays."""
    transport = Scripted(failure, failure, STEP)
    session = session_of(transport)
    assert session.step([2.0]) == [1.0]
    assert transport.bodies == [{"inputs": [[2.0]], "step": 1, "epoch": 0}] * 3
    assert {request.headers["authorization"] for request in transport.requests} == {"Bearer key"}


@pytest.mark.parametrize("status", [400, 401, 404, 409, 410, 413, 422, 500])
def test_a_refusal_is_not_repeated(status: int) -> None:
    """A refusal that would be the same again is raised at once."""
    transport = Scripted(refusal(status, "some_code"))
    with pytest.raises(CellstreamError, match="some_code: so") as caught:
        session_of(transport).step([2.0])
    assert (caught.value.code, caught.value.status, len(transport.requests)) == ("some_code", status, 1)


@pytest.mark.parametrize("change", [Session.fork, Session.rewind])
def test_a_fork_or_a_rewind_is_repeated_as_it_was(change: Callable[[Session], object]) -> None:
    """Every attempt carries the same key, or the same epoch, by which the service knows it again."""
    info = httpx.Response(200, json=INFO)
    transport = Scripted(httpx.ConnectError, httpx.ReadTimeout, refusal(503, "shutting_down"), info)
    change(session_of(transport))
    assert len({(request.content, request.headers.get("idempotency-key")) for request in transport.requests}) == 1
    assert len(transport.requests) == 4


def test_the_service_says_how_long_to_wait() -> None:
    """`Retry-After` is honoured, unless it is longer than all retries may take."""
    transport = Scripted(refusal(503, "queue_full", **{"Retry-After": "0.3"}), STEP)
    began = time.monotonic()
    session_of(transport).step([2.0])
    assert time.monotonic() - began >= 0.3
    with pytest.raises(Unavailable) as caught:
        session_of(Scripted(refusal(429, "table_full", **{"Retry-After": "3600"}))).step([2.0])
    assert (caught.value.retry_after, caught.value.maybe_taken) == (3600, False)


def test_retries_end() -> None:
    """All attempts together are limited in number and in time; the session has not moved."""
    transport = Scripted(*[httpx.ReadTimeout] * 6)
    session = session_of(transport)
    with pytest.raises(Unavailable):
        session.step([2.0])
    assert (len(transport.requests), session.last_step) == (6, 0)
    transport = Scripted(*[httpx.ReadTimeout] * 100)
    with pytest.raises(Unavailable):
        session_of(transport, Retries(100, seconds=0.2, pause=0.01, longest_pause=0.05, jitter=0)).step([2.0])
    assert len(transport.requests) < 30


def test_an_error_on_the_way_out_is_not_hidden() -> None:
    """When the body of a `with` fails, closing the session is tried once, and fails in silence."""
    transport = Scripted(httpx.ConnectError)
    with pytest.raises(ZeroDivisionError), session_of(transport):
        raise ZeroDivisionError
    assert [request.method for request in transport.requests] == ["DELETE"]


def test_each_code_has_its_error() -> None:
    """Codes become the errors that stand for them, over HTTP and in a socket's last word."""
    body = json.dumps({"code": "step_gap", "message": "so", "expected_step": 5})
    gap = answered(409, body)
    assert isinstance(gap, StepGap)
    assert gap.expected_step == gap.details["expected_step"] == 5
    assert isinstance(answered(409, body.replace("gap", "too_old")), StepTooOld)
    assert isinstance(closed(4404, "session_not_found"), SessionNotFound)
    assert isinstance(closed(1012, "7"), Unavailable)
    assert type(answered(418, "[]")) is CellstreamError


def test_every_error_is_exported() -> None:
    """Whatever can be raised can be imported from the package."""
    from cellstream_client import errors

    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert kinds <= set(cellstream_client.__all__)


def test_an_address_needs_a_scheme() -> None:
    """An address that is none is refused before anything is sent."""
    with pytest.raises(ValueError, match="expected http"):
        Client("localhost:8000")
