"""The composition root: the only place where the parts are put together."""

import asyncio
import secrets
import string
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version

import structlog
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import WebSocketRoute

from service.api.auth import Authenticator
from service.api.fast_path import App, HotLane
from service.api.handler import REQUEST_ID, Gate, Headers, Message, Receive, Scope, Send, error_reply
from service.api.model_routes import models_router
from service.api.ops_routes import ops_router
from service.api.routing import response
from service.api.schemas import Status
from service.api.session_routes import sessions_router
from service.api.websocket import Nowhere, Routed, Streams
from service.errors import MethodNotAllowed, NotFound, ServiceError
from service.metrics import Metrics
from service.oip.errors import oip_reply
from service.oip.infer import Inference
from service.oip.metadata import Metadata
from service.oip.model_control import Control
from service.oip.routes import Protocol, oip_router
from service.oip.statistics import Statistics
from service.repository.repository import Repository
from service.sessions.fleet import Fleets
from service.sessions.lifecycle import Lifecycle
from service.sessions.steps import Operations
from service.sessions.table import SessionTable
from service.settings import Settings

SWEEP_SECONDS = 1.0
_LETTERS = string.ascii_letters + string.digits

_log = structlog.get_logger()


class Service:
    """All parts, put together; `app` is the ASGI callable to serve.

    The ASGI lifespan opens and closes it; whoever wants a model's refusal before that calls `load` first.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        boot = "".join(secrets.choice(_LETTERS) for _ in range(4))
        self.settings = settings
        keys = settings.api_key_file
        authenticator = Authenticator.from_file(keys) if keys is not None else Authenticator()
        self.repository = Repository(settings, clock)
        self.sessions = SessionTable(replica=settings.replica, boot=boot, clock=clock)
        self.metrics = Metrics(self.repository.counts)
        self.gate = Gate(authenticator, self.metrics, boot)
        self.operations = Operations(settings, self.repository, self.sessions)
        self.lifecycle = Lifecycle(settings, self.repository, self.sessions, clock)
        self.fleets = Fleets(settings, self.repository, self.sessions)
        self.inference = Inference(settings, self.repository, self.sessions, self.fleets, clock)
        metadata = Metadata(settings, self.repository, lambda: self.status == "ready")
        self.protocol = Protocol(
            self.inference,
            metadata,
            Statistics(self.repository, metadata, clock),
            Control(settings, self.repository),
        )
        self.status: Status = "starting"
        self._sweeper: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._streams = Streams(self.gate, self.operations, self.lifecycle)
        routes = self._fastapi()
        self.app: App = (
            HotLane(routes, self.gate, self.operations, self.lifecycle, self.fleets, self.inference, self._streams)
            if settings.hot_lane
            else routes
        )

    def load(self) -> None:
        """Load every model; raises RefusedToStart."""
        self.repository.open()

    def open(self) -> None:
        """Load the models unless that is done, and welcome work."""
        if not self.repository.models:
            self.load()
        self.status = "ready"
        self._sweep()
        if self.settings.watch:
            self._watcher = asyncio.create_task(self._watch())

    async def drain(self) -> None:
        """Take no new session, and end the streams when their frames are answered; steps are still answered."""
        self.status = "draining"
        self.sessions.accepting = False
        _log.info("draining", sessions=len(self.sessions))
        await self._streams.leave(self.settings.grace / 2)

    def close(self) -> None:
        """Refuse new work and let the models go."""
        self.status = "draining"
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        self.repository.close()

    async def _watch(self) -> None:
        """Look for new versions again and again."""
        while True:
            await asyncio.sleep(self.settings.watch)
            await self.refresh()

    async def refresh(self) -> None:
        """Look for new versions; whatever is wrong with them is logged."""
        try:
            await self.repository.refresh()
        except Exception:
            _log.exception("refresh_failed")

    def _sweep(self) -> None:
        """End idle sessions now, let go of versions that nobody uses any more, and again in a while."""
        if ended := self.sessions.sweep():
            _log.info("sessions_expired", count=ended)
        self.repository.retire()
        pause = 0.0 if self.sessions.sweeping else SWEEP_SECONDS
        self._sweeper = asyncio.get_running_loop().call_later(pause, self._sweep)

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
        app.add_middleware(RequestIds, gate=self.gate)
        app.include_router(models_router(self.gate, self.operations, self.lifecycle, self.fleets))
        app.include_router(sessions_router(self.gate, self.operations, self.lifecycle))
        app.include_router(oip_router(self.gate, self.protocol))
        for path, stream in (
            ("/v1/models/{argument}/stream", self._streams.of_model),
            ("/v1/sessions/{argument}/stream", self._streams.of_session),
        ):
            app.router.routes.append(WebSocketRoute(path, Routed(stream)))
        app.router.routes.append(WebSocketRoute("/{path:path}", Nowhere(self.gate)))
        app.include_router(ops_router(self.gate, self.metrics, lambda: self.status))
        app.add_exception_handler(HTTPException, _no_route)
        return app


def create_app(settings: Settings, clock: Callable[[], float] = time.monotonic) -> App:
    """Return the ASGI callable of a service; its lifespan opens and closes everything.

    Raises:
        RefusedToStart: The API key file is not one.
    """
    return Service(settings, clock).app


class RequestIds:
    """Names the requests that FastAPI answers by itself; those that passed the gate have their name already."""

    def __init__(self, app: App, gate: Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def name(message: Message) -> None:
            if message["type"] == "http.response.start" and not any(key == REQUEST_ID for key, _ in message["headers"]):
                message["headers"].append((REQUEST_ID, self._gate.request_id(dict(scope["headers"]))))
            await send(message)

        await self._app(scope, receive, name)


async def _no_route(request: Request, exc: Exception) -> Response:
    error: ServiceError = NotFound()
    headers: Headers = []
    if isinstance(exc, HTTPException) and exc.status_code == 405:
        error = MethodNotAllowed()
        headers = [(b"allow", value.encode()) for key, value in (exc.headers or {}).items() if key.lower() == "allow"]
    path = request.scope["path"]
    refusal = oip_reply if path == "/v2" or path.startswith("/v2/") else error_reply
    status, standard, body = refusal(error)
    return response((status, [*standard, *headers], body))
