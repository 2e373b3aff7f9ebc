"""The hot lane: a plain ASGI callable in front of FastAPI that answers the operations people wait for.

FastAPI's own way costs several times what a step does. The lane reads the path, calls the same gate and the same
operations as the routes do, and passes everything else on.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from service.errors import ClientGone
from service.fleets import Fleets
from service.gate import Gate, Operation, Receive, Reply, Scope, Send
from service.operations import Operations
from service.protocol import EXTENSION
from service.routes.stream import Streams

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NONE: dict[str, Any] = {}
_SESSIONS, _MODELS, _STEPS, _STREAM = "/v1/sessions/", "/v1/models/", "/steps", "/stream"


class HotLane:
    """Answers steps, fleet steps, predictions and streams itself; `app` answers the rest."""

    def __init__(self, app: App, gate: Gate, operations: Operations, fleets: Fleets, streams: Streams) -> None:
        self._app, self._gate, self._streams = app, gate, streams
        self._step = operations.step
        self._of_models = {"predict": operations.predict, "fleet": fleets.step}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" and scope["method"] == "POST":
            path: str = scope["path"]
            if path.startswith(_SESSIONS) and path.endswith(_STEPS):
                argument, name = path[len(_SESSIONS) : -len(_STEPS)], "step"
                operation: Operation | None = self._step
            elif path.startswith(_MODELS):
                argument, _, name = path[len(_MODELS) :].rpartition("/")
                operation = self._of_models.get(name)
            else:
                operation, argument, name = None, "", ""
            if operation is not None and argument and "/" not in argument:
                try:
                    reply = await self._gate.run(name, operation, argument, scope, receive)
                except ClientGone:
                    return
                answer = scope.get("extensions", _NONE).get(EXTENSION)
                if answer is None or not answer(*reply):
                    await send_reply(reply, send)
                return
        elif kind == "websocket":
            path = scope["path"]
            model = path[len(_MODELS) : -len(_STREAM)]
            if path == f"{_MODELS}{model}{_STREAM}" and model and "/" not in model:
                await self._streams.open(model, scope, receive, send)
                return
        await self._app(scope, receive, send)


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a whole answer."""
    status, headers, body = reply
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
