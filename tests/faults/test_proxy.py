"""The proxy injects each fault into a request or a WebSocket as described, and counts it."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.faults.proxy import HTTP_FAULTS, SOCKET_FAULTS, Fault, Proxy
from tests.faults.wire import Http, connect, read_message

HOLD = 0.1
BROKEN = {
    Fault.RESET: 0,
    Fault.PARTIAL_REQUEST: 0,
    Fault.CLIENT_GONE: 1,
    Fault.ANSWER_DROPPED: 1,
    Fault.PARTIAL_ANSWER: 1,
}
"""Fault without an answer for the client → number of requests that the service gets."""


class Upstream:
    """A server that answers each request with its number, and echoes the bytes after a WebSocket's handshake."""

    def __init__(self) -> None:
        self.received = 0
        self.echoed = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await read_message(reader)) is not None:
                self.received += 1
                if b"upgrade: websocket" in request:
                    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
                    while data := await reader.read(1000):
                        self.echoed += data
                        writer.write(data)
                    break
                body = f"{self.received}".encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[Upstream, int]]:
    made = Upstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    yield made, server.sockets[0].getsockname()[1]
    server.close()


async def settled(upstream: Upstream, received: int) -> None:
    """Wait until the service has received this number of requests, and a little longer, so that any others arrive."""
    for _ in range(1000):
        if upstream.received >= received:
            break
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)


@pytest.mark.parametrize("fault", dict.fromkeys(HTTP_FAULTS))
async def test_a_fault_is_injected_into_a_request(upstream: tuple[Upstream, int], fault: Fault) -> None:
    """The service gets the request as many times as the fault implies, and the client gets an answer or an error."""
    service, port = upstream
    proxy = Proxy(port, Random(1), rate=1, hold=HOLD, faults=(fault,))
    http = Http(await proxy.start(), timeout=HOLD / 2 if fault is Fault.DELAYED else 5)
    if fault in (Fault.SENT_TWICE_CONCURRENTLY, Fault.SENT_TWICE_IN_SEQUENCE):
        answer = await http.send("POST", "/", b"twice")
        assert answer.body in (b"1", b"2")
        await settled(service, 2)
        assert service.received == 2
    else:
        expected = TimeoutError if fault is Fault.DELAYED else ConnectionError
        with pytest.raises(expected):
            await http.send("POST", "/", b"once")
        if fault is Fault.DELAYED:
            assert service.received == 0
        await settled(service, BROKEN.get(fault, 1))
        assert service.received == BROKEN.get(fault, 1)
    assert proxy.counts == {fault: 1}
    http.close()
    await proxy.close()


async def test_a_request_without_a_fault_passes(upstream: tuple[Upstream, int]) -> None:
    """Requests without a fault are forwarded unchanged, many over one connection."""
    proxy = Proxy(upstream[1], Random(1), rate=0)
    http = Http(await proxy.start(), timeout=5)
    answers = [(await http.send("POST", "/", b"x")).body for _ in range(10)]
    assert answers == [f"{count}".encode() for count in range(1, 11)]
    assert (proxy.passed, proxy.counts) == (10, {})
    http.close()
    await proxy.close()


@pytest.mark.parametrize("fault", dict.fromkeys(SOCKET_FAULTS))
async def test_a_socket_is_cut(upstream: tuple[Upstream, int], fault: Fault) -> None:
    """Bytes are forwarded until the disconnection; the frame then arrived whole or in part, or its answer in part."""
    service, port = upstream
    proxy = Proxy(port, Random(3), rate=1, frames=1e-9, faults=(fault,))
    reader, writer = await connect(await proxy.start())
    writer.write(b"GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n")
    if fault is not Fault.SOCKET_PARTIAL_ANSWER:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        writer.write(b"a frame")
    try:
        rest = await reader.read()
    except ConnectionError:
        rest = b""
    assert len(rest) < 36
    await settled(service, 1)
    whole = {Fault.SOCKET_PARTIAL_FRAME: False, Fault.SOCKET_CUT: True, Fault.SOCKET_PARTIAL_ANSWER: False}[fault]
    assert (service.echoed == b"a frame") is whole
    assert proxy.counts == {fault: 1}
    writer.close()
    await proxy.close()
