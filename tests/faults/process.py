"""The service as a separate process, on a port that stays the same when it is restarted."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.planted import MARK, VARIABLE

_START_SECONDS = 60
_STOP_SECONDS = 30


class ServiceProcess:
    """Run `python -m service`, or the service with the deliberate fault `planted`, during a `with` block."""

    def __init__(self, artifacts: Path, *flags: str, planted: str = "") -> None:
        """Choose a free port, without starting the service."""
        module = "tests.faults.planted" if planted else "service"
        self._environment = os.environ | {VARIABLE: planted}
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = artifacts / "service.log"
        self._command = [sys.executable, "-m", module, "--artifacts", str(artifacts), "--port", str(self.port)]
        self._command += ["--log-format", "json", "--log-level", "warning", *flags]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running().poll() is None:
            self.stop()

    @property
    def pid(self) -> int:
        return self._running().pid

    def start(self) -> None:
        """Start the service, without waiting until it listens."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.DEVNULL, stderr=log, env=self._environment
            )

    def wait(self) -> None:
        """Wait until the service listens.

        Raises:
            RuntimeError: It ended, or does not listen within 60 s.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self.listens():
            if self._running().poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service does not listen: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._running().terminate()

    def ended(self) -> int | None:
        """Return the exit status, or None while the service runs."""
        return self._running().poll()

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit status.

        Raises:
            subprocess.TimeoutExpired: The service did not end within 30 s; it was killed.
        """
        process = self._running()
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def resident(self) -> int:
        """Return the resident memory of the service in bytes."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def error_lines(self) -> list[str]:
        """Return the log lines of internal errors."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if '"level": "error"' in line or "Traceback" in line]

    def injected(self) -> dict[str, tuple[int, int]]:
        """Return the steps (first, last) of each session's first request in which the deliberate fault took effect."""
        found: dict[str, tuple[int, int]] = {}
        for line in self.log.read_text().splitlines():
            if line.startswith(MARK):
                _, session, first, last = line.split()
                found.setdefault(session, (int(first), int(last)))
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the service was not started")
        return self._process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
