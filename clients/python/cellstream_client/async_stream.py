"""A stream for asyncio: steps of one session over a WebSocket, which can be sent before earlier answers arrive."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from cellstream_client import calls
from cellstream_client.cursor import Cursor, SessionBase
from cellstream_client.errors import CellstreamError, SessionInUse, unreachable
from cellstream_client.link import ONCE, AsyncLink
from cellstream_client.sockets import socket_error, stream_path
from cellstream_client.values import Inputs, Outputs, Row, one_row, one_step
from cellstream_client.window import Window


class AsyncStream(SessionBase):
    """The asyncio counterpart of `Stream`: the same methods, awaited, and `map`."""

    def __init__(
        self,
        link: AsyncLink,
        cursor: Cursor,
        lock: asyncio.Lock,
        *,
        takeover: bool,
        on_close: Callable[[bool], Awaitable[None]],
    ) -> None:
        super().__init__(cursor)
        self._link, self._lock = link, lock
        self._takeover = takeover
        self._on_close = on_close
        self._window = Window(cursor)
        self._socket: ClientConnection | None = None

    async def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,). The errors are those of `steps`."""
        return one_row(await self.steps(one_step(inputs)))

    async def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps in one frame: (T, features) → (T, outputs).

        Raises:
            StreamTaken: Another WebSocket streams the session.
            CellstreamError: Any error that `AsyncSession.steps` raises. After Unavailable, `last_step` is unchanged,
                and the same call can be made again.
        """
        async with self._lock:
            self._window.add(inputs)
            try:
                return await self._answer()
            except BaseException:
                await self._drop_if_unread()
                self._window.give_up()
                raise

    async def map(
        self, inputs: AsyncIterable[Any] | Iterable[Any], *, ahead: int | None = None
    ) -> AsyncGenerator[Row, None]:
        """Take a time step for each of the inputs, (features,), and yield its outputs, (outputs,), in order.

        Up to `ahead` steps are sent before the first of them is answered. The default and maximum is the number of
        requests that the session keeps (`keep` when it was opened), since steps that were taken before a connection was
        lost are rewound and sent again. Other steps of the session wait until the iteration ends or is closed.

        Raises:
            ValueError: `ahead` is less than 1 or more than the session keeps.
            CellstreamError: Any error that `steps` raises, after the outputs of the steps before it.
            Exception: Any error that iterating over `inputs` raises, after the outputs of the inputs before it.
        """
        limit = max(1, self._cursor.keep)
        if not 1 <= (room := limit if ahead is None else ahead) <= limit:
            raise ValueError(f"ahead: expected 1 to {limit}, as the session keeps {self._cursor.keep}, got {ahead}")
        async with self._lock:
            fed: asyncio.Queue[bool] = asyncio.Queue()
            free = asyncio.Semaphore(room)
            feeder = asyncio.create_task(self._feed(inputs, free, fed))
            try:
                while await fed.get():
                    row = one_row(await self._answer())
                    if self._cursor.keep:
                        free.release()
                        yield row
                    else:  # a step sent ahead could not be rewound if the caller stops iterating
                        yield row
                        free.release()
                await feeder  # raises an error of the inputs
            finally:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)  # its error was raised above, or no longer matters
                await self._drop_if_unread()
                self._window.abandon()

    async def _feed(
        self, inputs: AsyncIterable[Any] | Iterable[Any], free: asyncio.Semaphore, fed: asyncio.Queue[bool]
    ) -> None:
        """Add inputs to the window while there is room, and put True into `fed` for each, False at the end."""
        try:
            async for value in iterate(inputs):
                await free.acquire()
                self._window.add(one_step(value))
                fed.put_nowait(True)
                if self._socket is not None:
                    with suppress(ConnectionClosed):  # the task that reads the answers connects again
                        await self._send(self._socket)
        finally:
            fed.put_nowait(False)

    async def _answer(self) -> Outputs:
        return await self._link.retrying(self._exchange)

    async def _exchange(self) -> Outputs:
        try:
            socket = self._socket or await self._connect()
            async with asyncio.timeout(self._link.service.timeout):
                await self._send(socket)
                answer = await socket.recv()
        except (OSError, WebSocketException) as exc:
            await self._drop()
            raise socket_error(exc) from exc
        try:
            return self._window.read(answer)
        except CellstreamError:
            await self._drop_if_unread()
            raise

    async def _send(self, socket: ClientConnection) -> None:
        while self._socket is socket and (frame := self._window.next_unsent()) is not None:
            await socket.send(frame)

    async def _connect(self) -> ClientConnection:
        url = self._link.service.stream_url(stream_path(self.session_id, takeover=self._takeover))
        socket = await connect(url, **self._link.service.stream_options())
        self._takeover = True
        try:
            await self._rewind_unread()
        except BaseException:
            await socket.close()
            raise
        self._window.connected()
        self._socket = socket
        return socket

    async def _rewind_unread(self) -> None:
        """Rewind the requests that were taken and whose answers were lost, if there are any."""
        if not self._window.needs_check:
            return
        info = await self._link.send(calls.describe(self.session_id), ONCE)
        if requests := self._window.requests_to_rewind(info):
            try:
                info = await self._link.send(self._cursor.rewind(requests), ONCE)
            except SessionInUse as exc:  # the last frame of the lost connection is still running
                raise unreachable(exc, sent=False) from exc
        self._window.resolved(info)

    async def _drop_if_unread(self) -> None:
        """Drop the socket if answers that will not be read are still to arrive on it."""
        if self._window.sent:
            await self._drop()

    async def _drop(self) -> None:
        socket, self._socket = self._socket, None
        self._window.lost()
        if socket is not None:
            await socket.close()

    async def close(self) -> None:
        """Close the socket, and end the session if the stream was opened by `AsyncClient.stream`."""
        await self._close(True)

    async def _close(self, with_retries: bool) -> None:
        await self._drop()
        await self._on_close(with_retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(kind is None)


async def iterate(inputs: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    """Yield the values of an asynchronous or ordinary iterable."""
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value
