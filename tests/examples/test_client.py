import json

import httpx
import pytest

from examples.client import Client, ServiceUnavailableError


def a_client(handler: httpx.MockTransport) -> Client:
    return Client("http://service", transport=handler)


def test_a_refusal_shows_what_the_service_said() -> None:
    """An error answer raises with the service's own code and sentence in the message."""
    body = {"code": "model_not_found", "message": "no model sunspots"}
    with (
        a_client(httpx.MockTransport(lambda _: httpx.Response(404, json=body))) as client,
        pytest.raises(httpx.HTTPStatusError, match=r"404 .*model_not_found"),
    ):
        client.open_session("sunspots", 60)


def test_steps_go_to_the_session_that_was_opened() -> None:
    """A session's steps carry the inputs to its own address and return the outputs."""
    seen: list[tuple[str, str, object]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, json.loads(request.content or b"null")))
        if request.url.path.endswith("/sessions"):
            return httpx.Response(201, json={"session_id": "r0-b-1"})
        if request.method == "DELETE":
            return httpx.Response(204)
        return httpx.Response(200, json={"outputs": [[2.0], [3.0]], "step": 2, "replayed": False})

    with a_client(httpx.MockTransport(answer)) as client:
        session = client.open_session("m", 60)
        assert session.steps([[1.0], [2.0]]) == [[2.0], [3.0]]
        session.close()
    assert seen == [
        ("POST", "/v1/models/m/sessions", {"idle_limit": 60}),
        ("POST", "/v1/sessions/r0-b-1/steps", {"inputs": [[1.0], [2.0]]}),
        ("DELETE", "/v1/sessions/r0-b-1", None),
    ]


def test_waiting_for_a_service_ends() -> None:
    """A service that does not become ready is given up on after the time given."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with (
        a_client(httpx.MockTransport(refuse)) as client,
        pytest.raises(ServiceUnavailableError, match="not ready"),
    ):
        client.wait_ready(0.05, pause=0.01)
