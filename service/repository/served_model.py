"""One version of a model in service, and its lifecycle."""

import enum

from models.card import ModelCard
from service.codec.codec import Codec
from service.engine.arena import row_bytes
from service.engine.batcher import Batcher
from service.engine.runner import Runner
from service.errors import ServiceError


class ModelState(enum.Enum):
    """The lifecycle of a version of a model."""

    SERVING = "takes new sessions"
    REPLACED = "a newer version takes the new sessions; those that it has go on"
    RETIRED = "its sessions are over; work that has been queued is still done"
    CLOSED = "its engine and its memory are gone"


_BEFORE = {
    ModelState.REPLACED: (ModelState.SERVING,),
    ModelState.RETIRED: (ModelState.SERVING, ModelState.REPLACED),
    ModelState.CLOSED: (ModelState.SERVING, ModelState.REPLACED, ModelState.RETIRED),
}
"""The states from which each one can be reached; SERVING is the first."""


class ServedModel:
    """One version of a model: its card, arena, runner, batcher and codec, and the counts of its sessions.

    `state` changes in `replace`, `retire` and `close` alone. `retired` tells that it is RETIRED or CLOSED; it is read
    with every use of a session. `promised` counts the rows that its live sessions may hold between their steps, at most
    `max_sessions`. `state_bytes` are those of one session's state.
    """

    def __init__(self, card: ModelCard, runner: Runner, batcher: Batcher, codec: Codec, max_sessions: int) -> None:
        self.card, self.runner, self.batcher, self.codec = card, runner, batcher, codec
        self.arena = runner.arena
        self.state_bytes = row_bytes(card.states)
        self.max_sessions = max_sessions
        self.promised = self.sessions = self.sessions_created = self.sessions_expired = 0
        self.state = ModelState.SERVING
        self.retired = False

    def __repr__(self) -> str:
        return f"<ServedModel {self.name} {self.card.version} {self.state.name}, {self.sessions} sessions>"

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def memory(self) -> int:
        """The bytes of its arena."""
        return self.state_bytes * self.arena.slots.count

    def replace(self) -> None:
        """Take no new sessions, as a newer version does.

        Raises:
            ValueError: It takes none already.
        """
        self._change(ModelState.REPLACED)

    def retire(self) -> None:
        """End its sessions; each answers so when it is used next.

        Raises:
            ValueError: They have ended already.
        """
        self._change(ModelState.RETIRED)

    def close(self, why: ServiceError) -> None:
        """Refuse all work, and free the arena and the runner; what sessions it still has answer that they ended.

        Raises:
            ValueError: It is closed already.
        """
        self._change(ModelState.CLOSED)
        self.batcher.close(why)
        self.runner.close()

    def _change(self, state: ModelState) -> None:
        """Change to a state that may follow the present one; raises ValueError."""
        if self.state not in _BEFORE[state]:
            expected = " or ".join(before.name for before in _BEFORE[state])
            raise ValueError(f"{state.name}: expected a model that is {expected}, found {self!r}")
        self.state = state
        self.retired = state in (ModelState.RETIRED, ModelState.CLOSED)

    def counts(self) -> dict[str, int]:
        """Return the numbers that metrics show of a model."""
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
        """Return the numbers that metrics show once it is closed: its sessions are lost, and it holds nothing."""
        return self.counts() | {
            "sessions_lost": self.sessions,
            "sessions_active": 0,
            "queue_entries": 0,
            "slots_free": 0,
            "state_bytes": 0,
        }
