"""The synchronous client of one service: its models and its sessions."""

import ssl
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx

from cellstream_client import calls
from cellstream_client.errors import Unavailable
from cellstream_client.link import ONCE, Link, Service
from cellstream_client.retries import Retries
from cellstream_client.session import Session
from cellstream_client.stream import Stream
from cellstream_client.values import Inputs, Model, Opening, Outputs, SessionInfo


class Client:
    """Talk to the cellstream service at `base_url`; `with` closes the connections. Threads may share a client.

    `timeout` is the time limit of one attempt in seconds, `retries` limits all attempts at one request. `tls` is an SSL
    context, for example with a private certificate authority. Every method that sends a request raises CellstreamError
    or a subclass of it.

    Raises:
        ValueError: `base_url` is not an http or https address.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        timeout: float = 10.0,
        retries: Retries | None = None,
        tls: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.service = Service(base_url, api_key, timeout, tls)
        self._link = Link(self.service, retries or Retries(), transport)

    @property
    def base_url(self) -> str:
        return self.service.base_url

    def ready(self) -> bool:
        """Return whether the service accepts requests, by one request without retries."""
        try:
            self._link.send(calls.ready(), ONCE)
        except Unavailable:
            return False
        return True

    def wait_ready(self, seconds: float, pause: float = 0.1) -> None:
        """Wait until the service accepts requests, asking every `pause` seconds.

        Raises:
            Unavailable: The service is not ready after `seconds`.
        """
        for delay in calls.poll_delays(self.base_url, seconds, pause):
            if self.ready():
                return
            time.sleep(delay)

    def models(self) -> list[Model]:
        """Return the served models."""
        return self._link.send(calls.models())

    def predict(self, model: str, sequences: Sequence[Inputs]) -> list[Outputs]:
        """Run whole sequences without a session, each (T, features) of any length, and return (T, outputs) of each.

        Raises:
            InvalidInput: The inputs do not match the model card.
            ModelNotFound: No such model is served.
        """
        return self._link.send(calls.predict(model, sequences))

    def open(self, model: str, **opening: Unpack[Opening]) -> Session:
        """Open a session; a request that is sent again opens no second session.

        `idle_limit` is the time in seconds after which an unused session expires, `keep` the number of requests that
        can be rewound. The session starts from the model's initial state, from the state after a `history`
        (T, features), or from a `state` returned by `Session.snapshot`.

        Raises:
            ModelNotFound: No such model is served.
            InvalidInput: An argument is not valid, or the history does not match the model card.
            SnapshotRefused: The state is damaged or belongs to another model.
            Unavailable: No more sessions are possible, or the service does not answer.
        """
        return Session(self._link, self._link.send(calls.open_session(model, opening)))

    def session(self, session_id: str) -> Session:
        """Return an existing session, at the step and epoch that the service reports.

        Raises:
            SessionNotFound: The service knows no session with this id and API key.
            SessionGone: The session has ended.
        """
        return Session(self._link, self._link.send(calls.describe(session_id)))

    def sessions(self, *, page: int = 100) -> Iterator[SessionInfo]:
        """Yield the sessions of this API key, oldest first, requested in pages of `page` sessions."""
        infos, after = self._link.send(calls.sessions(page))
        yield from infos
        while after is not None:
            infos, after = self._link.send(calls.sessions(page, after))
            yield from infos

    def stream(self, model: str, **opening: Unpack[Opening]) -> Stream:
        """Open a session as `open` does, and return a stream of it; closing the stream ends the session."""
        return self.open(model, **opening).owned_stream()

    def close(self) -> None:
        """Close the connections; sessions remain until they are closed or reach their idle limit."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
