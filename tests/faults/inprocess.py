"""A service in this process, called without sockets: for tests that need a fake clock or many requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from service.app import Service
from service.settings import Settings
from tests.faults.wire import Response

OCTETS = {"content-type": "application/octet-stream"}


class InProcess:
    """Calls the ASGI application of an open service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, pieces: int = 1
    ) -> Response:
        """Send one request, its body in `pieces` with an event loop iteration between them, and return the answer."""
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
        received, messages = 0, list[dict[str, Any]]()

        async def receive() -> dict[str, Any]:
            nonlocal received
            if received:
                await asyncio.sleep(0)
            received += 1
            return {"type": "http.request", "body": parts[received - 1], "more_body": received < len(parts)}

        async def send(message: Any) -> None:
            messages.append(dict(message))

        await self.service.app(scope, receive, send)
        answered = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        content = b"".join(message.get("body", b"") for message in messages[1:])
        return Response(messages[0]["status"], answered, content)

    async def open(self, model: str, body: bytes = b"") -> str:
        """Open a session and return its id.

        Raises:
            RuntimeError: The service refused to open one.
        """
        answer = await self.send("POST", f"/v1/models/{model}/sessions", body)
        if answer.status != 201:
            raise RuntimeError(f"no session was opened: {answer.body!r}")
        session: str = answer.json()["session_id"]
        return session


@asynccontextmanager
async def in_process(settings: Settings, clock: Callable[[], float] | None = None) -> AsyncIterator[InProcess]:
    """Open a service on this event loop, and close it at the end of the block."""
    service = Service(settings) if clock is None else Service(settings, clock)
    service.open()
    try:
        yield InProcess(service)
    finally:
        service.close()
