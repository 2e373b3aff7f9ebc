"""The client for asyncio: as `Client`, with awaits."""

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
    """As `Client`, with awaits: `async with AsyncClient(url) as client, await client.open(model) as session`."""

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
        """Ask, once, whether the service takes requests."""
        try:
            await self._link.send(calls.ready(), ONCE)
        except Unavailable:
            return False
        return True

    async def wait_ready(self, seconds: float, pause: float = 0.1) -> None:
        """Wait until the service takes requests.

        Raises:
            Unavailable: It does not within `seconds`.
        """
        for nap in calls.waiting(self.base_url, seconds, pause):
            if await self.ready():
                return
            await asyncio.sleep(nap)

    async def models(self) -> list[Model]:
        """List the models that are served."""
        return await self._link.send(calls.models())

    async def predict(self, model: str, sequences: Sequence[Inputs]) -> list[Outputs]:
        """Run whole sequences, (T, features) each and of any length, without a session."""
        return await self._link.send(calls.predict(model, sequences))

    async def open(self, model: str, **opening: Unpack[Opening]) -> AsyncSession:
        """Open a session; however often the request must be sent, it is one. The arguments are as in `Client.open`."""
        return AsyncSession(self._link, await self._link.send(calls.open_session(model, opening)))

    async def session(self, session_id: str) -> AsyncSession:
        """Go on with a session, from where the service says that it stands."""
        return AsyncSession(self._link, await self._link.send(calls.describe(session_id)))

    async def sessions(self, *, page: int = 100) -> AsyncIterator[SessionInfo]:
        """List this key's sessions, the oldest first, asked for a page at a time."""
        infos, after = await self._link.send(calls.sessions(page))
        for info in infos:
            yield info
        while after is not None:
            infos, after = await self._link.send(calls.sessions(page, after))
            for info in infos:
                yield info

    async def stream(self, model: str, **opening: Unpack[Opening]) -> AsyncStream:
        """Open a session as `open` does, and a stream of it; closing the stream ends the session."""
        session = await self.open(model, **opening)
        return session.owned_stream()

    async def close(self) -> None:
        """Close the connections; sessions stay until they are closed or idle for too long."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
