"""Run the service in a process of its own, as an operator would."""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cellstream_client import Client, Unavailable

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"


class ServiceUnavailableError(RuntimeError):
    """The service did not become ready."""


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds, for argparse."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text}")
        return number

    return read


def free_port(preferred: int) -> int:
    """Return the preferred port when nobody listens on it, else one that the system picks."""
    for port in (preferred, 0):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServiceUnavailableError("no free port")


@contextmanager
def running_service(artifacts: Path, port: int, log: Path, seconds: float = 60.0) -> Iterator[subprocess.Popen[bytes]]:
    """Start the service, wait until it is ready, and stop it at the end.

    Raises:
        ServiceUnavailableError: It ended or was not ready in time; the message holds the end of its log.
    """
    command = [sys.executable, "-m", "service", "--artifacts", str(artifacts.resolve())]
    command += ["--host", HOST, "--port", str(port)]
    # settings of some other service in this shell are not meant for this one
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CELLSTREAM_")}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT)
        try:
            _wait_ready(process, port, log, seconds)
            yield process
        finally:
            _stop(process)


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float) -> None:
    with Client(f"http://{HOST}:{port}") as client:
        for _ in range(round(seconds / 0.25)):
            if process.poll() is not None:
                raise ServiceUnavailableError(f"the service ended with status {process.returncode}\n{_tail(log)}")
            try:
                client.wait_ready(0.25, pause=0.05)
            except Unavailable:
                continue
            return
    raise ServiceUnavailableError(f"the service was not ready within {seconds:.0f} s\n{_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
