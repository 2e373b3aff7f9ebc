"""The connections to one service: HTTP requests sent with retries, and options of WebSockets."""

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx

from cellstream_client.calls import Call, may_have_arrived
from cellstream_client.errors import unreachable
from cellstream_client.retries import Retries

T = TypeVar("T")
ONCE = Retries(attempts=1)


@dataclass(frozen=True, slots=True)
class Service:
    """Hold the address of a service, the API key, the timeout of a request in seconds, and the SSL context.

    Raises:
        ValueError: The address is not an http or https address.
    """

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float
    tls: ssl.SSLContext | None

    def __post_init__(self) -> None:
        if urlsplit(self.base_url).scheme not in ("http", "https"):
            raise ValueError(f"base_url: expected http://… or https://…, got {self.base_url}")

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}

    @property
    def loopback(self) -> bool:
        """Whether the address is this machine's, for which no HTTP proxy is used."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def http_options(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "headers": self.headers,
            "timeout": self.timeout,
            "verify": True if self.tls is None else self.tls,
            "trust_env": not self.loopback,
        }

    def stream_url(self, path: str) -> str:
        parts = urlsplit(self.base_url)
        base = urlunsplit(parts._replace(scheme="wss" if parts.scheme == "https" else "ws"))
        return base.rstrip("/") + path

    def stream_options(self) -> dict[str, Any]:
        return {
            "additional_headers": self.headers,
            "open_timeout": self.timeout,
            "close_timeout": min(self.timeout, 2.0),
            "max_size": None,
            "compression": None,  # frames are small: compressing them takes more time than it saves
            "proxy": None if self.loopback else True,
            **({} if self.tls is None else {"ssl": self.tls}),
        }


class Link:
    """Send calls, with retries after failures that may be temporary."""

    def __init__(self, service: Service, retries: Retries, transport: httpx.BaseTransport | None = None) -> None:
        self.service = service
        self._retries = retries
        self._http = httpx.Client(transport=transport, **service.http_options())

    def send(self, call: Call[T], retries: Retries | None = None) -> T:
        """Send a call and return the value that its response holds.

        Raises:
            CellstreamError: The response is an error, or all attempts failed.
        """
        return self.retrying(partial(self._attempt, call), retries)

    def retrying(self, attempt: Callable[[], T], retries: Retries | None = None) -> T:
        """Repeat an attempt until it succeeds, fails with an error that is not retried, or `retries` are used up."""
        chosen = retries or self._retries
        return chosen.caller()(chosen.after, attempt)

    def _attempt(self, call: Call[T]) -> T:
        try:
            response = self._http.send(call.request(self._http))
        except httpx.TransportError as exc:
            raise unreachable(exc, sent=may_have_arrived(exc)) from exc
        return call.result(response)

    def close(self) -> None:
        self._http.close()


class AsyncLink:
    """The asyncio counterpart of `Link`."""

    def __init__(self, service: Service, retries: Retries, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.service = service
        self._retries = retries
        self._http = httpx.AsyncClient(transport=transport, **service.http_options())

    async def send(self, call: Call[T], retries: Retries | None = None) -> T:
        return await self.retrying(partial(self._attempt, call), retries)

    async def retrying(self, attempt: Callable[[], Awaitable[T]], retries: Retries | None = None) -> T:
        chosen = retries or self._retries
        return await chosen.async_caller()(chosen.after, attempt)

    async def _attempt(self, call: Call[T]) -> T:
        try:
            response = await self._http.send(call.request(self._http))
        except httpx.TransportError as exc:
            raise unreachable(exc, sent=may_have_arrived(exc)) from exc
        return call.result(response)

    async def close(self) -> None:
        await self._http.aclose()
