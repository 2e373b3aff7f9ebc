"""A reference model of the session API: the answer to every request, computed with numpy and a few lists.

The recurrence is h ← relu(h / 2 + x), y = h, in float32: halving is exact and there is one rounding, so numpy gives
the same bits as the engine. The model has no slots, queues or encodings: rows are numbered as they are written, and a
row that two sessions share has one number.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tests.service.step_clients import Refused, StepAnswer, StepSpec

HOUR = 3600.0


class Checkpoint(NamedTuple):
    """A session between two requests: its row and value, the steps taken, and the last request."""

    row: int = 0
    value: float = 0.0
    step: int = 0
    first: int = 0
    """The index of the last request's first step; 0 if its answer is not stored."""
    inputs: bytes = b""
    outputs: bytes = b""


@dataclass(eq=False)
class ReferenceSession:
    """A session, live or ended."""

    tenant: str
    idle_limit: float
    keep: int
    used: float
    name: str | None = None
    id: str = ""
    """Set when the service has returned it."""
    epoch: int = 0
    now: Checkpoint = field(default_factory=Checkpoint)
    kept: list[Checkpoint] = field(default_factory=list)
    ended: Refused | None = None
    ended_at: float = 0.0

    @property
    def live(self) -> bool:
        return self.ended is None

    def described(self) -> dict[str, object]:
        """Return its description without the times."""
        return {"step": self.now.step, "epoch": self.epoch, "keep": self.keep, "idle_limit": self.idle_limit}


@dataclass
class ReferenceModel:
    """All sessions of one model, in the sequence in which they were opened, and the creation keys of some of them.

    `rows` counts the rows ever written. Every operation raises Refused if the service has to refuse it.
    """

    max_rows: int
    max_rows_of_tenant: int
    default_limit: float
    time: float
    sessions: list[ReferenceSession] = field(default_factory=list)
    keys: dict[tuple[str, str], tuple[bytes, ReferenceSession, float]] = field(default_factory=dict)
    names: dict[tuple[str, str | None], ReferenceSession] = field(default_factory=dict)
    """The last ended session of each name of a tenant."""
    rows: int = 0

    @property
    def live(self) -> list[ReferenceSession]:
        return [session for session in self.sessions if session.live]

    @property
    def promised(self) -> int:
        return sum(1 + session.keep for session in self.live)

    def promised_to(self, tenant: str) -> int:
        return sum(1 + session.keep for session in self.live if session.tenant == tenant)

    def overdue(self, session: ReferenceSession) -> bool:
        return session.live and session.used + session.idle_limit <= self.time

    def find(self, session: ReferenceSession | None, tenant: str) -> ReferenceSession:
        """Return the session if the tenant may use it; end it if it is overdue."""
        if session is None or session.tenant != tenant:
            raise Refused("session_not_found")
        if self.overdue(session):
            self._end(session, "session_expired")
        if session.ended is not None:
            raise session.ended
        return session

    def create(
        self, tenant: str, idle_limit: float | None = None, keep: int | None = None, name: str | None = None
    ) -> ReferenceSession:
        if self.promised + 1 + (keep or 0) > self.max_rows:
            raise Refused("table_full")
        if self.promised_to(tenant) + 1 + (keep or 0) > self.max_rows_of_tenant:
            raise Refused("tenant_full")
        session = ReferenceSession(tenant, idle_limit or self.default_limit, keep or 0, self.time, name)
        self.sessions.append(session)
        return session

    def create_with_history(
        self, tenant: str, history: bytes, idle_limit: float | None, keep: int | None
    ) -> ReferenceSession:
        """Open a session and take the steps of a history; if they are refused, no session is opened."""
        session = self.create(tenant, idle_limit, keep)
        try:
            self.step(session, tenant, StepSpec(history))
        except Refused:
            self.sessions.remove(session)
            raise
        session.now, session.kept = Checkpoint(session.now.row, session.now.value, session.now.step), []
        return session

    def create_from_snapshot(
        self, tenant: str, state: Checkpoint, idle_limit: float | None, keep: int | None
    ) -> ReferenceSession:
        """Open a session at the state of a snapshot."""
        session = self.create(tenant, idle_limit, keep)
        self._set_state(session, state)
        return session

    def session_of_key(self, tenant: str, key: str, body: bytes) -> ReferenceSession | None:
        """Return the session that a creation key has opened within the last hour."""
        known = self.keys.get((tenant, key))
        if known is None or known[2] + HOUR <= self.time:
            return None
        if known[0] != body:
            raise Refused("idempotency_conflict")
        return self.find(known[1], tenant)

    def step(self, session: ReferenceSession | None, tenant: str, spec: StepSpec, commit: bool = True) -> StepAnswer:
        session = self.find(session, tenant)
        now, number = session.now, spec.number
        expected = now.step + 1
        if spec.epoch not in (None, session.epoch):
            raise Refused("epoch_conflict", session.epoch)
        if number not in (None, expected):
            if number > expected:
                raise Refused("step_gap", expected)
            if number != now.first or not commit:
                raise Refused("step_too_old", expected)
            if spec.inputs != now.inputs:
                raise Refused("step_conflict", expected)
            session.used = self.time
            return StepAnswer(now.outputs, now.step, True)
        outputs = recurrence(now.value, spec.inputs)
        if not np.isfinite(outputs).all():
            raise Refused("state_not_finite")
        taken = StepAnswer(outputs.tobytes(), now.step + len(outputs), False)
        session.used = self.time
        if commit:
            session.kept = [*session.kept, now][-session.keep :] if session.keep else []
            self.rows += 1
            session.now = Checkpoint(self.rows, float(outputs[-1]), taken.step, expected, spec.inputs, taken.outputs)
        return taken

    def fork(
        self, session: ReferenceSession, tenant: str, idle_limit: float | None, keep: int | None
    ) -> ReferenceSession:
        session = self.find(session, tenant)
        forked = self.create(tenant, idle_limit or session.idle_limit, session.keep if keep is None else keep)
        forked.now, session.used = session.now, self.time
        return forked

    def rewind(self, session: ReferenceSession, tenant: str, requests: int) -> ReferenceSession:
        session = self.find(session, tenant)
        if requests > len(session.kept):
            raise Refused("rewind_too_far", len(session.kept))
        session.now, session.kept, session.used = session.kept[-requests], session.kept[:-requests], self.time
        session.epoch += 1
        return session

    def restore(self, session: ReferenceSession, tenant: str, state: Checkpoint) -> ReferenceSession:
        session = self.find(session, tenant)
        self._set_state(session, state)
        session.epoch, session.used = session.epoch + 1, self.time
        return session

    def extend(self, session: ReferenceSession, tenant: str, idle_limit: float) -> ReferenceSession:
        session = self.find(session, tenant)
        session.idle_limit, session.used = idle_limit, self.time
        return session

    def close(self, session: ReferenceSession, tenant: str) -> None:
        self._end(self.find(session, tenant), "session_closed")

    def fleet(
        self, tenant: str, keys: list[ReferenceSession | str], specs: list[StepSpec], create: bool
    ) -> tuple[list[StepAnswer | Refused], list[int], list[ReferenceSession]]:
        """Return the result of each row, the rows that open a session that is used, and those sessions."""
        found: list[ReferenceSession | Refused] = []
        for key in keys:
            try:
                session = (
                    key
                    if isinstance(key, ReferenceSession)
                    else self._named(tenant, key) or self.names.get((tenant, key))
                )
                found.append(self.find(session, tenant))
            except Refused as refused:
                found.append(refused)
        created, opened = [], []
        for row, key in enumerate(keys):
            if create and isinstance(key, str) and isinstance(found[row], Refused):
                try:
                    session = self._named(tenant, key)
                    if session is None:
                        session = self.create(tenant, name=key)
                        created.append(row)
                        opened.append(session)
                    found[row] = session
                except Refused as refused:
                    found[row] = refused
        rows: list[StepAnswer | Refused] = []
        for one, spec in zip(found, specs, strict=True):
            try:
                rows.append(one if isinstance(one, Refused) else self.step(one, tenant, spec))
            except Refused as refused:
                rows.append(refused)
        for row, session in list(zip(created, opened, strict=True)):
            if session.now.step == 0:  # none of its rows was taken
                self.sessions.remove(session)
                created.remove(row)
                opened.remove(session)
        return rows, created, opened

    def page(
        self, tenant: str, limit: int, after: ReferenceSession | None = None
    ) -> tuple[list[ReferenceSession], bool]:
        """Return a page of sessions, and whether another page follows."""
        if after is not None and (after.tenant != tenant or after.ended == Refused("session_not_found")):
            raise Refused("invalid_input")
        start = self.sessions.index(after) + 1 if after is not None else 0
        own = [session for session in self.sessions[start:] if session.live and session.tenant == tenant]
        listed: list[ReferenceSession] = []
        while own and len(listed) < limit:
            session = own.pop(0)
            if self.overdue(session):
                self._end(session, "session_expired")
            else:
                listed.append(session)
        return listed, len(listed) == limit and bool(own)

    def sweep(self, left: set[str]) -> int:
        """End the sessions that a sweep has ended, forget those that ended an hour ago; return how many have ended.

        `left` are the ids of the sessions that it has not ended. It must end every session that was overdue a second
        ago, and none that is not overdue.
        """
        swept = [session for session in self.live if session.id not in left]
        assert all(map(self.overdue, swept))
        assert not [
            session
            for session in self.live
            if session.id in left and session.used + session.idle_limit + 1 <= self.time
        ]
        for session in swept:
            self._end(session, "session_expired")
        for session in self.sessions:
            if not session.live and session.ended_at + HOUR <= self.time:
                session.ended = Refused("session_not_found")
        return len(swept)

    def _named(self, tenant: str, name: str) -> ReferenceSession | None:
        return next((session for session in self.live if (session.tenant, session.name) == (tenant, name)), None)

    def _end(self, session: ReferenceSession, code: str) -> None:
        session.ended, session.ended_at = Refused(code, session.now.step), self.time
        session.kept = []
        self.names[session.tenant, session.name] = session

    def _set_state(self, session: ReferenceSession, state: Checkpoint) -> None:
        self.rows += 1
        session.now, session.kept = Checkpoint(self.rows, state.value, state.step), []


def recurrence(value: float, inputs: bytes) -> np.ndarray:
    """Return the outputs (T,) of a chunk that starts at a state."""
    h, outputs = np.float32(value), []
    with np.errstate(over="ignore"):
        for x in np.frombuffer(inputs, "<f4"):
            h = np.maximum(np.float32(0), h / np.float32(2) + x)
            outputs.append(h)
    return np.array(outputs, "<f4")
