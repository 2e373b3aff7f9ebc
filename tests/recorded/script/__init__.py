"""The requests, a file for each family: what is sent follows from what was answered before."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.recorded.client import Client


@dataclass(frozen=True, slots=True)
class Family:
    """Requests that are played on one server, from its start to its end.

    In `flags`, {folder} stands for the folder that `prepare` may write files into. `both_ways` tells that they are
    answered alike without the fast path.
    """

    play: Callable[[Client], None]
    models: tuple[str, ...] = ("sum", "pair")
    flags: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None
    both_ways: bool = False
