"""The fast path: a plain ASGI callable in front of FastAPI that answers the operations people wait for.

FastAPI's own routing costs several times what a step does. The fast path reads the URL's path, runs the same operations
through the same handler as the routes do, and passes everything else on.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from service.api.handler import Handler
from service.api.request import REQUEST_ID, App, Call, Operation, Receive, Reply, Scope, Send
from service.api.uvicorn_protocol import EXTENSION
from service.errors import ClientGone

Stream = Callable[[str, Scope, Receive, Send], Awaitable[None]]
"""Answers a WebSocket whose path names a model or a session."""
Match = Callable[[list[str]], tuple[Operation, str] | None]
"""Returns the operation and the argument that the parts of a POST's path stand for, None where they are others."""

_NO_EXTENSIONS: dict[str, Any] = {}


class FastPath:
    """Answers POSTs and WebSockets under /v1, and the POSTs that `matches` know; `app` answers the rest.

    `posts` and `streams` are by the path's second and fourth part: /v1/models/NAME/predict is ("models", "predict").
    """

    def __init__(
        self,
        app: App,
        handler: Handler,
        posts: Mapping[tuple[str, str], Operation],
        streams: Mapping[tuple[str, str], Stream],
        matches: Sequence[Match] = (),
    ) -> None:
        self._app, self._handler = app, handler
        self._posts, self._streams, self._matches = posts, streams, matches

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, parts = scope["type"], scope.get("path", "").split("/")
        operation, argument = None, ""
        if len(parts) == 5 and parts[1] == "v1" and parts[3]:  # "", v1, models or sessions, a name or an id, a verb
            _, _, collection, argument, verb = parts
            if kind == "http" and scope["method"] == "POST":
                operation = self._posts.get((collection, verb))
            elif kind == "websocket" and (stream := self._streams.get((collection, verb))) is not None:
                await stream(argument, scope, receive, send)
                return
        elif kind == "http" and scope["method"] == "POST":
            for match in self._matches:
                if (matched := match(parts)) is not None:
                    operation, argument = matched
        if operation is None:
            await self._app(scope, receive, send)
            return
        call = Call(argument, scope, receive)
        try:
            reply = await self._handler.run(operation, call)
        except ClientGone:
            return
        reply[1].append((REQUEST_ID, call.request_id))
        answer = scope.get("extensions", _NO_EXTENSIONS).get(EXTENSION)
        if answer is None or not answer(*reply):
            await send_reply(reply, send)


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a whole reply."""
    status, headers, body = reply
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
