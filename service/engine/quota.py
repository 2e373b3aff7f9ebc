"""Quotas: how a limit that all groups of users share is divided, so that none of them can use all of it."""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(slots=True)
class Shares:
    """How limits are divided: the largest share of one group, and the number of groups, which may change.

    Where there is only one group, or the largest share is 1, limits are not divided.
    """

    largest: float = 1.0
    groups: int = 1


class Quota:
    """How much of a limit each group holds, and how much more it may take.

    A group may hold at most the largest share of the limit. The rest of the limit, divided equally among the other
    groups, gives the amount that is reserved for each group: it is never refused that much. What is not reserved goes
    to those who ask first. `held` has what each group holds; the caller changes it. `_most` and `_reserved` are for the
    number `_groups` of groups.
    """

    __slots__ = ("_groups", "_limit", "_most", "_reserved", "_shares", "held")

    def __init__(self, limit: int, shares: Shares) -> None:
        self._limit, self._shares = limit, shares
        self.held: defaultdict[Hashable, int] = defaultdict(int)
        self._groups = self._most = self._reserved = 0
        self._divide()

    def __repr__(self) -> str:
        return f"<Quota {dict(self.held)} of {self._limit}, at most {self.most}>"

    @property
    def most(self) -> int:
        """The most that one group may hold."""
        self._divide()
        return self._most

    @property
    def reserved(self) -> int:
        """The amount that each group can hold whatever the others do; at most the limit for all groups together."""
        self._divide()
        return self._reserved

    def _divide(self) -> None:
        """Divide the limit among the present number of groups."""
        groups, largest = self._shares.groups, self._shares.largest
        self._groups = groups
        self._most = self._reserved = self._limit
        if groups > 1:
            self._most = max(1, int(self._limit * largest))
            self._reserved = min(int(self._limit * (1 - largest) / (groups - 1)), self._limit // groups, self._most)

    def allows(self, group: Hashable, more: int = 1) -> bool:
        """Return whether a group may take `more`; for one that wants what is not reserved, all groups are added up."""
        if self._groups != self._shares.groups:
            self._divide()
        wanted, reserved = self.held[group] + more, self._reserved
        if more <= 0 or wanted <= reserved:
            return True
        if wanted > self._most:
            return False
        others = sum(max(0, held - reserved) for each, held in self.held.items() if each != group)
        return others + wanted - reserved <= self._limit - reserved * self._groups
