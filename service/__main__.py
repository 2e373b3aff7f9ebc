"""The command line: python -m service."""

import asyncio
import gc
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError
from rich.console import Console
from rich.table import Table

from service.api.stalled_writes import StalledWrites
from service.api.uvicorn_protocol import AnsweringProtocol
from service.api.websocket_protocol import StreamingProtocol
from service.app import Service
from service.errors import RefusedToStart
from service.logs import configure_logs
from service.settings import Settings

_log = structlog.get_logger()

KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections: if the server closes one first, a client may send a request twice."""

STALL_CHECK_SECONDS = 0.5
"""Seconds between two checks, while the server stops, for clients that do not read."""
GC_THRESHOLDS = (2_000, 4, 200)
"""When garbage is collected: 64 concurrent requests have more than the default of 700 objects, none of them garbage. A
large body has tens of thousands: few of them are visited at a time, and old ones rarely, as clients wait meanwhile."""
SPARE_FILES = 256
"""Files that the service may have open beside its connections."""


class Server(uvicorn.Server):
    """uvicorn's server, which prints a table of the models when it listens, and drains the service before it stops.

    The first SIGTERM or SIGINT drains the service and then stops the server, within `grace` seconds; a second one stops
    it at once. SIGHUP checks for new versions of the models. `_stopping` is whether a drain has begun, `_tasks` has the
    drains and checks that are running.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            show_start(self._service, self.servers[0].sockets[0].getsockname()[1])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while the server runs; after a drain the exit status is 0."""
        loop = asyncio.get_running_loop()
        handlers = {signal.SIGINT: self._stop, signal.SIGTERM: self._stop, signal.SIGHUP: self._refresh}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        if self._stopping or not self.started:
            self.should_exit = self.force_exit = True
        else:
            self._stopping = True
            self._start_task(self._drain())

    def _refresh(self) -> None:
        self._service.reload_keys()
        self._start_task(self._service.refresh())

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain(self) -> None:
        """Drain the service, then stop the server; running requests have the rest of the `grace` seconds."""
        grace, loop = self._service.settings.grace, asyncio.get_running_loop()
        end = loop.time() + grace
        self._start_task(self._abort_stalled())
        try:
            await asyncio.wait_for(self._service.drain(), grace)
        except TimeoutError:
            _log.warning("drain_timed_out", seconds=grace)
        self.config.timeout_graceful_shutdown = math.ceil(max(end - loop.time(), 0))
        self.should_exit = True

    async def _abort_stalled(self) -> None:
        """Abort the connections of clients that do not read, until the server has stopped."""
        loop, writes = asyncio.get_running_loop(), StalledWrites()
        while True:
            for transport in writes.stalled([one.transport for one in self.server_state.connections], loop.time()):
                transport.abort()
            await asyncio.sleep(STALL_CHECK_SECONDS)


def main() -> int:
    """Run the service; return the exit status."""
    try:
        settings = CliApp.run(Settings)
    except (ValidationError, SettingsError) as exc:
        return refuse(sentence(exc))
    configure_logs(settings.log_level, settings.log_format)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server runs: the models are about to be loaded anyway
    try:
        service = Service(settings)
        service.load()
        listener = listen(settings.host, settings.port)
    except RefusedToStart as exc:
        return refuse(str(exc))
    AnsweringProtocol.request_seconds = settings.request_timeout
    AnsweringProtocol.max_connections = allowed_connections(settings.max_connections)
    config = uvicorn.Config(
        service.app,
        loop="uvloop",
        http=AnsweringProtocol,
        ws=StreamingProtocol,
        ws_max_size=int(settings.frame_size),
        ws_per_message_deflate=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.grace),
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )
    gc.collect()
    gc.freeze()  # objects of the start are never garbage; later collections would take 25 ms to visit them
    gc.set_threshold(*GC_THRESHOLDS)
    Server(config, service).run([listener])
    return 0


def allowed_connections(wanted: int) -> int:
    """Raise the process's limit of open files for that many connections; return how many it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            _log.warning("fewer_connections", wanted=wanted, open_files=soft)
            return max(soft - SPARE_FILES, soft // 2)
    return wanted


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        RefusedToStart: The address is not one of this machine's, or is in use.
    """
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, UnicodeError) as exc:
        raise RefusedToStart(f"cannot listen on {host}, port {port}: {exc}") from exc


def refuse(why: str) -> int:
    """Print why the service does not start, and return the exit status."""
    print(f"cellstream does not start: {why}", file=sys.stderr)
    return 2


def sentence(exc: ValidationError | SettingsError) -> str:
    """Return the first error in the settings as one sentence."""
    if isinstance(exc, SettingsError):
        return str(exc)
    error = exc.errors(include_url=False)[0]
    message = error["msg"].removeprefix("Value error, ")
    flag = "--" + ".".join(map(str, error["loc"])).replace("_", "-")
    return f"{flag}: {message}" if error["loc"] else message


def show_start(service: Service, port: int) -> None:
    """Print a table of the models that are served, and the server's address."""
    settings = service.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    table = Table(title=f"cellstream on http://{host}:{port}", title_justify="left")
    for column in ("model", "cell"):
        table.add_column(column, overflow="fold")
    for column in ("slots", "state memory", "µs a step"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("runs on", no_wrap=True)
    for model in service.repository.models.values():
        slots, batcher = model.arena.slots.count, model.batcher
        table.add_row(
            f"{model.name} {model.card.version}",
            model.card.cell,
            f"{slots:,}",
            f"{model.memory / (1 << 20):,.1f} MiB",
            f"{batcher.costs.of(1, 1) * 1e6:.0f}",
            "the loop" if batcher.inline else "a thread",
        )
    keys = "API keys" if settings.api_key_file is not None else "no API keys, loopback only"
    table.caption = f"provider {settings.provider} · threads {settings.threads} · {keys} · docs at /docs"
    try:
        Console().print(table)
        sys.stdout.flush()
    except OSError as exc:  # a full disk, or a closed pipe
        _log.warning("table_not_shown", why=str(exc))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer is not written again at the end
    _log.info("started", port=port, models=len(service.repository.models))


if __name__ == "__main__":
    sys.exit(main())
