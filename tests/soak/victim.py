"""The client that must not be kept waiting: it steps one session, and notes how long each step takes."""

import time
from collections.abc import Sequence
from contextlib import closing

from tests.soak.attacks import SESSIONS
from tests.soak.target import Reader, Target, call

PAUSE = 0.003
"""Seconds between two steps."""


def step_for(target: Target, seconds: float) -> tuple[list[float], list[int]]:
    """Step a new session for some seconds; return the seconds of each step, and the statuses that are not 200."""
    times, refused = [], []
    with closing(target.connect()) as connection:
        reader = Reader(connection)
        session = call(connection, reader, target.post(SESSIONS))[1]["session_id"]
        step = target.post(f"/v1/sessions/{session}/steps", b'{"inputs":[%b]}' % target.row())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.perf_counter()
            connection.sendall(step)
            status, _ = reader.response()
            times.append(time.perf_counter() - start)
            if status != 200:
                refused.append(status)
            time.sleep(PAUSE)
        call(connection, reader, target.request("DELETE", f"/v1/sessions/{session}"))
    return times, refused


def percentile(values: Sequence[float], share: float) -> float:
    """Return a percentile; `share` is from 0 to 1."""
    ascending = sorted(values)
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]
