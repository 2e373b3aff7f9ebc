"""The batcher: runs what waits for one engine, round by round, and answers every job exactly once.

Batching is natural: while a run goes on, or while the event loop reads ready sockets, jobs gather; the next round takes
all of them, at most one of each session. No timer delays a job.
"""

import asyncio
import math
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import structlog

from service.engine.outputs import RunOutputs
from service.engine.queue import JobQueue
from service.engine.quota import Quota, Shares
from service.engine.runner import MAX_ROW_STEPS, Binding, Costs, Runner
from service.engine.scheduler import Scheduler, Unrun
from service.engine.statistics import Statistics
from service.engine.work import Commit, Committer, Dropped, Job, RunLimits, Waiter, Work
from service.errors import EngineFailed, QueueFull, ServiceError, TenantBusy

ALONE_SECONDS = 1e-4
"""Seconds since the last round after which no other job is expected to join: a job that comes then is run at once."""
LOOK_SECONDS = 0.05
"""Seconds after which deadlines are looked at again while pending commits keep jobs from being run."""

_StepsOfRound = Generator[Binding, BaseException | None, None]

_log = structlog.get_logger()


class Batcher:
    """Queues jobs for one runner and runs them in rounds: pick → lease → run → settle → commit → answer.

    A job is in one of: the `waiting` jobs of its session, the queue, the current run, the committer, or answered.
    `waiting` counts requests that are not answered, and `_quota.held` those of each group; `_committing` counts rows
    that the committer has not applied or refused.
    `_scheduled` tells that a round is to come, or goes on in the thread.
    """

    def __init__(
        self,
        runner: Runner,
        costs: Costs,
        committer: Committer,
        *,
        round_seconds: float,
        inline: bool,
        queue_limit: int,
        deadline: float,
        clock: Callable[[], float],
        shares: Shares,
    ) -> None:
        """Take times in seconds; `inline` runs on the event loop, else in a thread of its own.

        `shares` divides the queue among groups of users.
        """
        card = runner.card
        self._runner, self._slots, self._committer = runner, runner.arena.slots, committer
        self._queue_limit, self._deadline, self._clock = queue_limit, deadline, clock
        self._shares, self._quota = shares, Quota(queue_limit, shares)
        self.costs, self.inline = costs, inline
        self.max_rows = min(card.max_batch, MAX_ROW_STEPS)
        if inline:
            self.max_rows = min(self.max_rows, costs.rows_within(round_seconds))
        if not card.streams:  # its sequences are never cut, so each runs alone, however long it is
            self.max_rows = 1
        self._limits = RunLimits(costs, self.max_rows, round_seconds, inline, card.ragged, card.streams)
        self.statistics = Statistics()
        self._queue = JobQueue()
        self._scheduler = Scheduler(self._queue, self._limits, self.statistics)
        self._round_ended, self._was_alone = clock(), True
        self._scheduled = False
        self._closed: ServiceError | None = None
        self._thread = None if inline else ThreadPoolExecutor(1, thread_name_prefix=f"engine-{card.name}")
        self._look_again: asyncio.TimerHandle | None = None
        self.waiting = self._committing = 0

    def __repr__(self) -> str:
        return f"<Batcher {self.waiting} waiting, {self._queue!r}>"

    def submit(self, jobs: Sequence[Job], patience: float = math.inf, group: Hashable = None) -> "asyncio.Future[None]":
        """Queue the jobs of one request; the future is done when each has its outputs or its error.

        They wait for `patience` seconds at most, and never longer than any request may. `group` tells whose request it
        is. A fleet step's sessions must be idle.

        Raises:
            QueueFull: As many requests as allowed are waiting; nothing was queued.
            TenantBusy: As many requests of the group are waiting as may; nothing was queued.
            ServiceError: The batcher is closed.
        """
        if self._closed is not None:
            raise self._closed.untraced()
        if self.waiting >= self._queue_limit:
            raise QueueFull(self._queue_limit)
        if self._shares.groups > 1 and not self._quota.allows(group):
            raise TenantBusy(self._quota.most)
        self.waiting += 1
        self._quota.held[group] += 1
        now = self._clock()
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future(), now, now + min(self._deadline, patience), group)
        for job in jobs:
            job.waiter = waiter
            waiter.open += job.size
            if job.occupy():
                self._queue.add(job)
        if not self._scheduled:
            self._scheduled = True
            if self.inline and self._was_alone and now - self._round_ended > ALONE_SECONDS:
                self._round()
            else:
                loop.call_soon(self._round)
        return waiter.future

    def close(self, why: ServiceError) -> None:
        """Answer every waiting and every later request with an error; a run that goes on is finished."""
        self._closed = why
        self._drop_queued(why)
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _round(self) -> None:
        """Take one round; its run is on the event loop, or in the engine's thread, after which the round goes on."""
        if self._closed is not None:
            self._scheduled = False
            self._drop_queued(self._closed)
            return
        steps = self._steps_of_round()
        binding = next(steps, None)
        if binding is None:
            return
        if self._thread is not None:
            run = asyncio.get_running_loop().run_in_executor(self._thread, self._runner.run, binding)
            run.add_done_callback(lambda run: self._finish_round(steps, run.exception()))
            return
        failure: Exception | None = None
        try:
            self._runner.run(binding)
        except Exception as exc:
            failure = exc
        self._finish_round(steps, failure)

    def _steps_of_round(self) -> _StepsOfRound:
        """Pick, lease, run, settle, commit, answer; what is to be run is yielded, and why it failed is sent back."""
        room, pending = self.max_rows, self._committer.pending_rows
        if pending and (room := min(room, pending - self._committing)) < 1:  # the next round follows a commit
            self._scheduled = False
            self._drop_ended()
            return
        started = self._clock()
        line, jobs, seconds = self._queue.next(started), list[Job](), self._limits.round_seconds / 4
        if line is self._queue.long:
            seconds, room = self._scheduler.long_budget(started, room)
        while unrun := self._scheduler.pick(line, jobs, started, room):
            self._drop_unrun(unrun, started)
        if not jobs:
            self._schedule()
            return
        work, slots = jobs[0].gather(jobs, self._limits, seconds, room), list[int]()
        try:  # whatever is raised here, every waiter is answered
            binding = self._runner.binding(work.rows, work.steps)
            slots = self._slots.lease_many(work.leases)
            work.prepare(binding, slots)
            begun = self._clock()
            failure = yield binding
            ended = self._clock()
            if failure is not None:
                raise RuntimeError("the run failed") from failure
            outputs = RunOutputs(list(map(np.ndarray.copy, binding.outputs)))
            settled = work.settle(outputs, binding.not_finite_rows(), ended)
        except Exception as exc:
            self._fail(work, slots, exc)
        else:
            if settled.released:
                self._slots.release_many(settled.released)
            if settled.unfinished:
                self._queue.put_back(settled.unfinished)
            if settled.dropped:
                self._drop(settled.dropped, ended)
            if settled.commits:
                self._commit(settled.commits, ended)
            self.statistics.ran(work.rows, work.row_steps, started, begun, ended, self._clock())
        self._round_ended, self._was_alone = self._clock(), work.rows == 1
        if line is self._queue.long:
            self._queue.rest(started, self._round_ended)
        self._schedule()

    def _finish_round(self, steps: _StepsOfRound, failure: BaseException | None) -> None:
        """Take the steps of a round that follow its run."""
        try:
            steps.send(failure)
        except StopIteration:
            return

    def _fail(self, work: Work, slots: list[int], why: Exception) -> None:
        """Answer all rows of a run that failed, and release what was leased for it."""
        _log.error("engine_failed", model=self._runner.card.name, error=repr(why.__cause__ or why))
        now = self._clock()
        dropped = work.fail(EngineFailed(), now)
        for slot in {*slots, *(row.slot for row in dropped)}:
            self._slots.release(slot)
        self._answer(dropped, now)

    def _commit(self, commits: list[Commit], now: float) -> None:
        """Hand commits to the committer; if it raises, those that it has not answered are refused."""
        self._committing += len(commits)
        try:
            self._committer.apply(commits, now, self._answer_commits)
        except Exception:
            _log.exception("commit_failed", model=self._runner.card.name)
            left = [commit for commit in commits if commit.session.busy is commit.job]
            errors: dict[int, ServiceError] = {index: EngineFailed() for index in range(len(left))}
            self._answer_commits(left, [commit.slot for commit in left], errors)

    def _answer_commits(self, commits: Sequence[Commit], released: list[int], refused: dict[int, ServiceError]) -> None:
        """Answer rows whose commits were applied or, by index, refused."""
        self._committing -= len(commits)
        self._slots.release_many(released)
        for index, error in refused.items():
            commits[index].job.refuse(commits[index].row, error)
        self._answer(commits, self._clock())
        if not self._scheduled and self._queue:  # a session that was being committed had jobs waiting
            self._schedule()

    def _drop_unrun(self, unrun: Iterable[Unrun], now: float) -> None:
        """Answer jobs that end without a run."""
        for job, outcome in unrun:
            self._drop(job.drop(outcome, now), now)

    def _drop(self, rows: Sequence[Dropped], now: float) -> None:
        """Answer rows that nothing is to be committed of."""
        for row in rows:
            self._slots.release(row.slot)
        self._answer(rows, now)

    def _answer(self, rows: Iterable[Commit | Dropped], now: float) -> None:
        """Have each session's next job follow, and each request answered whose last row this is."""
        for row in rows:
            session, waiter = row.session, row.job.waiter
            if session is not None:
                if session.waiting is None:
                    session.busy = None
                else:
                    session.busy = following = session.waiting.popleft()
                    if not session.waiting:
                        session.waiting = None
                    self._queue.add(following)
            waiter.open -= 1
            if not waiter.open:
                self.waiting -= 1
                self._quota.held[waiter.group] -= 1
                statistics, future = self.statistics, waiter.future
                duration = statistics.failed if waiter.failed or future.cancelled() else statistics.succeeded
                duration.count += 1
                duration.seconds += now - waiter.since
                statistics.last = now
                if not future.done():
                    future.set_result(None)

    def _schedule(self) -> None:
        """Have another round follow while jobs wait; long ones alone may have to pause first."""
        if self._closed is not None:
            self._drop_queued(self._closed)
        self._scheduled = bool(self._queue.short.first or self._queue.long.first)
        if not self._scheduled:
            return
        loop, pause = asyncio.get_running_loop(), self._queue.pause(self._clock())
        if pause:
            self._scheduled = False
            loop.call_later(pause, self._resume)
        else:
            loop.call_soon(self._round)

    def _resume(self) -> None:
        """Go on with long jobs after their pause, unless a round is to come anyway."""
        if not self._scheduled:
            self._schedule()

    def _drop_ended(self) -> None:
        """Answer the queued jobs that end without a run, and again after a time while none can be run."""
        if self._look_again is not None:
            return
        while unrun := self._scheduler.ended(now := self._clock()):
            self._drop_unrun(unrun, now)
        if self._queue:
            self._look_again = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Take a round, in which jobs whose time is over are answered."""
        self._look_again = None
        self._resume()

    def _drop_queued(self, why: ServiceError) -> None:
        """Answer every queued job with an error; answering one may queue its session's next."""
        while self._queue:
            now = self._clock()
            self._drop(self._queue.pop().drop(why, now), now)
