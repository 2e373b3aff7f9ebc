"""The client: one service, its models and its sessions."""

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
    """Talk to the service at `base_url`; `with` closes the connections. Threads may share one.

    `timeout` is for one answer, in seconds; `retries` for all attempts at one. `tls` holds certificates of one's own.
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
        """Ask, once, whether the service takes requests."""
        try:
            self._link.send(calls.ready(), ONCE)
        except Unavailable:
            return False
        return True

    def wait_ready(self, seconds: float, pause: float = 0.1) -> None:
        """Wait until the service takes requests.

        Raises:
            Unavailable: It does not within `seconds`.
        """
        for nap in calls.waiting(self.base_url, seconds, pause):
            if self.ready():
                return
            time.sleep(nap)

    def models(self) -> list[Model]:
        """List the models that are served."""
        return self._link.send(calls.models())

    def predict(self, model: str, sequences: Sequence[Inputs]) -> list[Outputs]:
        """Run whole sequences, (T, features) each and of any length, without a session."""
        return self._link.send(calls.predict(model, sequences))

    def open(self, model: str, **opening: Unpack[Opening]) -> Session:
        """Open a session; however often the request must be sent, it is one.

        `idle_limit` is the seconds that it stays unused, `keep` how many requests can be rewound. It starts from the
        model's initial state, or behind a `history` (T, features), or from a `state` that `Session.snapshot` gave.
        """
        return Session(self._link, self._link.send(calls.open_session(model, opening)))

    def session(self, session_id: str) -> Session:
        """Go on with a session, from where the service says that it stands."""
        return Session(self._link, self._link.send(calls.describe(session_id)))

    def sessions(self, *, page: int = 100) -> Iterator[SessionInfo]:
        """List this key's sessions, the oldest first, asked for a page at a time."""
        infos, after = self._link.send(calls.sessions(page))
        yield from infos
        while after is not None:
            infos, after = self._link.send(calls.sessions(page, after))
            yield from infos

    def stream(self, model: str, **opening: Unpack[Opening]) -> Stream:
        """Open a session as `open` does, and a stream of it; closing the stream ends the session."""
        return self.open(model, **opening).owned_stream()

    def close(self) -> None:
        """Close the connections; sessions stay until they are closed or idle for too long."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
