"""A session for asyncio: one live sequence, whose state the service carries from step to step."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from cellstream_client.async_stream import AsyncStream
from cellstream_client.calls import describe
from cellstream_client.cursor import Cursor, SessionBase
from cellstream_client.errors import CellstreamError
from cellstream_client.link import ONCE, AsyncLink
from cellstream_client.values import Inputs, Outputs, Row, SessionInfo


class AsyncSession(SessionBase):
    """The asyncio counterpart of `Session`: the same methods, awaited. Steps of several tasks run one after another."""

    def __init__(self, link: AsyncLink, info: SessionInfo) -> None:
        super().__init__(Cursor(info))
        self._link = link
        self._lock = asyncio.Lock()

    async def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,). The errors are those of `steps`."""
        async with self._lock:
            return await self._link.send(self._cursor.single_step(inputs))

    async def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps in one request, all of them or none: (T, features) → (T, outputs).

        Raises:
            InvalidInput: The inputs do not match the model card.
            StateNotFinite: The steps would make the state infinite or NaN.
            StepOutOfOrder, EpochConflict: Another client has changed the session.
            SessionNotFound, SessionGone: The session has ended.
            Unavailable: All attempts failed. `last_step` is unchanged, and the same call can be made again.
        """
        async with self._lock:
            return await self._link.send(self._cursor.steps(inputs))

    async def peek(self, inputs: Inputs) -> Outputs:
        """Return the outputs that `steps` would return, (T, features) → (T, outputs), without changing the session."""
        return await self._link.send(self._cursor.peek(inputs))

    async def fork(self, *, idle_limit: float | None = None, keep: int | None = None) -> "AsyncSession":
        """Open another session with the state and step number of this one."""
        return AsyncSession(self._link, await self._link.send(self._cursor.fork(idle_limit, keep)))

    async def rewind(self, requests: int = 1) -> SessionInfo:
        """Undo the last `requests` step requests, and raise the epoch by one.

        Raises:
            RewindTooFar: The session keeps fewer requests (`keep` when it was opened).
            SessionInUse: A step of the session is running.
        """
        async with self._lock:
            return await self._link.send(self._cursor.rewind(requests))

    async def snapshot(self) -> bytes:
        """Return the state as the bytes of a safetensors file, for `restore` and `Client.open`."""
        return await self._link.send(self._cursor.snapshot())

    async def restore(self, state: bytes) -> SessionInfo:
        """Replace the state and step number by those of a snapshot, and raise the epoch by one.

        Raises:
            SnapshotRefused: The snapshot is damaged or belongs to another model.
            SessionInUse: A step of the session is running.
        """
        async with self._lock:
            return await self._link.send(self._cursor.restore(state))

    async def extend(self, idle_limit: float) -> SessionInfo:
        """Set the idle limit: the session expires `idle_limit` seconds after this or any later request."""
        return await self._link.send(self._cursor.extend(idle_limit))

    async def describe(self) -> SessionInfo:
        """Return the session as the service reports it; `last_step` and `epoch` of this object do not change."""
        return await self._link.send(describe(self.session_id))

    def stream(self, *, takeover: bool = False) -> AsyncStream:
        """Return a stream of this session over a WebSocket; `takeover` closes another WebSocket of this session."""
        return AsyncStream(self._link, self._cursor, self._lock, takeover=takeover, on_close=_keep_session)

    def owned_stream(self) -> AsyncStream:
        """Return a stream of this session over a WebSocket; closing the stream ends the session."""
        return AsyncStream(self._link, self._cursor, self._lock, takeover=False, on_close=self._end)

    async def close(self) -> None:
        """End the session; it is no error if it has ended already."""
        await self._link.send(self._cursor.close())

    async def _end(self, with_retries: bool) -> None:
        if with_retries:
            await self.close()
            return
        with suppress(CellstreamError):  # do not hide the error that is being raised
            await self._link.send(self._cursor.close(), ONCE)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end(kind is None)


async def _keep_session(with_retries: bool) -> None:
    """Do nothing to the session when its stream is closed."""
