"""A service inside this process, asked without sockets: for what needs a clock of its own or many requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from service.app import Service
from service.settings import Settings
from tests.faults.wire import Answer

OCTETS = {"content-type": "application/octet-stream"}


class InProcess:
    """Asks the ASGI callable of an open service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, pieces: int = 1
    ) -> Answer:
        """Send one request, its body in so many pieces with a turn of the loop between them, and return its answer."""
        size = len(body) // pieces + 1
        parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
        named = {"content-length": str(len(body)), **(headers or {})}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        at, told = 0, list[dict[str, Any]]()

        async def receive() -> dict[str, Any]:
            nonlocal at
            if at:
                await asyncio.sleep(0)
            at += 1
            return {"type": "http.request", "body": parts[at - 1], "more_body": at < len(parts)}

        async def send(message: Any) -> None:
            told.append(dict(message))

        await self.service.app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in told[0]["headers"]}
        return Answer(told[0]["status"], answered, b"".join(message.get("body", b"") for message in told[1:]))

    async def open(self, model: str, body: bytes = b"") -> str:
        """Open a session and return its id."""
        answer = await self.send("POST", f"/v1/models/{model}/sessions", body)
        if answer.status != 201:
            raise RuntimeError(f"no session: {answer.body!r}")
        session: str = answer.json()["session_id"]
        return session


@asynccontextmanager
async def in_process(settings: Settings, clock: Callable[[], float] | None = None) -> AsyncIterator[InProcess]:
    """Open a service on this loop, and close it behind the block."""
    service = Service(settings) if clock is None else Service(settings, clock)
    service.open()
    try:
        yield InProcess(service)
    finally:
        service.close()
