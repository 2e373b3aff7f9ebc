"""The hot lane: a plain ASGI callable in front of FastAPI that answers the operations people wait for.

FastAPI's own way costs several times what a step does. The lane reads the path, calls the same gate and the same
operations as the routes do, and passes everything else on.
"""

from collections.abc import Awaitable, Callable

from service.errors import ClientGone
from service.gate import Gate, Receive, Reply, Scope, Send
from service.operations import Operations
from service.routes.stream import Streams

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SESSIONS, _MODELS, _STEPS, _PREDICT = "/v1/sessions/", "/v1/models/", "/steps", "/predict"


class HotLane:
    """Answers steps, predictions and streams itself; `app` answers the rest."""

    def __init__(self, app: App, gate: Gate, operations: Operations, streams: Streams) -> None:
        self._app, self._gate, self._operations, self._streams = app, gate, operations, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, path = scope["type"], scope.get("path", "")
        if kind == "http" and scope["method"] == "POST":
            operations = self._operations
            if path.startswith(_SESSIONS) and path.endswith(_STEPS):
                name, operation, argument = "step", operations.step, path[len(_SESSIONS) : -len(_STEPS)]
            elif path.startswith(_MODELS) and path.endswith(_PREDICT):
                name, operation, argument = "predict", operations.predict, path[len(_MODELS) : -len(_PREDICT)]
            else:
                return await self._app(scope, receive, send)
            if argument and "/" not in argument:
                try:
                    reply = await self._gate.run(name, operation, argument, scope, receive)
                except ClientGone:
                    return None
                return await send_reply(reply, send)
        elif kind == "websocket" and (argument := stream_model(path)) is not None:
            return await self._streams.open(argument, scope, receive, send)
        return await self._app(scope, receive, send)


def stream_model(path: str) -> str | None:
    """Return the model's name where the path is that of a model's stream."""
    name = path[len(_MODELS) : -len("/stream")]
    return name if path == f"{_MODELS}{name}/stream" and name and "/" not in name else None


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a whole answer."""
    status, headers, body = reply
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
