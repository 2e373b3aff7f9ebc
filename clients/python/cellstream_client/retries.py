"""When a request is sent again, how long after, and when it is given up."""

import random
from dataclasses import dataclass

from stamina import AsyncRetryingCaller, RetryingCaller

from cellstream_client.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Retries:
    """At most `attempts`, and no further pause once `seconds` have gone by since the first.

    Pauses double from `pause` to `longest_pause`, each with up to `jitter` seconds at random on top; where the service
    says `Retry-After`, that takes the pause's place. `Retries(attempts=1)` sends everything once.
    """

    attempts: int = 10
    seconds: float = 30.0
    pause: float = 0.05
    longest_pause: float = 3.0
    jitter: float = 0.25

    def caller(self) -> RetryingCaller:
        return RetryingCaller(*self._values())

    def async_caller(self) -> AsyncRetryingCaller:
        return AsyncRetryingCaller(*self._values())

    def _values(self) -> tuple[int, float, float, float, float]:
        return self.attempts, self.seconds, self.pause, self.longest_pause, self.jitter

    def after(self, error: Exception) -> bool | float:
        """Return whether a failed request is sent again: no, yes after the next pause, or after so many seconds."""
        if not isinstance(error, Unavailable):
            return False
        if error.retry_after is None:
            return True
        if error.retry_after > self.seconds:
            return False
        return error.retry_after + random.uniform(0, self.jitter)
