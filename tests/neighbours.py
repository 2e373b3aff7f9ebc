"""Let a test that measures time run while the other workers of pytest-xdist wait."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

QUEUE, RUNNING = Path(__file__), Path(__file__).with_name("conftest.py")
"""Two files that are there in every run; only locks are taken on them, and the system drops those of a dead process."""


@contextmanager
def workers_excluded(alone: bool) -> Iterator[None]:
    """Hold the lock of running tests: shared with other workers, or `alone`.

    The lock of the queue is held only while waiting for the other one, so that a test that runs alone need not wait
    until the workers are idle by chance.
    """
    with QUEUE.open() as queue, RUNNING.open() as running:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield
