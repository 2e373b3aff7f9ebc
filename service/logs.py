"""Logging of the service and of uvicorn: JSON lines, or coloured text on a terminal."""

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

import structlog

MAX_WAITING = 10_000
"""Log lines that wait to be written; further ones are dropped and counted."""
FLUSH_SECONDS = 1.0
"""Seconds that the end of the process waits for lines to be written."""
CLIENT_LINES, CLIENT_SECONDS = 20, 10.0
"""Lines of one kind about clients' mistakes that are logged in so many seconds; further ones are counted."""


def configure_logs(level: str, style: str) -> None:
    """Set up structlog and the standard library's logging for the whole process; `style` is auto, json or console."""
    console = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    errors = [] if console else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = BackgroundHandler(sys.stderr)
    handler.addFilter(ClientLimit().allows)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *errors, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))


class BackgroundHandler(logging.Handler):
    """Writes log lines in a thread of its own, so that a reader that stops reading does not stop the service.

    At most MAX_WAITING lines wait; `_dropped` counts those that found no room since the last line that did.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[logging.LogRecord] = queue.Queue(MAX_WAITING)
        self._dropped = 0
        threading.Thread(target=self._write, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped."""
        try:
            self._lines.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until all lines are written, for FLUSH_SECONDS at most."""
        end = time.monotonic() + FLUSH_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def close(self) -> None:
        """Write what is left, as far as that takes no longer than FLUSH_SECONDS."""
        self.flush()
        super().close()

    def _write(self) -> None:
        while True:
            record = self._lines.get()
            try:
                self._stream.write(self.format(record) + "\n")
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    self._stream.write(self.format(_warning("log_lines_dropped", dropped)) + "\n")
                self._stream.flush()
            except Exception:
                pass
            finally:
                self._lines.task_done()


class ClientLimit:
    """Limits the lines that uvicorn logs about clients' mistakes: CLIENT_LINES of one kind in CLIENT_SECONDS.

    `_since` is by kind when its present period began, and how many lines it has had.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[str, tuple[float, int]] = {}

    def allows(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is to be logged; the first one of a period says how many the last one left out."""
        if not record.name.startswith("uvicorn") or record.levelno > logging.WARNING:
            return True
        kind, now = str(record.msg), self._clock()
        began, count = self._since.get(kind, (now, 0))
        if now - began >= CLIENT_SECONDS:
            if count > CLIENT_LINES:
                record.msg = f"{record.msg} ({count - CLIENT_LINES} more such lines were not logged)"
            began, count = now, 0
        self._since[kind] = (began, count + 1)
        return count < CLIENT_LINES


def _warning(event: str, count: int) -> logging.LogRecord:
    return logging.LogRecord("service.logs", logging.WARNING, __file__, 0, f"{event} count={count}", None, None)
