"""One client's costly bytes do not keep another client waiting: each attack is compared with a quiet service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.conftest import FEATURES, RunningServer
from tests.soak.attacks import ATTACKS
from tests.soak.starvation import attacking
from tests.soak.target import Target
from tests.soak.victim import percentile, step_for

pytestmark = [pytest.mark.slow, pytest.mark.alone]

SECONDS = 2.0
SHARE = 0.95
OTHERS = ("silent sockets", "unread answers", "hoarded sessions")
"""Attacks that leave something behind, and so need a service of their own."""


@pytest.fixture(scope="module")
def target(artifacts: Path) -> Iterator[Target]:
    server = RunningServer(artifacts)
    yield Target(int(server.url.rpartition(":")[2]), FEATURES)
    assert server.stop() == 0


@pytest.mark.parametrize("attack", [name for name in ATTACKS if name not in OTHERS])
def test_another_client_is_answered_meanwhile(target: Target, attack: str) -> None:
    """The 95th percentile of another client's steps stays near that of the quiet service, and none waits for long."""
    quiet, _ = step_for(target, 1.0)
    with attacking(target, attack):
        busy, refused = step_for(target, SECONDS)
    again, _ = step_for(target, 1.0)  # the machine has other work as well
    base, found = max(percentile(quiet, SHARE), percentile(again, SHARE)), percentile(busy, SHARE)
    print(json.dumps({attack: [round(value * 1000, 2) for value in (base, found, max(busy))]}))
    assert not refused
    assert found < 4 * base + 0.01, f"{base * 1000:.1f} ms, under attack {found * 1000:.1f} ms"
    assert max(busy) < 0.25 + 4 * max(*quiet, *again)
