"""A bounded map of values that expire, whose room is shared among the tenants that store them."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ExpiringMap(Generic[K, V]):
    """A map that is limited in the number, the bytes and the age of its values; each tenant has keys of its own.

    The age of a value is counted from its `put`; reading does not renew it. `put` drops values beyond the limits: the
    oldest of the tenant that stores it while that tenant has more than an equal part of the limit, else the oldest of
    the tenant that has most. So a tenant within its equal part loses nothing by what others store. `expire` drops
    values that are too old; these can be read until then. Each method takes constant time on average, except that
    `expire` checks each tenant, and `put` may have to find the one that has most.

    `_kept` has by tenant (time of expiry, value) by key, the oldest first; the times never decrease, as all values may
    become equally old. It has no empty maps. `_count` and `_bytes` are the number of all values and the sum of their
    `size`, `_bytes_of` that sum of each tenant.
    """

    def __init__(
        self,
        most: int,
        seconds: float = math.inf,
        *,
        clock: Callable[[], float] = time.monotonic,
        most_bytes: float = math.inf,
        size: Callable[[V], int] = lambda _: 0,
        dropped: Callable[[K, V], None] = lambda _key, _value: None,
    ) -> None:
        """Create an empty map of at most `most` values and `most_bytes` bytes, each kept for `seconds`.

        `size` returns the bytes of a value. `dropped` is called with each key and value that a limit or its age
        removes, but not with those that are popped or replaced.
        """
        self._most, self._seconds, self._most_bytes = most, seconds, most_bytes
        self._clock, self._size, self._dropped = clock, size, dropped
        self._kept: dict[str, OrderedDict[K, tuple[float, V]]] = {}
        self._bytes_of: dict[str, int] = {}
        self._count = self._bytes = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"<ExpiringMap {self._count} values of {self._bytes} bytes, {len(self._kept)} tenants>"

    def get(self, tenant: str, key: K) -> V | None:
        """Return the value of a tenant's key, None where there is none."""
        values = self._kept.get(tenant)
        kept = values.get(key) if values is not None else None
        return kept[1] if kept is not None else None

    def put(self, tenant: str, key: K, value: V) -> None:
        """Store a value as the tenant's newest, instead of the key's present value; drop values beyond the limits."""
        self.pop(tenant, key)
        self._kept.setdefault(tenant, OrderedDict())[key] = (self._clock() + self._seconds, value)
        self._add(tenant, 1, self._size(value))
        while self._count > self._most:
            self._drop_oldest(self._over(tenant, lambda each: len(self._kept[each]), self._most))
        while self._bytes > self._most_bytes:
            self._drop_oldest(self._over(tenant, lambda each: self._bytes_of[each], self._most_bytes))

    def pop(self, tenant: str, key: K) -> V | None:
        """Remove the value of a tenant's key and return it, None where there is none."""
        values = self._kept.get(tenant)
        kept = values.pop(key, None) if values is not None else None
        if kept is None:
            return None
        self._add(tenant, -1, -self._size(kept[1]))
        return kept[1]

    def expire(self) -> None:
        """Drop the values that are too old."""
        now = self._clock()
        for tenant, values in list(self._kept.items()):
            while values and next(iter(values.values()))[0] <= now:
                self._drop_oldest(tenant)

    def _over(self, tenant: str, amount: Callable[[str], int], limit: float) -> str:
        """Return who loses a value: the tenant that stores if it has more than an equal part, else the largest."""
        if tenant in self._kept and amount(tenant) * len(self._kept) > limit:
            return tenant
        return max(self._kept, key=amount)

    def _drop_oldest(self, tenant: str) -> None:
        key, (_, value) = self._kept[tenant].popitem(last=False)
        self._add(tenant, -1, -self._size(value))
        self._dropped(key, value)

    def _add(self, tenant: str, count: int, size: int) -> None:
        """Count a value that was added to a tenant's, or taken from them."""
        self._count += count
        self._bytes += size
        self._bytes_of[tenant] = self._bytes_of.get(tenant, 0) + size
        if not self._kept[tenant]:
            del self._kept[tenant], self._bytes_of[tenant]
