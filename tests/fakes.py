"""Fakes, used only where the real part cannot do what a test needs."""


class FakeClock:
    """A clock whose time is changed by the test."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
