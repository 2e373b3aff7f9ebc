"""Logging never stops the service."""

import io
import logging
import os
import threading
import time
from pathlib import Path

import httpx

from service import logs
from service.logs import BackgroundHandler, ClientLimit
from tests.fakes import FakeClock
from tests.service.conftest import RunningServer


def record(name: str = "uvicorn.error", message: str = "Invalid HTTP request received.") -> logging.LogRecord:
    return logging.LogRecord(name, logging.WARNING, __file__, 1, message, None, None)


class Stuck(io.StringIO):
    """A stream whose reader stands still until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.going = threading.Event()

    def write(self, text: str) -> int:
        self.going.wait(20)
        return super().write(text)


def test_lines_beyond_the_limit_are_dropped_and_counted() -> None:
    """While the reader stands still, lines wait up to the limit; how many found no room is said when it goes on."""
    stream = Stuck()
    handler = BackgroundHandler(stream)
    start = time.monotonic()
    for number in range(logs.MAX_WAITING + 500):
        handler.emit(record(message=f"line {number}"))
    assert time.monotonic() - start < 5
    stream.going.set()
    for _ in range(1000):
        handler.flush()
        if not handler._lines.unfinished_tasks:
            break
    lines = stream.getvalue().splitlines()
    dropped = next(int(line.rpartition("=")[2]) for line in lines if line.startswith("log_lines_dropped"))
    assert len(lines) - 1 + dropped == logs.MAX_WAITING + 500
    assert dropped >= 499


def test_the_end_does_not_wait_for_a_reader_that_stands_still() -> None:
    """Closing takes no longer than the flush may."""
    stream = Stuck()
    handler = BackgroundHandler(stream)
    handler.emit(record())
    start = time.monotonic()
    handler.close()
    assert time.monotonic() - start < 2 * logs.FLUSH_SECONDS
    stream.going.set()


def test_lines_about_clients_are_limited_by_kind() -> None:
    """Each kind of line has its own limit; the next period says how many were left out; our own lines have none."""
    clock = FakeClock()
    limit = ClientLimit(clock)
    assert [limit.allows(record()) for _ in range(25)] == [True] * 20 + [False] * 5
    assert limit.allows(record(message="another kind"))
    assert all(limit.allows(record("service.app", "ours")) for _ in range(100))
    clock.advance(10)
    again = record()
    assert limit.allows(again)
    assert "5 more such lines" in again.getMessage()


def test_a_full_standard_output_does_not_stop_the_start(artifacts: Path, tmp_path: Path) -> None:
    """The table of models is left out; the service starts, answers and ends with status 0."""
    server = RunningServer(artifacts, stdout=os.open("/dev/full", os.O_WRONLY))
    assert httpx.get(server.url + "/livez").status_code == 200
    assert server.stop() == 0
