"""One session as its client knows it: where it stands, and the inputs that are still to come."""

from collections import deque
from random import Random

from tests.faults.accumulator import EXACT

_PRIME = 16_381
MOST_INPUTS = 1_000
"""So many different inputs of one session add up to less than what float32 counts exactly."""
assert MOST_INPUTS * _PRIME < EXACT


class Walk:
    """A session and its client's place in it.

    `step` is the last step that is known to be taken, `requests` the latest requests that led there, `epoch` what the
    session is said to be in where it can be rewound. Inputs are drawn once each, from a permutation of 1..16380.
    """

    def __init__(self, session: str, rng: Random, length: int, keep: int = 0) -> None:
        self.session, self.rng = session, rng
        self.step = self.epoch = 0
        self.keep, self.left = keep, min(length, MOST_INPUTS)
        self.requests: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=max(keep, 2))
        self._value, self._stride = rng.randrange(1, _PRIME), rng.randrange(1, _PRIME)

    def draw(self, most: int = 5) -> tuple[int, ...]:
        """Return inputs for the next request: mostly one, now and then a few."""
        count = 1 if self.rng.random() < 0.7 else self.rng.randint(1, most)
        drawn = []
        for _ in range(max(1, min(count, self.left))):
            self._value = (self._value + self._stride) % _PRIME or self._stride
            drawn.append(self._value)
        self.left -= len(drawn)
        return tuple(drawn)

    def taken(self, first: int, inputs: tuple[int, ...]) -> None:
        """Note that a request was taken."""
        self.step = first + len(inputs) - 1
        self.requests.append((first, inputs))

    def rewound(self, requests: int, step: int, epoch: int) -> None:
        """Note that the last requests were taken back."""
        for _ in range(requests):
            self.requests.pop()
        self.step, self.epoch = step, epoch

    def branch(self, session: str, step: int, length: int) -> "Walk":
        """Return another session that goes on from here, with inputs that neither has had."""
        other = Walk(session, self.rng, min(length, self.left))
        other.step = step
        other._value, other._stride = self._value, self._stride
        return other
