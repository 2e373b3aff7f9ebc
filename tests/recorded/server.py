"""Start the service of any tree as its own process; nothing of it is imported."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parents[2]
"""The tree that this file is part of."""
_SECONDS = 30.0


class NotStartedError(RuntimeError):
    """A tree's service ended at its start, or took too long."""


@cache
def _flags_known(tree: Path) -> str:
    return subprocess.run(
        [sys.executable, "-m", "service", "--help"], cwd=tree, capture_output=True, text=True, check=True
    ).stdout


def flag(tree: Path, pattern: str) -> str:
    """Return the one flag of a tree's service that matches a pattern, as flags may be renamed."""
    found = set(re.findall(rf"(?<![\w-]){pattern}(?![\w-])", _flags_known(tree)))
    if len(found) != 1:
        raise LookupError(f"{tree}: expected one flag {pattern}, found {sorted(found)}")
    return str(found.pop())


def base_flags(tree: Path) -> list[str]:
    """Return flags with which answers do not depend on how fast the machine is."""
    longest_run = [flag(tree, "--[a-z-]+-ms"), "1000"]
    return [*longest_run, "--state-memory", "64MiB", "--max-sessions", "1000", "--watch", "0"]


class Server:
    """A tree's service on a free port, from `with` to its end."""

    def __init__(self, tree: Path, artifacts: Path, log: Path, *flags: str) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "service", "--artifacts", str(artifacts), "--port", "0"),
                    *(*base_flags(tree), "--log-format", "json", *flags),
                ],
                cwd=tree,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={name: value for name, value in os.environ.items() if not name.startswith("CELLSTREAM_")},
            )
        self.pid = self._process.pid
        self.port = self._wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process where it is; what is sent meanwhile is read together once it goes on."""
        self._process.send_signal(signal.SIGSTOP)
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)

    def thaw(self) -> None:
        time.sleep(0.01)  # what was sent has reached the process's sockets
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> int:
        """Return the exit status."""
        return self._process.wait(_SECONDS)

    def logged(self, event: str) -> bool:
        """Tell whether the service has logged an event."""
        return f'"event": "{event}"' in self._log.read_text()

    def _wait(self) -> int:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for line in self._log.read_text().splitlines():
                if '"event": "started"' in line and line.endswith("}"):
                    return int(json.loads(line)["port"])
            if self._process.poll() is not None:
                break
            time.sleep(0.01)
        self._process.kill()
        raise NotStartedError(f"the service did not start: {self._log.read_text()[-2000:]}")
