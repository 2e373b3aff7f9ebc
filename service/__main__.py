"""The command line: python -m service."""

import socket
import sys

import structlog
import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError
from rich.console import Console
from rich.table import Table

from service.app import Service
from service.arena import row_bytes
from service.errors import RefusedToStart
from service.logs import configure_logs
from service.protocol import AnsweringProtocol
from service.settings import Settings

_log = structlog.get_logger()

KEEP_ALIVE_SECONDS = 75
"""Longer than a client's idle time: a server that closes first invites requests to be sent twice."""


class Server(uvicorn.Server):
    """uvicorn, which shows a table of the models once it listens."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            show_start(self._service, self.servers[0].sockets[0].getsockname()[1])


def main() -> int:
    """Run the service; return the exit status."""
    try:
        settings = CliApp.run(Settings)
    except (ValidationError, SettingsError) as exc:
        return refuse(sentence(exc))
    configure_logs(settings.log_level, settings.log_format)
    try:
        service = Service(settings)
        service.load()
    except RefusedToStart as exc:
        return refuse(str(exc))
    config = uvicorn.Config(
        service.app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=AnsweringProtocol,
        ws="websockets-sansio",
        ws_max_size=int(settings.frame_size),
        ws_per_message_deflate=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )
    Server(config, service).run()
    return 0


def refuse(why: str) -> int:
    """Say in one sentence why the service does not start."""
    print(f"cellstream does not start: {why}", file=sys.stderr)
    return 2


def sentence(exc: ValidationError | SettingsError) -> str:
    """Return the first thing that is wrong with the settings."""
    if isinstance(exc, SettingsError):
        return str(exc)
    error = exc.errors(include_url=False)[0]
    message = error["msg"].removeprefix("Value error, ")
    flag = "--" + ".".join(map(str, error["loc"])).replace("_", "-")
    return f"{flag}: {message}" if error["loc"] else message


def show_start(service: Service, port: int) -> None:
    """Print what is served, and where."""
    settings = service.settings
    table = Table(title=f"cellstream on http://{settings.host}:{port}", title_justify="left")
    for column in ("model", "cell", "version"):
        table.add_column(column)
    for column in ("sessions", "slots", "bytes a session", "state memory", "µs a step alone"):
        table.add_column(column, justify="right")
    table.add_column("runs on")
    for model in service.repository.models.values():
        size, slots, batcher = row_bytes(model.card.states), model.arena.slots.count, model.batcher
        table.add_row(
            model.name,
            model.card.cell,
            str(model.card.version),
            f"{model.max_sessions:,}",
            f"{slots:,}",
            f"{size:,}",
            f"{size * slots / (1 << 20):,.1f} MiB",
            f"{batcher.costs.of(1, 1) * 1e6:.0f}",
            "the loop" if batcher.inline else "a thread",
        )
    keys = "API keys" if settings.api_key_file is not None else "no API keys, loopback only"
    table.caption = f"provider {settings.provider} · intra-op threads {settings.threads} · {keys} · docs at /docs"
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    _log.info("started", port=port, models=len(service.repository.models))


if __name__ == "__main__":
    sys.exit(main())
