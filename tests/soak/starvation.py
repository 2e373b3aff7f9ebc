"""Steps of one client while another one attacks, beside its steps on the quiet service, in windows that take turns."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults.process import ServiceProcess
from tests.soak.target import Target
from tests.soak.victim import percentile, step_for

_HEAD_START = 1.0
"""Seconds that an attack has before the victim's steps are timed."""
_LONGEST = 120
"""Seconds after which an attack ends by itself."""
_NICENESS = 10
"""An attacker has a machine of its own: here it has the processor time that the service and the victim leave."""


@dataclass(slots=True)
class Windows:
    """The seconds of the victim's steps, alone and under attack, and the statuses of those that were refused."""

    alone: list[float] = field(default_factory=list)
    attacked: list[float] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The 99th percentile under attack, divided by that alone."""
        return percentile(self.attacked, 0.99) / percentile(self.alone, 0.99)


def measure(service: ServiceProcess, attack: str, victim: Target, key: str, rounds: int, seconds: float) -> Windows:
    """Time the victim's steps in `rounds` pairs of windows of some seconds: alone, then under attack."""
    found = Windows()
    for _ in range(rounds):
        found.alone += step_for(victim, seconds)[0]
        with attacking(victim, attack, key):
            times, refused = step_for(victim, seconds)
        found.attacked += times
        found.refused += refused
        _settle(victim)
    return found


@contextmanager
def attacking(target: Target, attack: str, key: str = "") -> Iterator[None]:
    """Have a process attack while the block runs, from a second before it on."""
    arguments = [attack, target.port, target.features, _LONGEST, key]
    command = ["nice", "-n", str(_NICENESS), sys.executable, "-m", "tests.soak.attacks", *map(str, arguments)]
    attacker = subprocess.Popen(command)
    try:
        time.sleep(_HEAD_START)
        yield
    finally:
        attacker.kill()
        attacker.wait()


def _settle(victim: Target) -> None:
    """Wait until the service has dealt with what the attack has left: ten quick steps in succession."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        times, _ = step_for(victim, 0.05)
        if max(times) < 0.005:
            return
        time.sleep(0.2)
