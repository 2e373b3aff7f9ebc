"""When a failed request is sent again, after which pause, and how often."""

import random
from dataclasses import dataclass

from stamina import AsyncRetryingCaller, RetryingCaller

from cellstream_client.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Retries:
    """Limit the attempts at a request: at most `attempts`, none after one that fails `seconds` after the first began.

    Pauses, in seconds, double from `pause` to `longest_pause`, each with up to `jitter` added at random. If the service
    sends `Retry-After`, that is the pause. `Retries(attempts=1)` sends every request once.
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
        """Return whether a failed request is sent again: False, True after the next pause, or the seconds to wait."""
        if not isinstance(error, Unavailable):
            return False
        if error.retry_after is None:
            return True
        if error.retry_after > self.seconds:
            return False
        return error.retry_after + random.uniform(0, self.jitter)
