"""A proxy for HTTP/1.1 and WebSockets that breaks what passes through it, by a seeded choice, and counts how."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from random import Random

from tests.faults.wire import Http, Stream, connect, read_message

_BROKEN = (OSError, asyncio.IncompleteReadError)
_AT_ONCE_RESET = struct.pack("ii", 1, 0)


class Fault(Enum):
    """What is done to a request, or to a WebSocket."""

    RESET = "reset before it is passed on"
    TORN = "half of it passed on, then reset"
    ABANDONED = "passed on, nobody waits for the answer"
    CUT = "answered, the answer dropped"
    HALF = "answered, half of the answer passed on"
    TWICE_AT_ONCE = "sent twice at once"
    TWICE_IN_TURN = "sent twice, one after the other"
    LATE = "held until the client has sent it again"
    SOCKET_TORN = "WebSocket cut inside a frame"
    SOCKET_CUT = "WebSocket cut behind a frame"
    SOCKET_HALF = "WebSocket cut inside an answer"


HTTP_FAULTS = (
    Fault.RESET,
    Fault.TORN,
    Fault.ABANDONED,
    Fault.CUT,
    Fault.CUT,
    Fault.HALF,
    Fault.TWICE_AT_ONCE,
    Fault.TWICE_IN_TURN,
    Fault.LATE,
)
SOCKET_FAULTS = (Fault.SOCKET_TORN, Fault.SOCKET_CUT, Fault.SOCKET_CUT, Fault.SOCKET_HALF)


class Proxy:
    """Passes requests on to a port of this machine; a share `rate` of them meets a fault.

    A late request is held for `hold` seconds and passed on when nobody waits for it any more. A WebSocket is cut behind
    some twenty frames. `counts` are the faults so far, `passed` the requests that met none.
    """

    def __init__(
        self,
        port: int,
        rng: Random,
        rate: float,
        hold: float = 0.4,
        frames: float = 20,
        faults: Sequence[Fault] = (*HTTP_FAULTS, *SOCKET_FAULTS),
    ) -> None:
        self._port, self._rng, self._rate, self._hold, self._frames = port, rng, rate, hold, frames
        self._http_faults = [fault for fault in faults if fault in HTTP_FAULTS]
        self._socket_faults = [fault for fault in faults if fault in SOCKET_FAULTS]
        self._service = Http(port, timeout=30)
        self.counts: Counter[Fault] = Counter()
        self.passed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen, and return the port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Let go of all connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._service.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._spawn((reader, writer))

    def _spawn(self, client: Stream) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: Stream) -> None:
        reader, writer = client
        try:
            while (request := await read_message(reader)) is not None:
                if b"\r\nupgrade: websocket\r\n" in request.lower():
                    await self._tunnel(request, client)
                    return
                if not await self._answer(request, writer):
                    return
        except _BROKEN:
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request, or break it; return whether the connection goes on."""
        if self._rng.random() >= self._rate or not self._http_faults:
            self.passed += 1
            writer.write(await self._service.exchange(request))
            return True
        fault = self._rng.choice(self._http_faults)
        self.counts[fault] += 1
        if fault in (Fault.TWICE_AT_ONCE, Fault.TWICE_IN_TURN):
            writer.write(await self._twice(request, fault))
            return True
        if fault is Fault.TORN or fault is Fault.ABANDONED:
            _, upstream = await connect(self._port)
            upstream.write(request[: len(request) * 2 // 3] if fault is Fault.TORN else request)
            await upstream.drain()
            await asyncio.sleep(self._rng.choice((0, 0, 0.001)))
            upstream.transport.abort()
        elif fault is Fault.LATE:
            await asyncio.sleep(self._hold * self._rng.uniform(1, 1.5))
            await self._service.exchange(request)
        elif fault is not Fault.RESET:
            answer = await self._service.exchange(request)
            if fault is Fault.HALF:
                writer.write(answer[: self._rng.randrange(1, len(answer))])
                await writer.drain()
        if self._rng.random() < 0.5:
            _reset(writer)
        return False

    async def _twice(self, request: bytes, fault: Fault) -> bytes:
        if fault is Fault.TWICE_AT_ONCE:
            answers = list(await asyncio.gather(self._service.exchange(request), self._service.exchange(request)))
        else:
            answers = [await self._service.exchange(request), await self._service.exchange(request)]
        return self._rng.choice(answers)

    async def _tunnel(self, handshake: bytes, client: Stream) -> None:
        """Pass bytes both ways, until the fault that was drawn for this socket."""
        upstream = await connect(self._port)
        try:
            upstream[1].write(handshake)
            fault = self._rng.choice(self._socket_faults) if self._rate and self._socket_faults else None
            frames = int(self._rng.expovariate(1 / self._frames)) + 1
            to_client = asyncio.ensure_future(self._pass_answers(upstream[0], client[1], fault, frames))
            to_service = asyncio.ensure_future(self._pass_frames(client[0], upstream[1], fault, frames))
            done, rest = await asyncio.wait((to_client, to_service), return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            for result in await asyncio.gather(*done, *rest, return_exceptions=True):
                if isinstance(result, Fault):
                    self.counts[result] += 1
        finally:
            upstream[1].transport.abort()

    async def _pass_frames(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None, frames: int
    ) -> Fault | None:
        while data := await reader.read(65536):
            frames -= 1
            if not frames and fault is Fault.SOCKET_TORN:
                writer.write(data[: self._rng.randrange(len(data))])
                await asyncio.sleep(0.001)
                return fault
            writer.write(data)
            if not frames and fault is Fault.SOCKET_CUT:
                await asyncio.sleep(self._rng.choice((0, 0.0005, 0.002)))
                return fault
        return None

    async def _pass_answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None, frames: int
    ) -> Fault | None:
        while data := await reader.read(65536):
            frames -= 1
            if not frames and fault is Fault.SOCKET_HALF:
                writer.write(data[: self._rng.randrange(len(data))])
                with suppress(*_BROKEN):
                    await writer.drain()
                return fault
            writer.write(data)
        return None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Have the connection end in a reset, not in an orderly end."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE_RESET)
