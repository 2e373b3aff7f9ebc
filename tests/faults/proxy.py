"""A proxy for HTTP/1.1 and WebSockets that injects random faults, with a seed, and counts them."""

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
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Fault(Enum):
    """The faults of a request, or of a WebSocket."""

    RESET = "connection reset before the request is forwarded"
    PARTIAL_REQUEST = "request forwarded in part, then connection reset"
    CLIENT_GONE = "request forwarded, connection closed before the answer"
    ANSWER_DROPPED = "request answered, answer dropped"
    PARTIAL_ANSWER = "request answered, answer forwarded in part"
    SENT_TWICE_CONCURRENTLY = "request forwarded twice concurrently"
    SENT_TWICE_IN_SEQUENCE = "request forwarded twice in sequence"
    DELAYED = "request delayed until the client has sent it again"
    SOCKET_PARTIAL_FRAME = "WebSocket disconnected within a frame"
    SOCKET_CUT = "WebSocket disconnected after a frame"
    SOCKET_PARTIAL_ANSWER = "WebSocket disconnected within an answer"


HTTP_FAULTS = (
    Fault.RESET,
    Fault.PARTIAL_REQUEST,
    Fault.CLIENT_GONE,
    Fault.ANSWER_DROPPED,
    Fault.ANSWER_DROPPED,
    Fault.PARTIAL_ANSWER,
    Fault.SENT_TWICE_CONCURRENTLY,
    Fault.SENT_TWICE_IN_SEQUENCE,
    Fault.DELAYED,
)
SOCKET_FAULTS = (Fault.SOCKET_PARTIAL_FRAME, Fault.SOCKET_CUT, Fault.SOCKET_CUT, Fault.SOCKET_PARTIAL_ANSWER)


class Proxy:
    """Forwards requests to a port of this machine, and injects a fault into a fraction `rate` of them.

    A delayed request is forwarded after `hold` to 1.5 `hold` seconds, when the client no longer waits for it. A
    WebSocket is disconnected after about `frames` frames. `counts` are the injected faults, `passed` is the number of
    requests without one.
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
        """Stop listening, and close all connections."""
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
        """Answer one request, or inject a fault; return whether the connection stays open."""
        if self._rng.random() >= self._rate or not self._http_faults:
            self.passed += 1
            writer.write(await self._service.exchange(request))
            return True
        fault = self._rng.choice(self._http_faults)
        self.counts[fault] += 1
        if fault in (Fault.SENT_TWICE_CONCURRENTLY, Fault.SENT_TWICE_IN_SEQUENCE):
            writer.write(await self._twice(request, fault))
            return True
        if fault is Fault.PARTIAL_REQUEST or fault is Fault.CLIENT_GONE:
            _, upstream = await connect(self._port)
            upstream.write(request[: len(request) * 2 // 3] if fault is Fault.PARTIAL_REQUEST else request)
            await upstream.drain()
            await asyncio.sleep(self._rng.choice((0, 0, 0.001)))
            upstream.transport.abort()
        elif fault is Fault.DELAYED:
            await asyncio.sleep(self._hold * self._rng.uniform(1, 1.5))
            await self._service.exchange(request)
        elif fault is not Fault.RESET:
            answer = await self._service.exchange(request)
            if fault is Fault.PARTIAL_ANSWER:
                writer.write(answer[: self._rng.randrange(1, len(answer))])
                await writer.drain()
        if self._rng.random() < 0.5:
            _reset(writer)
        return False

    async def _twice(self, request: bytes, fault: Fault) -> bytes:
        if fault is Fault.SENT_TWICE_CONCURRENTLY:
            answers = list(await asyncio.gather(self._service.exchange(request), self._service.exchange(request)))
        else:
            answers = [await self._service.exchange(request), await self._service.exchange(request)]
        return self._rng.choice(answers)

    async def _tunnel(self, handshake: bytes, client: Stream) -> None:
        """Forward bytes in both directions, until the fault that was chosen for this WebSocket."""
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
            if not frames and fault is Fault.SOCKET_PARTIAL_FRAME:
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
            if not frames and fault is Fault.SOCKET_PARTIAL_ANSWER:
                writer.write(data[: self._rng.randrange(len(data))])
                with suppress(*_BROKEN):
                    await writer.drain()
                return fault
            writer.write(data)
        return None


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the connection end with a TCP reset instead of an orderly close."""
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
