"""A client of the service: plain HTTP, nothing of the service's own code."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx


class ServiceUnavailableError(RuntimeError):
    """The service did not become ready."""


class Client:
    """Talk to one service at `base_url`; `with` closes the connection."""

    def __init__(self, base_url: str, transport: httpx.BaseTransport | None = None) -> None:
        self.base_url = base_url
        self._http = httpx.Client(base_url=base_url, timeout=30.0, trust_env=False, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def ready(self) -> bool:
        """Ask whether the service takes requests."""
        try:
            return self._http.get("/readyz").is_success
        except httpx.TransportError:
            return False

    def wait_ready(self, seconds: float, pause: float = 0.1) -> None:
        """Wait until the service takes requests.

        Raises:
            ServiceUnavailableError: It does not within `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not self.ready():
            if time.monotonic() > deadline:
                raise ServiceUnavailableError(f"{self.base_url} was not ready within {seconds:.0f} s")
            time.sleep(pause)

    def open_session(self, model: str, idle_limit: float) -> "Session":
        """Open a session, which starts from the model's initial state."""
        answer = self.call("POST", f"/v1/models/{model}/sessions", {"idle_limit": idle_limit})
        return Session(self, str(answer["session_id"]))

    def predict(self, model: str, sequences: Sequence[Sequence[Sequence[float]]]) -> list[list[list[float]]]:
        """Run whole sequences, (T, features) each, without a session."""
        answer = self.call("POST", f"/v1/models/{model}/predict", {"inputs": sequences})
        outputs: list[list[list[float]]] = answer["outputs"]
        return outputs

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Send one request and return the JSON of its answer.

        Raises:
            httpx.HTTPStatusError: The service refused; the message holds what it said.
        """
        response = self._http.request(method, path, json=body)
        if response.is_error:
            raise httpx.HTTPStatusError(
                f"{method} {path}: {response.status_code} {response.text}", request=response.request, response=response
            )
        answer: dict[str, Any] = response.json() if response.content else {}
        return answer


class Session:
    """One live sequence: the service carries its state from step to step."""

    def __init__(self, client: Client, session_id: str) -> None:
        self._client = client
        self.session_id = session_id

    def steps(self, inputs: Sequence[Sequence[float]]) -> list[list[float]]:
        """Advance by T steps: inputs (T, features) → outputs (T, outputs)."""
        answer = self._client.call("POST", f"/v1/sessions/{self.session_id}/steps", {"inputs": inputs})
        outputs: list[list[float]] = answer["outputs"]
        return outputs

    def close(self) -> None:
        """End the session."""
        self._client.call("DELETE", f"/v1/sessions/{self.session_id}")
