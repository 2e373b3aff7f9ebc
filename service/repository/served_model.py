"""One version of a model in service, and its lifecycle."""

import enum
from collections import Counter

from models.card import ModelCard
from service.codec.codec import Codec
from service.engine.batcher import Batcher
from service.engine.quota import Quota, Shares
from service.engine.runner import Runner
from service.errors import ServiceError


class ModelState(enum.Enum):
    """The lifecycle of a version of a model."""

    SERVING = "takes new sessions"
    REPLACED = "a newer version takes new sessions; its own sessions continue"
    RETIRED = "its sessions have ended; queued work is still run"
    CLOSED = "its engine and its memory are released"


_PREVIOUS = {
    ModelState.REPLACED: (ModelState.SERVING,),
    ModelState.RETIRED: (ModelState.SERVING, ModelState.REPLACED),
    ModelState.CLOSED: (ModelState.SERVING, ModelState.REPLACED, ModelState.RETIRED),
}
"""The states from which each state can be entered; a version begins as SERVING."""


class ServedModel:
    """One version of a model: its card, arena, runner, batcher and codec, and the counts of its sessions.

    `state` changes only in `replace`, `retire` and `close`. `retired` is whether it is RETIRED or CLOSED; it is a field
    because it is read with every use of a session. `sessions` counts the live sessions, `sessions_created` and
    `sessions_expired` all that were created or expired so far. `promised` is the number of arena rows that live
    sessions may occupy between their steps, 1 + `keep` each; it is at most `max_sessions`. `quota` divides these rows
    among the tenants, and `sessions_of` has the number of live sessions of each. All of them change in `opened` and
    `ended` alone. `state_bytes` is the size of one session's state.
    """

    def __init__(
        self, card: ModelCard, runner: Runner, batcher: Batcher, codec: Codec, max_sessions: int, shares: Shares
    ) -> None:
        self.card, self.runner, self.batcher, self.codec = card, runner, batcher, codec
        self.arena = runner.arena
        self.state_bytes = card.state_bytes
        self.max_sessions = max_sessions
        self.promised = self.sessions = self.sessions_created = self.sessions_expired = 0
        self.quota = Quota(max_sessions, shares)
        self.sessions_of: Counter[str] = Counter()
        self.state = ModelState.SERVING
        self.retired = False

    def __repr__(self) -> str:
        return f"<ServedModel {self.name} {self.card.version} {self.state.name}, {self.sessions} sessions>"

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def memory(self) -> int:
        """The size of its arena in bytes."""
        return self.state_bytes * self.arena.slots.count

    def opened(self, tenant: str, keep: int) -> None:
        """Count a session that was opened, which may keep `keep` rows beside its own."""
        self.promised += 1 + keep
        self.quota.held[tenant] += 1 + keep
        self.sessions += 1
        self.sessions_of[tenant] += 1
        self.sessions_created += 1

    def ended(self, tenant: str, keep: int, *, expired: bool) -> None:
        """Count a session that ended."""
        self.promised -= 1 + keep
        self.quota.held[tenant] -= 1 + keep
        self.sessions -= 1
        self.sessions_of[tenant] -= 1
        self.sessions_expired += expired

    def replace(self) -> None:
        """Take no more new sessions: a newer version takes them.

        Raises:
            ValueError: It is not SERVING.
        """
        self._change(ModelState.REPLACED)

    def retire(self) -> None:
        """End its sessions; the next request for each is answered with ModelReplaced.

        Raises:
            ValueError: It is RETIRED or CLOSED.
        """
        self._change(ModelState.RETIRED)

    def close(self, why: ServiceError) -> None:
        """Refuse all work with an error, and release the runner; its last sessions are answered with ModelReplaced.

        Raises:
            ValueError: It is CLOSED.
        """
        self._change(ModelState.CLOSED)
        self.batcher.close(why)
        self.runner.close()

    def _change(self, state: ModelState) -> None:
        """Enter a state; raise ValueError where it cannot follow the present one."""
        if self.state not in _PREVIOUS[state]:
            expected = " or ".join(before.name for before in _PREVIOUS[state])
            raise ValueError(f"{state.name}: expected a model that is {expected}, found {self!r}")
        self.state = state
        self.retired = state in (ModelState.RETIRED, ModelState.CLOSED)

    def counts(self) -> dict[str, int]:
        """Return the counts that /metrics shows of a version of a model."""
        return {
            "steps": self.batcher.statistics.row_steps,
            "runs": self.batcher.statistics.run_count,
            "rows": self.batcher.statistics.rows,
            "sessions_created": self.sessions_created,
            "sessions_expired": self.sessions_expired,
            "sessions_lost": 0,
            "sessions_active": self.sessions,
            "queue_entries": self.batcher.waiting,
            "slots_free": self.arena.slots.free,
            "state_bytes": self.state_bytes * self.arena.slots.leased,
        }

    def last_counts(self) -> dict[str, int]:
        """Return the counts that /metrics shows once it is closed: sessions that it still had are lost."""
        return self.counts() | {
            "sessions_lost": self.sessions,
            "sessions_active": 0,
            "queue_entries": 0,
            "slots_free": 0,
            "state_bytes": 0,
        }
