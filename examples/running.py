"""Run the service in a separate process."""

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
    """The service ended or did not become ready, or no port is free."""


def integer_in(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `minimum` to `maximum`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"expected a whole number from {minimum} to {maximum}, got {text}")
        return number

    return read


def free_port(preferred: int) -> int:
    """Return the preferred port if it is free, and another free port otherwise.

    Raises:
        ServiceUnavailableError: No port is free.
    """
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
    """Start the service, wait up to `seconds` until it is ready, and stop it at the end of the block.

    Raises:
        ServiceUnavailableError: It ended or was not ready in time; the message includes the end of its log.
    """
    command = [sys.executable, "-m", "service", "--artifacts", str(artifacts.resolve())]
    command += ["--host", HOST, "--port", str(port)]
    # environment variables of this shell may hold the settings of another service
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
