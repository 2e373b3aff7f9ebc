"""A session for asyncio: as `Session`, with awaits."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from cellstream_client.async_stream import AsyncStream
from cellstream_client.calls import describe
from cellstream_client.cursor import Cursor, Standing
from cellstream_client.errors import CellstreamError
from cellstream_client.link import ONCE, AsyncLink
from cellstream_client.values import Inputs, Outputs, Row, SessionInfo


class AsyncSession(Standing):
    """As `Session`, with awaits. Steps from several tasks are taken one after the other."""

    def __init__(self, link: AsyncLink, info: SessionInfo) -> None:
        super().__init__(Cursor(info))
        self._link = link
        self._turn = asyncio.Lock()

    async def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,)."""
        async with self._turn:
            return await self._link.send(self._cursor.one(inputs))

    async def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps in one request, all of them or none: (T, features) → (T, outputs)."""
        async with self._turn:
            return await self._link.send(self._cursor.steps(inputs))

    async def peek(self, inputs: Inputs) -> Outputs:
        """Return what `steps` would, and keep nothing."""
        return await self._link.send(self._cursor.peek(inputs))

    async def fork(self, *, idle_limit: float | None = None, keep: int | None = None) -> "AsyncSession":
        """Open another session that stands where this one does."""
        return AsyncSession(self._link, await self._link.send(self._cursor.fork(idle_limit, keep)))

    async def rewind(self, requests: int = 1) -> SessionInfo:
        """Take back the last requests, of those that are kept; the epoch is one more.

        Raises:
            RewindTooFar: Fewer are kept (`keep` at opening says how many).
        """
        async with self._turn:
            return await self._link.send(self._cursor.rewind(requests))

    async def snapshot(self) -> bytes:
        """Return the state, as a safetensors file that `restore` and `Client.open` take."""
        return await self._link.send(self._cursor.snapshot())

    async def restore(self, state: bytes) -> SessionInfo:
        """Put a snapshot in the place of the state; the epoch is one more."""
        async with self._turn:
            return await self._link.send(self._cursor.restore(state))

    async def extend(self, idle_limit: float) -> SessionInfo:
        """Let it stay for so many seconds from now, and from each later use."""
        return await self._link.send(self._cursor.extend(idle_limit))

    async def describe(self) -> SessionInfo:
        """Ask where it stands; what this object counts stays as it is."""
        return await self._link.send(describe(self.session_id))

    def stream(self, *, takeover: bool = False) -> AsyncStream:
        """Go on over a WebSocket; `takeover` ends another one that streams this session."""
        return AsyncStream(self._link, self._cursor, self._turn, takeover=takeover, on_close=_stay)

    def owned_stream(self) -> AsyncStream:
        """Go on over a WebSocket whose end is the session's, too."""
        return AsyncStream(self._link, self._cursor, self._turn, takeover=False, on_close=self._end)

    async def close(self) -> None:
        """End the session; one that has ended already is fine."""
        await self._link.send(self._cursor.close())

    async def _end(self, patient: bool) -> None:
        if patient:
            await self.close()
            return
        with suppress(CellstreamError):  # another error is on its way, and says more
            await self._link.send(self._cursor.close(), ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(kind is None)


async def _stay(patient: bool) -> None:
    """Leave the session when its stream is closed."""
