"""The client for asyncio."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Self, Unpack

import httpx

from cellstream_client import calls
from cellstream_client.async_session import AsyncSession
from cellstream_client.async_stream import AsyncStream
from cellstream_client.errors import Unavailable
from cellstream_client.link import ONCE, AsyncLink, Service
from cellstream_client.retries import Retries
from cellstream_client.values import Inputs, Model, Opening, Outputs, SessionInfo


class AsyncClient:
    """Talk to one cellstream service from asyncio; the arguments are those of `Client`.

    Use it as `async with AsyncClient(url) as client, await client.open(model) as session: …`. Every method that sends
    a request raises CellstreamError or a subclass of it.

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
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.service = Service(base_url, api_key, timeout, tls)
        self._link = AsyncLink(self.service, retries or Retries(), transport)

    @property
    def base_url(self) -> str:
        return self.service.base_url

    async def ready(self) -> bool:
        """Return whether the service accepts requests, by one request without retries."""
        try:
            await self._link.send(calls.ready(), ONCE)
        except Unavailable:
            return False
        return True

    async def wait_ready(self, seconds: float, pause: float = 0.1) -> None:
        """Wait until the service accepts requests, asking every `pause` seconds.

        Raises:
            Unavailable: The service is not ready after `seconds`.
        """
        for delay in calls.poll_delays(self.base_url, seconds, pause):
            if await self.ready():
                return
            await asyncio.sleep(delay)

    async def models(self) -> list[Model]:
        """Return the served models."""
        return await self._link.send(calls.models())

    async def predict(self, model: str, sequences: Sequence[Inputs]) -> list[Outputs]:
        """Run whole sequences without a session, each (T, features) of any length, and return (T, outputs) of each.

        Raises:
            InvalidInput: The inputs do not match the model card.
            ModelNotFound: No such model is served.
        """
        return await self._link.send(calls.predict(model, sequences))

    async def open(self, model: str, **opening: Unpack[Opening]) -> AsyncSession:
        """Open a session; the arguments and errors are those of `Client.open`.

        A request that is sent again opens no second session.
        """
        return AsyncSession(self._link, await self._link.send(calls.open_session(model, opening)))

    async def session(self, session_id: str) -> AsyncSession:
        """Return an existing session, at the step and epoch that the service reports.

        Raises:
            SessionNotFound: The service knows no session with this id and API key.
            SessionGone: The session has ended.
        """
        return AsyncSession(self._link, await self._link.send(calls.describe(session_id)))

    async def sessions(self, *, page: int = 100) -> AsyncIterator[SessionInfo]:
        """Yield the sessions of this API key, oldest first, requested in pages of `page` sessions."""
        infos, after = await self._link.send(calls.sessions(page))
        for info in infos:
            yield info
        while after is not None:
            infos, after = await self._link.send(calls.sessions(page, after))
            for info in infos:
                yield info

    async def stream(self, model: str, **opening: Unpack[Opening]) -> AsyncStream:
        """Open a session as `open` does, and return a stream of it; closing the stream ends the session."""
        session = await self.open(model, **opening)
        return session.owned_stream()

    async def close(self) -> None:
        """Close the connections; sessions remain until they are closed or reach their idle limit."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
