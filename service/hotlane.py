"""The hot lane: a plain ASGI callable in front of FastAPI that answers the operations people wait for.

FastAPI's own way costs several times what a step does. The lane reads the path, calls the same gate and the same
operations as the routes do, and passes everything else on.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from service.errors import ClientGone
from service.fleets import Fleets
from service.gate import Gate, Receive, Reply, Scope, Send
from service.operations import Operations
from service.protocol import EXTENSION
from service.routes.stream import Streams

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NONE: dict[str, Any] = {}
_STEP = ("/v1/sessions/", "/steps")
_PREDICT = ("/v1/models/", "/predict")
_FLEET = ("/v1/models/", "/fleet")
_STREAM = ("/v1/models/", "/stream")


class HotLane:
    """Answers steps, fleet steps, predictions and streams itself; `app` answers the rest."""

    def __init__(self, app: App, gate: Gate, operations: Operations, fleets: Fleets, streams: Streams) -> None:
        self._app, self._gate, self._streams = app, gate, streams
        self._ways = (
            (*_STEP, "step", operations.step),
            (*_FLEET, "fleet", fleets.step),
            (*_PREDICT, "predict", operations.predict),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http" and scope["method"] == "POST":
            path = scope["path"]
            for prefix, suffix, name, operation in self._ways:
                if path.startswith(prefix) and path.endswith(suffix):
                    argument = path[len(prefix) : -len(suffix)]
                    if argument and "/" not in argument:
                        try:
                            reply = await self._gate.run(name, operation, argument, scope, receive)
                        except ClientGone:
                            return
                        answer = scope.get("extensions", _NONE).get(EXTENSION)
                        if answer is not None:
                            answer(*reply)
                        else:
                            await send_reply(reply, send)
                        return
        elif kind == "websocket":
            path, (prefix, suffix) = scope["path"], _STREAM
            argument = path[len(prefix) : -len(suffix)]
            if path == f"{prefix}{argument}{suffix}" and argument and "/" not in argument:
                await self._streams.open(argument, scope, receive, send)
                return
        await self._app(scope, receive, send)


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a whole answer."""
    status, headers, body = reply
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
