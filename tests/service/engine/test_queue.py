"""The two lines of one engine's queue."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, cast

from service.engine.queue import LONG_REST, SHORT_PAUSE, JobQueue
from service.engine.work import Job


@dataclass
class Asking:
    """What the queue asks of a job's waiter."""

    group: Hashable = None


@dataclass
class Waiting:
    """What the queue asks of a job."""

    short: bool
    alone: bool = False
    waiter: Asking = field(default_factory=Asking)


def job(*, short: bool, alone: bool = False, group: Hashable = None) -> Job:
    return cast(Job, Waiting(short, alone, Asking(group)))


def test_long_jobs_get_every_other_round_and_pause_while_short_ones_come() -> None:
    """After a long round the short line goes first; the long line pauses for twice as long as its round took."""
    queue = JobQueue()
    queue.add(job(short=True))
    queue.add(job(short=False))
    assert queue.next(0.0) is queue.long
    queue.rest(0.0, 1.0)
    assert queue.next(1.0) is queue.short
    assert queue.next(1.0 + 0.9 * LONG_REST) is queue.short
    assert queue.next(1.0 + LONG_REST) is queue.long


def test_long_jobs_do_not_pause_once_no_short_ones_come() -> None:
    """A moment after the last short job, the long line goes on at once."""
    queue = JobQueue()
    queue.add(job(short=True))
    assert queue.next(0.0) is queue.short
    queue.short.first.clear()
    queue.add(job(short=False))
    queue.rest(0.0, 1.0)
    assert queue.pause(0.9 * SHORT_PAUSE) > 0
    assert queue.pause(SHORT_PAUSE) == 0
    assert queue.next(SHORT_PAUSE) is queue.long


def test_jobs_that_were_run_in_part_are_put_back() -> None:
    """Chunks go on first, in their own sequence; a job that runs alone lets the others go before its next part."""
    queue = JobQueue()
    waiting, first, second, fleet = (job(short=True, alone=alone) for alone in (False, False, False, True))
    queue.add(waiting)
    queue.put_back([first, second])
    queue.put_back([fleet])
    assert [id(each) for each in queue.short.first] == [id(each) for each in (first, second, waiting, fleet)]


def test_the_short_line_is_emptied_first() -> None:
    """`pop` takes jobs in the sequence in which a closing batcher answers them."""
    queue, jobs = JobQueue(), [job(short=False), job(short=True)]
    for each in jobs:
        queue.add(each)
    assert cast(Any, queue.pop()) is jobs[1]
    assert cast(Any, queue.pop()) is jobs[0]
    assert not queue


def test_parts_of_one_group_do_not_come_before_other_groups() -> None:
    """A job that was run in part goes on among the jobs of its own group, after one of each other group."""
    queue = JobQueue()
    begun, *own = (job(short=False, group="a") for _ in range(3))
    others = [job(short=False, group="b") for _ in range(2)]
    queue.add(begun)
    assert cast(Any, queue.pop()) is begun
    for each in (*own, *others):
        queue.add(each)
    queue.put_back([begun])
    taken = [queue.pop() for _ in range(5)]
    assert [id(each) for each in taken] == [id(each) for each in (begun, others[0], own[0], others[1], own[1])]
    assert not queue
