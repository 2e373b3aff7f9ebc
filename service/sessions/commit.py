"""Commits: how a batch of steps that were run becomes the state of their sessions."""

from collections.abc import Sequence

from service.engine.work import Commit, Done
from service.errors import ServiceError


class MemoryCommitter:
    """Applies commits at once: the state of a session is in this process's memory alone."""

    pending_rows = 0

    def apply(self, commits: Sequence[Commit], now: float, done: Done) -> None:
        """Have every session that is still live point at its new row; if one raises, those before it are answered."""
        released: list[int] = []
        refused: dict[int, ServiceError] = {}
        try:
            for session, slot, step, digest, answer, _, _ in commits:
                if session.ended is None:
                    released.append(session.advance(slot, step, digest, answer, now))
                else:
                    refused[len(released)] = session.ended
                    released.append(slot)
        finally:
            done(commits[: len(released)], released, refused)
