"""Steps of one client while another one attacks, beside its steps on the quiet service, in windows that take turns."""

import subprocess
import sys
import time
from dataclasses import dataclass, field

from tests.faults.process import ServiceProcess
from tests.soak.target import Target
from tests.soak.victim import percentile, step_for

_HEAD_START = 1.0
"""Seconds that an attack has before the victim's steps are timed."""
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
        arguments = [attack, victim.port, victim.features, seconds + 3, key]
        attacker = subprocess.Popen(
            ["nice", "-n", str(_NICENESS), sys.executable, "-m", "tests.soak.attacks", *map(str, arguments)]
        )
        time.sleep(_HEAD_START)
        times, refused = step_for(victim, seconds)
        found.attacked += times
        found.refused += refused
        attacker.kill()
        attacker.wait()
        _settle(victim)
    return found


def _settle(victim: Target) -> None:
    """Wait until the service has dealt with what the attack has left: ten quick steps in succession."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        times, _ = step_for(victim, 0.05)
        if max(times) < 0.005:
            return
        time.sleep(0.2)
