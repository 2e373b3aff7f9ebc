"""The session API as a plain model: what every request is answered, worked out in numpy and a few lists.

The recurrence is h ← relu(h / 2 + x), y = h, in float32: halving is exact and there is one rounding, so numpy gives
the very bits that the engine does. Nothing here knows of slots, queues or formats: rows are numbered as they are
written, and a row that two sessions hold has one number.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tests.service.ways_in import Order, Refused, Taken

FOR_AN_HOUR = 3600.0


class Moment(NamedTuple):
    """What a session points at: a row and its value, the steps taken, and the request that led there."""

    row: int = 0
    value: float = 0.0
    step: int = 0
    first: int = 0
    """The index of that request's first step; 0 where its answer is not kept."""
    inputs: bytes = b""
    outputs: bytes = b""


@dataclass(eq=False)
class Twin:
    """What is known of a session, live or ended."""

    tenant: str
    idle_limit: float
    keep: int
    used: float
    name: str | None = None
    id: str = ""
    """Filled in when the service has given it."""
    epoch: int = 0
    now: Moment = field(default_factory=Moment)
    kept: list[Moment] = field(default_factory=list)
    ended: Refused | None = None
    ended_at: float = 0.0

    @property
    def live(self) -> bool:
        return self.ended is None

    def described(self) -> dict[str, object]:
        """Return what its description says, but for the times."""
        return {"step": self.now.step, "epoch": self.epoch, "keep": self.keep, "idle_limit": self.idle_limit}


@dataclass
class World:
    """All sessions of one model, in the order in which they were opened, and the keys that opened some of them.

    `rows` counts the rows ever written. Every operation raises Refused where the service is to refuse it.
    """

    most_rows: int
    default_limit: float
    time: float
    twins: list[Twin] = field(default_factory=list)
    keys: dict[tuple[str, str], tuple[bytes, Twin, float]] = field(default_factory=dict)
    names: dict[tuple[str, str | None], Twin] = field(default_factory=dict)
    """Who had a tenant's name last, of those that ended."""
    rows: int = 0

    @property
    def live(self) -> list[Twin]:
        return [twin for twin in self.twins if twin.live]

    @property
    def promised(self) -> int:
        return sum(1 + twin.keep for twin in self.live)

    def overdue(self, twin: Twin) -> bool:
        return twin.live and twin.used + twin.idle_limit <= self.time

    def find(self, twin: Twin | None, tenant: str) -> Twin:
        """Return the session, if the tenant may use it; one that is found overdue has ended."""
        if twin is None or twin.tenant != tenant:
            raise Refused("session_not_found")
        if self.overdue(twin):
            self._end(twin, "session_expired")
        if twin.ended is not None:
            raise twin.ended
        return twin

    def create(
        self, tenant: str, idle_limit: float | None = None, keep: int | None = None, name: str | None = None
    ) -> Twin:
        if self.promised + 1 + (keep or 0) > self.most_rows:
            raise Refused("table_full")
        twin = Twin(tenant, idle_limit or self.default_limit, keep or 0, self.time, name)
        self.twins.append(twin)
        return twin

    def create_behind(self, tenant: str, history: bytes, idle_limit: float | None, keep: int | None) -> Twin:
        """Open a session and take a history's steps; where they cannot be taken, there is none."""
        twin = self.create(tenant, idle_limit, keep)
        try:
            self.step(twin, tenant, Order(history))
        except Refused:
            self.twins.remove(twin)
            raise
        twin.now, twin.kept = Moment(twin.now.row, twin.now.value, twin.now.step), []
        return twin

    def create_at(self, tenant: str, state: Moment, idle_limit: float | None, keep: int | None) -> Twin:
        """Open a session at a snapshot."""
        twin = self.create(tenant, idle_limit, keep)
        self._put(twin, state)
        return twin

    def recall(self, tenant: str, key: str, body: bytes) -> Twin | None:
        """Return the session that a key opened within the hour."""
        known = self.keys.get((tenant, key))
        if known is None or known[2] + FOR_AN_HOUR <= self.time:
            return None
        if known[0] != body:
            raise Refused("idempotency_conflict")
        return self.find(known[1], tenant)

    def step(self, twin: Twin | None, tenant: str, order: Order, commit: bool = True) -> Taken:
        twin = self.find(twin, tenant)
        now, number = twin.now, order.number
        expected = now.step + 1
        if order.epoch not in (None, twin.epoch):
            raise Refused("epoch_conflict", twin.epoch)
        if number not in (None, expected):
            if number > expected:
                raise Refused("step_gap", expected)
            if number != now.first or not commit:
                raise Refused("step_too_old", expected)
            if order.inputs != now.inputs:
                raise Refused("step_conflict", expected)
            twin.used = self.time
            return Taken(now.outputs, now.step, True)
        outputs = recurrence(now.value, order.inputs)
        if not np.isfinite(outputs).all():
            raise Refused("state_not_finite")
        taken = Taken(outputs.tobytes(), now.step + len(outputs), False)
        twin.used = self.time
        if commit:
            twin.kept = [*twin.kept, now][-twin.keep :] if twin.keep else []
            self.rows += 1
            twin.now = Moment(self.rows, float(outputs[-1]), taken.step, expected, order.inputs, taken.outputs)
        return taken

    def fork(self, twin: Twin, tenant: str, idle_limit: float | None, keep: int | None) -> Twin:
        twin = self.find(twin, tenant)
        forked = self.create(tenant, idle_limit or twin.idle_limit, twin.keep if keep is None else keep)
        forked.now, twin.used = twin.now, self.time
        return forked

    def rewind(self, twin: Twin, tenant: str, requests: int) -> Twin:
        twin = self.find(twin, tenant)
        if requests > len(twin.kept):
            raise Refused("rewind_too_far", len(twin.kept))
        twin.now, twin.kept, twin.used = twin.kept[-requests], twin.kept[:-requests], self.time
        twin.epoch += 1
        return twin

    def restore(self, twin: Twin, tenant: str, state: Moment) -> Twin:
        twin = self.find(twin, tenant)
        self._put(twin, state)
        twin.epoch, twin.used = twin.epoch + 1, self.time
        return twin

    def extend(self, twin: Twin, tenant: str, idle_limit: float) -> Twin:
        twin = self.find(twin, tenant)
        twin.idle_limit, twin.used = idle_limit, self.time
        return twin

    def close(self, twin: Twin, tenant: str) -> None:
        self._end(self.find(twin, tenant), "session_closed")

    def fleet(
        self, tenant: str, keys: list[Twin | str], orders: list[Order], create: bool
    ) -> tuple[list[Taken | Refused], list[int], list[Twin]]:
        """Return what comes of each row, the rows that open a session, and those sessions."""
        found: list[Twin | Refused] = []
        for key in keys:
            try:
                twin = key if isinstance(key, Twin) else self._named(tenant, key) or self.names.get((tenant, key))
                found.append(self.find(twin, tenant))
            except Refused as refused:
                found.append(refused)
        created, opened = [], []
        for row, key in enumerate(keys):
            if create and isinstance(key, str) and isinstance(found[row], Refused):
                try:
                    twin = self._named(tenant, key)
                    if twin is None:
                        twin = self.create(tenant, name=key)
                        created.append(row)
                        opened.append(twin)
                    found[row] = twin
                except Refused as refused:
                    found[row] = refused
        rows: list[Taken | Refused] = []
        for one, order in zip(found, orders, strict=True):
            try:
                rows.append(one if isinstance(one, Refused) else self.step(one, tenant, order))
            except Refused as refused:
                rows.append(refused)
        return rows, created, opened

    def page(self, tenant: str, limit: int, after: Twin | None = None) -> tuple[list[Twin], bool]:
        """Return a page of sessions, and whether another one is to follow."""
        if after is not None and (after.tenant != tenant or after.ended == Refused("session_not_found")):
            raise Refused("invalid_input")
        start = self.twins.index(after) + 1 if after is not None else 0
        own = [twin for twin in self.twins[start:] if twin.live and twin.tenant == tenant]
        listed: list[Twin] = []
        while own and len(listed) < limit:
            twin = own.pop(0)
            if self.overdue(twin):
                self._end(twin, "session_expired")
            else:
                listed.append(twin)
        return listed, len(listed) == limit and bool(own)

    def sweep(self, left: set[str]) -> int:
        """End what a sweep has ended, and forget what ended an hour ago; return how many have ended.

        `left` are the ids of those that it has left: none that was overdue a second ago, and all that are not yet.
        """
        swept = [twin for twin in self.live if twin.id not in left]
        assert all(map(self.overdue, swept))
        assert not [twin for twin in self.live if twin.id in left and twin.used + twin.idle_limit + 1 <= self.time]
        for twin in swept:
            self._end(twin, "session_expired")
        for twin in self.twins:
            if not twin.live and twin.ended_at + FOR_AN_HOUR <= self.time:
                twin.ended = Refused("session_not_found")
        return len(swept)

    def _named(self, tenant: str, name: str) -> Twin | None:
        return next((twin for twin in self.live if (twin.tenant, twin.name) == (tenant, name)), None)

    def _end(self, twin: Twin, code: str) -> None:
        twin.ended, twin.ended_at = Refused(code, twin.now.step), self.time
        twin.kept = []
        self.names[twin.tenant, twin.name] = twin

    def _put(self, twin: Twin, state: Moment) -> None:
        self.rows += 1
        twin.now, twin.kept = Moment(self.rows, state.value, state.step), []


def recurrence(value: float, inputs: bytes) -> np.ndarray:
    """Return the outputs (T,) from a state on."""
    h, outputs = np.float32(value), []
    with np.errstate(over="ignore"):
        for x in np.frombuffer(inputs, "<f4"):
            h = np.maximum(np.float32(0), h / np.float32(2) + x)
            outputs.append(h)
    return np.array(outputs, "<f4")
