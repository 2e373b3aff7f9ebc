"""A line gives the jobs of several groups in rotation, and those of each group in the sequence in which they came."""

from collections import deque
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from service.engine.line import Line
from service.engine.work import Job


def fill(line: Line, jobs: list[str]) -> None:
    for job in jobs:
        line.of(job[0]).append(cast(Job, job))


def take(line: Line) -> str:
    job = line.first.popleft()
    line.rotate()
    return cast(str, job)


def test_one_job_of_each_group_is_taken_in_turn() -> None:
    """A thousand jobs of one group do not come before the first one of another group."""
    line = Line()
    fill(line, [f"a{number}" for number in range(1000)] + ["b0", "c0", "b1"])
    assert [take(line) for _ in range(7)] == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert len(line) == 996


def test_a_group_that_comes_back_waits_behind_the_others() -> None:
    """A group that was emptied and asks again has no job taken before the others have had one."""
    line = Line()
    fill(line, ["a0", "b0", "c0"])
    assert take(line) == "a0"
    fill(line, ["a1"])
    assert [take(line) for _ in range(3)] == ["b0", "c0", "a1"]
    fill(line, ["d0", "a2"])
    assert [take(line) for _ in range(2)] == ["d0", "a2"]
    assert not line.first


@given(st.lists(st.one_of(st.sampled_from("abc"), st.none()), max_size=60))
def test_no_job_is_lost_and_no_group_is_passed_over(steps: list[str | None]) -> None:
    """For any sequence of arrivals and takings: jobs come in sequence and within a rotation."""
    line = Line()
    waiting: dict[str, deque[str]] = {group: deque() for group in "abc"}
    passed_over = dict.fromkeys("abc", 0)
    for number, group in enumerate([*steps, *[None] * len(steps)]):
        if group is not None:
            fill(line, [f"{group}{number}"])
            waiting[group].append(f"{group}{number}")
        elif line.first:
            taken = take(line)
            assert waiting[taken[0]].popleft() == taken
            for each, jobs in waiting.items():
                passed_over[each] = passed_over[each] + 1 if jobs and each != taken[0] else 0
                assert passed_over[each] <= 2
        assert len(line) == sum(map(len, waiting.values()))
        assert bool(line.first) == any(waiting.values())
    assert not any(waiting.values())
