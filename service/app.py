"""The composition root: the only module that connects the parts of the service."""

import asyncio
import secrets
import string
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import structlog
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute

from service.api.auth import Authenticator
from service.api.fast_path import FastPath, Stream
from service.api.handler import Handler
from service.api.model_operations import ModelOperations
from service.api.model_routes import models_router
from service.api.ops_routes import ops_router
from service.api.request import REQUEST_ID, App, Headers, Message, Receive, Scope, Send, error_reply
from service.api.routing import response
from service.api.schemas import Status
from service.api.session_operations import SessionOperations
from service.api.session_routes import sessions_router
from service.api.websocket import NoStreamRoute, StreamRoute, Streams
from service.engine.quota import Shares
from service.engine.work import Committer
from service.errors import MethodNotAllowed, NotFound, RefusedToStart, ServiceError
from service.metrics import Metrics
from service.oip.errors import oip_reply
from service.oip.infer import Inference, infer_at
from service.oip.metadata import Metadata
from service.oip.model_control import ModelControl
from service.oip.routes import Protocol, oip_router
from service.oip.statistics import ModelStatistics
from service.repository.repository import Repository
from service.sessions.commit import MemoryCommitter
from service.sessions.fleet import Fleet
from service.sessions.lifecycle import Lifecycle
from service.sessions.sequences import Sequences
from service.sessions.steps import Steps
from service.sessions.table import SessionTable
from service.settings import Settings

SWEEP_SECONDS = 1.0
"""Seconds between two checks for expired sessions and unused versions of models."""
_LETTERS = string.ascii_letters + string.digits

_log = structlog.get_logger()


class Service:
    """The service, composed of its parts; `app` is the ASGI callable to serve.

    The ASGI lifespan opens and closes it. To get the error of a refused model before that, call `load` first. `status`
    is "starting", then "ready" from `open` on, then "draining" from `drain` or `close` on.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.monotonic, committer: Committer | None = None
    ) -> None:
        """Compose the service; `clock` returns seconds, `committer` applies commits of sessions, by default in memory.

        Raises:
            RefusedToStart: The API key file is not valid.
        """
        boot = "".join(secrets.choice(_LETTERS) for _ in range(4))
        self.settings = settings
        keys = settings.api_key_file
        self._authenticator = Authenticator.from_file(keys) if keys is not None else Authenticator()
        self._shares = Shares(settings.tenant_share, self._authenticator.tenants)
        self.repository = Repository(settings, committer or MemoryCommitter(), clock, self._shares)
        self.metrics = Metrics(self.repository.counts)
        self.handler = Handler(self._authenticator, self.metrics, boot)

        self.sessions = SessionTable(replica=settings.replica, boot=boot, clock=clock)
        steps = Steps(self.sessions, settings.session_queue_limit)
        fleet = Fleet(self.sessions, steps, settings.idle_limit)
        lifecycle = Lifecycle(settings, self.sessions, steps, clock)
        sequences = Sequences(self.sessions, steps, settings.idle_limit, clock)

        self.session_operations = SessionOperations(settings, self.sessions, steps, lifecycle)
        self.model_operations = ModelOperations(settings, self.repository, steps, fleet, lifecycle)
        self._streams = Streams(settings, self.handler, self.repository, self.sessions, steps, lifecycle)
        self.protocol = Protocol(
            Inference(settings, self.repository, steps, fleet, sequences),
            Metadata(settings, self.repository, lambda: self.status == "ready"),
            ModelStatistics(self.repository, clock),
            ModelControl(settings, self.repository),
        )
        self.status: Status = "starting"
        self._sweeper: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        routes = self._fastapi()
        self.app: App = self._fast_path(routes) if settings.fast_path else routes

    def load(self) -> None:
        """Load every model.

        Raises:
            RefusedToStart: A model is refused, or there is none.
        """
        self.repository.open()

    def open(self) -> None:
        """Load the models unless `load` has done so, and accept work."""
        if not self.repository.models:
            self.load()
        self.status = "ready"
        self._sweep()
        if self.settings.watch:
            self._watcher = asyncio.create_task(self._watch())

    async def drain(self) -> None:
        """Refuse new sessions, and end the streams once their frames are answered; steps are still answered."""
        self.status = "draining"
        self.sessions.accepting = False
        _log.info("draining", sessions=len(self.sessions))
        await self._streams.stop(self.settings.grace / 2)

    def close(self) -> None:
        """Refuse all work, and close the models."""
        self.status = "draining"
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        self.repository.close()

    async def _watch(self) -> None:
        """Check for new versions of models every `watch` seconds."""
        while True:
            await asyncio.sleep(self.settings.watch)
            self.reload_keys(only_changed=True)
            await self.refresh()

    def reload_keys(self, *, only_changed: bool = False) -> None:
        """Read the API keys again; if the file is not valid, that is logged, and the keys stay as they were."""
        try:
            if self._authenticator.reload(only_changed=only_changed):
                self._shares.groups = self._authenticator.tenants
                _log.info("api_keys_loaded")
        except RefusedToStart as exc:
            _log.error("api_keys_refused", why=str(exc))

    async def refresh(self) -> None:
        """Check for new versions of models; errors are logged."""
        try:
            await self.repository.refresh()
        except Exception:
            _log.exception("refresh_failed")

    def _sweep(self) -> None:
        """End idle sessions, close versions of models that are no longer used, and schedule the next sweep."""
        if ended := self.sessions.sweep():
            _log.info("sessions_expired", count=ended)
        self.repository.retire()
        delay = 0.0 if self.sessions.sweeping else SWEEP_SECONDS
        self._sweeper = asyncio.get_running_loop().call_later(delay, self._sweep)

    def _fastapi(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            self.open()
            try:
                yield
            finally:
                self.close()

        app = FastAPI(
            title="cellstream",
            version=version("cellstream"),
            summary="Recurrent networks, served with their state: one time step at a time.",
            lifespan=lifespan,
            redirect_slashes=False,
        )
        app.add_middleware(RequestIds, handler=self.handler)
        app.include_router(models_router(self.handler, self.model_operations))
        app.include_router(sessions_router(self.handler, self.session_operations))
        app.include_router(oip_router(self.handler, self.protocol))
        for (collection, verb), stream in self._stream_paths().items():
            route = WebSocketRoute(f"/v1/{collection}/{{argument}}/{verb}", StreamRoute(stream))
            app.router.routes.append(route)
        app.router.routes.append(WebSocketRoute("/{path:path}", NoStreamRoute(self.handler)))
        app.include_router(ops_router(self.handler, self.metrics, lambda: self.status))
        app.add_exception_handler(HTTPException, _no_route)
        return app

    def _fast_path(self, app: App) -> FastPath:
        posts = {("sessions", verb): operation for verb, operation in self.session_operations.fast_posts().items()}
        posts |= {("models", verb): operation for verb, operation in self.model_operations.fast_posts().items()}
        infer = partial(infer_at, self.protocol.inference)
        return FastPath(app, self.handler, posts, self._stream_paths(), [infer])

    def _stream_paths(self) -> dict[tuple[str, str], Stream]:
        return {("models", "stream"): self._streams.of_model, ("sessions", "stream"): self._streams.of_session}


class RequestIds:
    """Adds the request id to the responses that FastAPI makes itself; those of operations have it already."""

    def __init__(self, app: App, handler: Handler) -> None:
        self._app, self._handler = app, handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add_id(message: Message) -> None:
            if message["type"] == "http.response.start" and not any(key == REQUEST_ID for key, _ in message["headers"]):
                message["headers"].append((REQUEST_ID, self._handler.request_id(dict(scope["headers"]))))
            await send(message)

        await self._app(scope, receive, add_id)


async def _no_route(request: Request, exc: Exception) -> Response:
    """Answer a request for which there is no path, or not with its method."""
    error: ServiceError = NotFound()
    headers: Headers = []
    if isinstance(exc, HTTPException) and exc.status_code == 405:
        error = MethodNotAllowed()
        headers = [(b"allow", value.encode()) for key, value in (exc.headers or {}).items() if key.lower() == "allow"]
    path = request.scope["path"]
    refusal = oip_reply if path == "/v2" or path.startswith("/v2/") else error_reply
    status, standard, body = refusal(error)
    return response((status, [*standard, *headers], body))
