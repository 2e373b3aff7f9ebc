"""A line of waiting jobs, of which those of different groups are taken in rotation."""

from collections import OrderedDict, deque
from collections.abc import Hashable
from itertools import chain

from service.engine.work import Job


class Line:
    """Jobs that wait, first in, first out within each group; after a job of one group, one of the next is taken.

    `first` has the jobs of `group`, whose job is next, and `others` those of each other group that has any, in the
    sequence in which their jobs follow. If `first` is empty, the whole line is. After a job is taken from `first`,
    `rotate` is called, unless `first` has more jobs and there are no others.
    """

    __slots__ = ("first", "group", "others")

    def __init__(self) -> None:
        self.group: Hashable = None
        self.first: deque[Job] = deque()
        self.others: OrderedDict[Hashable, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.first) + sum(map(len, self.others.values()))

    def of(self, group: Hashable) -> deque[Job]:
        """Return the jobs of a group, to which one is to be added; a group without jobs comes after all others."""
        if not self.first:
            self.group = group
        if group == self.group:
            return self.first
        jobs = self.others.get(group)
        if jobs is None:
            jobs = self.others[group] = deque()
        return jobs

    def drain(self) -> list[Job]:
        """Remove and return all jobs, those of each group together."""
        jobs = [*self.first, *chain.from_iterable(self.others.values())]
        self.first.clear()
        self.others.clear()
        return jobs

    def rotate(self) -> None:
        """Let the next group be first."""
        if self.others:
            if self.first:
                self.others[self.group] = self.first
            self.group, self.first = self.others.popitem(last=False)
