"""A stream for asyncio: as `Stream`, and steps can be sent ahead of their answers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from cellstream_client import calls
from cellstream_client.cursor import Cursor, Standing
from cellstream_client.errors import CellstreamError, SessionInUse, unreachable
from cellstream_client.link import ONCE, AsyncLink
from cellstream_client.sockets import lost, stream_path
from cellstream_client.values import Inputs, Outputs, Row, one_row, one_step
from cellstream_client.window import Window


class AsyncStream(Standing):
    """As `Stream`, with awaits."""

    def __init__(
        self,
        link: AsyncLink,
        cursor: Cursor,
        turn: asyncio.Lock,
        *,
        takeover: bool,
        on_close: Callable[[bool], Awaitable[None]],
    ) -> None:
        super().__init__(cursor)
        self._link, self._turn = link, turn
        self._takeover = takeover
        self._on_close = on_close
        self._window = Window(cursor)
        self._socket: ClientConnection | None = None

    async def step(self, inputs: Any) -> Row:
        """Take one time step: (features,) → (outputs,)."""
        return one_row(await self.steps(one_step(inputs)))

    async def steps(self, inputs: Inputs) -> Outputs:
        """Take T time steps: (T, features) → (T, outputs).

        Raises:
            CellstreamError: It was not answered. `last_step` is as before, and the same call can be made again.
        """
        async with self._turn:
            self._window.add(inputs)
            try:
                return await self._answer()
            except BaseException:
                await self._drop_if_owed()
                self._window.give_up()
                raise

    async def map(
        self, inputs: AsyncIterable[Any] | Iterable[Any], *, ahead: int | None = None
    ) -> AsyncGenerator[Row, None]:
        """Take a time step for each of the inputs, (features,), and yield its outputs, (outputs,), in order.

        Up to `ahead` of them are sent before the first is answered: as many as the session keeps (`keep` at opening)
        unless told otherwise, since those that were taken when a socket is lost must be taken back and sent again.
        Other steps of the session wait until the map is at its end, or closed.

        Raises:
            ValueError: `ahead` is more than that.
        """
        most = max(1, self._cursor.keep)
        if not 1 <= (room := most if ahead is None else ahead) <= most:
            raise ValueError(f"ahead: expected 1 to {most}, as the session keeps {self._cursor.keep}, got {ahead}")
        async with self._turn:
            fed: asyncio.Queue[bool] = asyncio.Queue()
            free = asyncio.Semaphore(room)
            feeder = asyncio.create_task(self._feed(inputs, free, fed))
            try:
                while await fed.get():
                    row = one_row(await self._answer())
                    free.release()
                    yield row
                await feeder  # raises what the inputs raised
            finally:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)  # what it raised is told above, or too late
                await self._drop_if_owed()
                self._window.abandon()

    async def _feed(
        self, inputs: AsyncIterable[Any] | Iterable[Any], free: asyncio.Semaphore, fed: asyncio.Queue[bool]
    ) -> None:
        """Put inputs into the window as long as there is room, and tell of each; at the end, tell that."""
        try:
            async for value in each(inputs):
                await free.acquire()
                self._window.add(one_step(value))
                fed.put_nowait(True)
                if self._socket is not None:
                    with suppress(ConnectionClosed):  # whoever waits for the answers connects again
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
            raise lost(exc) from exc
        try:
            return self._window.read(answer)
        except CellstreamError:
            await self._drop_if_owed()
            raise

    async def _send(self, socket: ClientConnection) -> None:
        while self._socket is socket and (frame := self._window.next_unsent()) is not None:
            await socket.send(frame)

    async def _connect(self) -> ClientConnection:
        url = self._link.service.stream_url(stream_path(self.session_id, takeover=self._takeover))
        socket = await connect(url, **self._link.service.stream_options())
        self._takeover = True
        try:
            await self._settle()
        except BaseException:
            await socket.close()
            raise
        self._window.connected()
        self._socket = socket
        return socket

    async def _settle(self) -> None:
        """Take back the requests that were taken and whose answers are lost, if there are any."""
        if not self._window.doubtful:
            return
        info = await self._link.send(calls.describe(self.session_id), ONCE)
        if requests := self._window.requests_to_take_back(info):
            try:
                info = await self._link.send(self._cursor.rewind(requests), ONCE)
            except SessionInUse as exc:  # the last frame of the lost socket, still under way
                raise unreachable(exc, sent=False) from exc
        self._window.settled(info)

    async def _drop_if_owed(self) -> None:
        """Drop a socket on which answers are still to come that nobody waits for."""
        if self._window.sent:
            await self._drop()

    async def _drop(self) -> None:
        socket, self._socket = self._socket, None
        self._window.lost()
        if socket is not None:
            await socket.close()

    async def close(self) -> None:
        """Close the socket; the session stays, unless the stream opened it."""
        await self._close(True)

    async def _close(self, patient: bool) -> None:
        await self._drop()
        await self._on_close(patient)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(kind is None)


async def each(inputs: AsyncIterable[Any] | Iterable[Any]) -> AsyncIterator[Any]:
    """Go through either kind of iterable."""
    if isinstance(inputs, AsyncIterable):
        async for value in inputs:
            yield value
    else:
        for value in inputs:
            yield value
