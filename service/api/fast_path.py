"""The hot lane: a plain ASGI callable in front of FastAPI that answers the operations people wait for.

FastAPI's own way costs several times what a step does. The lane reads the path, calls the same gate and the same
operations as the routes do, and passes everything else on.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from service.api.handler import Gate, Operation, Receive, Reply, Scope, Send, error_reply
from service.api.uvicorn_protocol import EXTENSION
from service.api.websocket import Streams
from service.errors import ClientGone
from service.oip.errors import oip_reply
from service.oip.infer import Inference
from service.sessions.fleet import Fleets
from service.sessions.lifecycle import Lifecycle
from service.sessions.steps import Operations

App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NONE: dict[str, Any] = {}


class HotLane:
    """Answers what is posted to sessions and models, and streams, itself; `app` answers the rest."""

    def __init__(
        self,
        app: App,
        gate: Gate,
        operations: Operations,
        lifecycle: Lifecycle,
        fleets: Fleets,
        inference: Inference,
        streams: Streams,
    ) -> None:
        self._app, self._gate = app, gate
        self._posts: dict[tuple[str, str], tuple[str, Operation]] = {
            ("sessions", "steps"): ("step", operations.step),
            ("sessions", "peek"): ("peek", operations.peek),
            ("sessions", "fork"): ("fork", lifecycle.fork),
            ("sessions", "rewind"): ("rewind", lifecycle.rewind),
            ("models", "predict"): ("predict", operations.predict),
            ("models", "fleet"): ("fleet", fleets.step),
            ("models", "sessions"): ("open_session", lifecycle.open),
        }
        self._infer: tuple[str, Operation] = ("infer", inference.infer)
        self._streams = {"models": streams.of_model, "sessions": streams.of_session}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, parts = scope["type"], scope.get("path", "").split("/")
        found, argument, refusal = None, "", error_reply
        if len(parts) == 5 and parts[1] == "v1" and parts[3]:  # "", v1, models or sessions, a name or an id, a verb
            _, _, whose, argument, verb = parts
            if kind == "http" and scope["method"] == "POST":
                found = self._posts.get((whose, verb))
            elif kind == "websocket" and verb == "stream" and (stream := self._streams.get(whose)) is not None:
                await stream(argument, scope, receive, send)
                return
        elif parts[-1] == "infer" and kind == "http" and scope["method"] == "POST" and (argument := _model_of(parts)):
            found, refusal = self._infer, oip_reply
        if found is None:
            await self._app(scope, receive, send)
            return
        try:
            reply = await self._gate.run(*found, argument, scope, receive, refusal)
        except ClientGone:
            return
        answer = scope.get("extensions", _NONE).get(EXTENSION)
        if answer is None or not answer(*reply):
            await send_reply(reply, send)


def _model_of(parts: list[str]) -> str:
    """Return the model, with its version where that is named, of a path of /v2 that ends in infer; else nothing."""
    if parts[:3] != ["", "v2", "models"]:
        return ""
    if len(parts) == 5:
        return parts[3]
    versioned = len(parts) == 7 and parts[3] and parts[4] == "versions" and parts[5].isascii() and parts[5].isdigit()
    return f"{parts[3]}/{parts[5]}" if versioned else ""


async def send_reply(reply: Reply, send: Send) -> None:
    """Send a whole answer."""
    status, headers, body = reply
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
