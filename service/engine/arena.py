"""The arena: the preallocated rows of every state, and which of them are leased."""

import numpy as np
import onnxruntime as ort

from models.card import StateSpec
from service.errors import RefusedToStart

INITIAL = 0
"""The slot of the initial state. Never written."""
SINK = 1
"""The slot that may be written and is never read."""
RESERVED = 2


class ArenaExhausted(Exception):
    """No slot is free; the counts that admit sessions make this impossible."""


class Slots:
    """Hands out rows, the last freed first.

    `_fresh` is the lowest row never handed out; `_freed` holds rows that came back. A row is leased or free, never
    both; rows 0 and 1 are neither. `_shared` counts for a leased row its holders beyond the first.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._fresh = RESERVED
        self._freed: list[int] = []
        self._shared: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Slots {self.leased} leased, {self.free} free>"

    @property
    def leased(self) -> int:
        return self._fresh - RESERVED - len(self._freed)

    @property
    def free(self) -> int:
        return self.count - RESERVED - self.leased

    def lease(self) -> int:
        """Lease a row; what it holds is undefined until it is written."""
        if self._freed:
            return self._freed.pop()
        if self._fresh >= self.count:
            raise ArenaExhausted
        self._fresh += 1
        return self._fresh - 1

    def lease_many(self, count: int) -> list[int]:
        """Lease several rows, or none where there are not enough.

        Raises:
            ArenaExhausted: Fewer rows are free.
        """
        freed, fresh = self._freed, self._fresh
        left = max(len(freed) - count, 0)
        more = count - len(freed) + left
        if fresh + more > self.count:
            raise ArenaExhausted
        reused = freed[left:]
        del freed[left:]
        self._fresh += more
        return [*reused, *range(fresh, self._fresh)] if more else reused

    def share(self, slot: int) -> None:
        """Count one more holder of a leased row."""
        if slot > SINK:
            self._shared[slot] = self._shared.get(slot, 0) + 1

    def release(self, slot: int) -> None:
        """Release a row; it is free once its last holder has released it. The reserved rows have no holders."""
        if slot <= SINK:
            return
        if self._shared and slot in self._shared:
            self._shared[slot] -= 1
            if not self._shared[slot]:
                del self._shared[slot]
        else:
            self._freed.append(slot)

    def release_many(self, slots: list[int]) -> None:
        """Release several rows."""
        for slot in slots:
            if slot > SINK:
                if self._shared:
                    self.release(slot)
                else:
                    self._freed.append(slot)


class Arena:
    """One tensor [slots, *shape] for each state, held where the provider computes."""

    def __init__(self, states: tuple[StateSpec, ...], slots: int, device: str = "cpu") -> None:
        self.slots = Slots(slots)
        self.readable = device == "cpu"
        self.tensors: dict[str, ort.OrtValue] = {}
        self.rows: dict[str, np.ndarray] = {}
        """The tensors as numpy sees them; on the CPU both are one memory."""
        for state in states:
            try:
                rows = np.zeros((slots, *state.shape), np.dtype(state.dtype))
            except MemoryError as exc:
                raise RefusedToStart(f"no memory for {slots} rows of state {state.name}: lower --state-memory") from exc
            rows[INITIAL] = (
                np.reshape(state.initial, state.shape) if isinstance(state.initial, tuple) else state.initial
            )
            self.rows[state.name] = rows
            self.tensors[state.name] = ort.OrtValue.ortvalue_from_numpy(rows, device, 0)

    def row(self, slot: int) -> dict[str, np.ndarray]:
        """Return a copy of one row of every state (CPU only)."""
        return {name: np.array(rows[slot]) for name, rows in self.rows.items()}

    def drop(self) -> None:
        """Free the memory; slots can still be released."""
        self.rows.clear()
        self.tensors.clear()

    def write(self, slot: int, row: dict[str, np.ndarray]) -> None:
        """Fill a leased row that has not been read yet (CPU only)."""
        for name, values in row.items():
            self.rows[name][slot] = values
