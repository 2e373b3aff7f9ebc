"""A session as its client knows it: its step, its latest requests, and its future inputs."""

from collections import deque
from random import Random

from tests.faults.accumulator import EXACT

_PRIME = 16_381
MAX_INPUTS = 1_000
"""Largest number of inputs of a session, so that their sum is exact in float32."""
assert MAX_INPUTS * _PRIME < EXACT


class ClientSession:
    """A session as its client knows it.

    `step` is the last step that is known to be taken, `requests` are the latest requests before it, and `epoch` is the
    epoch that the service last reported. Every input is a different integer, from a permutation of 1..16380.
    """

    def __init__(self, session_id: str, rng: Random, length: int, keep: int = 0) -> None:
        self.id, self.rng = session_id, rng
        self.step = self.epoch = 0
        self.keep, self.left = keep, min(length, MAX_INPUTS)
        self.requests: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=max(keep, 2))
        self._value, self._stride = rng.randrange(1, _PRIME), rng.randrange(1, _PRIME)

    def draw(self, longest: int = 5) -> tuple[int, ...]:
        """Return the inputs of the next request: usually one, sometimes up to `longest`."""
        count = 1 if self.rng.random() < 0.7 else self.rng.randint(1, longest)
        drawn = []
        for _ in range(max(1, min(count, self.left))):
            self._value = (self._value + self._stride) % _PRIME or self._stride
            drawn.append(self._value)
        self.left -= len(drawn)
        return tuple(drawn)

    def taken(self, first: int, inputs: tuple[int, ...]) -> None:
        """Record that a request was taken."""
        self.step = first + len(inputs) - 1
        self.requests.append((first, inputs))

    def rewound(self, requests: int, step: int, epoch: int) -> None:
        """Record that the last requests were rewound."""
        for _ in range(requests):
            self.requests.pop()
        self.step, self.epoch = step, epoch

    def branch(self, session_id: str, step: int, length: int) -> "ClientSession":
        """Return a session that continues from this one, with inputs that neither has used."""
        other = ClientSession(session_id, self.rng, min(length, self.left))
        other.step = step
        other._value, other._stride = self._value, self._stride
        return other
