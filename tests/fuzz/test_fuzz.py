"""A small run of the fuzz tests: random requests, damaged bytes and frames."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.faults.process import ServiceProcess
from tests.fuzz.frames import send_frames
from tests.fuzz.requests import send_requests
from tests.fuzz.results import Results
from tests.fuzz.wire import send_damaged
from tests.service.conftest import FEATURES
from tests.soak.target import Target

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("send", [send_requests, send_damaged, send_frames])
def test_every_case_is_answered_without_a_5xx(
    artifacts: Path, send: Callable[[Target, Random, int, Results], None]
) -> None:
    """Each case is answered or its connection closed in time, none with a 5xx or a traceback, and the stop is clean."""
    results = Results()
    with ServiceProcess(artifacts) as service:
        send(Target(service.port, FEATURES), Random(7), 2000, results)
        assert service.stop() == 0
        assert service.error_lines() == []
    assert results.cases.total() >= 2000
    assert (results.server_errors, results.unanswered) == (0, 0), results.shown
