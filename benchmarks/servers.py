"""The measured servers, each a process of its own on the first core; the load generator runs on the second."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.peers import MODEL_VARIABLE


class Server:
    """Start `python -m COMMAND --port P` on a free port, wait until it listens, and end it when the block ends.

    It runs the code of `tree`, a folder, or of this one.

    Raises:
        RuntimeError: The server ended, or did not listen within 30 s.
    """

    def __init__(self, *command: str, model: str = "", tree: Path | None = None) -> None:
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", str(self.port)],
            cwd=tree,
            stdout=subprocess.DEVNULL,
            env=os.environ | {MODEL_VARIABLE: model},
            preexec_fn=lambda: pin(0),
        )
        self._wait()
        self.start_seconds = time.perf_counter() - start

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait(self) -> None:
        deadline = time.perf_counter() + 30
        while time.perf_counter() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended with {self._process.returncode}")
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                time.sleep(0.005)
        raise RuntimeError("the server did not listen within 30 s")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)


def pin(core: int) -> None:
    """Restrict this process to one core if the machine has several."""
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post_json(url: str, body: bytes = b"", **headers: str) -> bytes:
    """Send a POST request and return the body of the response; an underscore in a header's name stands for a hyphen.

    Raises:
        urllib.error.URLError: The request failed, or the response was an error.
    """
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, named, method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        return bytes(answer.read())
