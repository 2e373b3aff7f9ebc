"""The check of a history reports each kind of violation with its steps, and reports none in a valid history."""

import pytest

from tests.faults.history import (
    ANSWERED,
    UNANSWERED,
    Attempt,
    Ended,
    Event,
    Kind,
    Opened,
    Restarted,
    Resumed,
    Rewound,
    check,
)

OPENED = Opened("s")


def answered(first: int, inputs: tuple[int, ...], *outputs: float, last: int = 0, replayed: bool = False) -> Attempt:
    return Attempt("s", first, inputs, ANSWERED, outputs, last or first + len(inputs) - 1, replayed)


def cut(first: int, *inputs: int) -> Attempt:
    return Attempt("s", first, inputs, UNANSWERED)


def refused(first: int, inputs: tuple[int, ...], code: str, expected: int = 0) -> Attempt:
    return Attempt("s", first, inputs, code, expected=expected)


GOOD: dict[str, list[Event]] = {
    "steps and chunks": [answered(1, (5,), 5), answered(2, (2, 9), 7, 16), Ended("s", 3, 16)],
    "a retry of a step that was taken": [cut(1, 5), answered(1, (5,), 5, replayed=True), Ended("s", 1, 5)],
    "a retry of a step that was not taken": [cut(1, 5), answered(1, (5,), 5), Ended("s", 1, 5)],
    "a replayed answer": [answered(1, (5,), 5), answered(1, (5,), 5, replayed=True), Ended("s", 1, 5)],
    "unanswered and not taken": [answered(1, (5,), 5), cut(2, 3), Ended("s", 1, 5)],
    "unanswered and taken": [answered(1, (5,), 5), cut(2, 3), Ended("s", 2, 8)],
    "other content is refused": [answered(1, (5,), 5), refused(1, (6,), "step_conflict", 2), Ended("s", 1, 5)],
    "a gap is refused": [answered(1, (5,), 5), refused(9, (6,), "step_gap", 2), Ended("s", 1, 5)],
    "an old step is refused": [
        answered(1, (5,), 5),
        answered(2, (6,), 11),
        refused(1, (5,), "step_too_old", 3),
        Ended("s", 2, 11),
    ],
    "several unanswered frames": [
        cut(1, 5),
        cut(2, 6),
        cut(3, 7),
        Resumed("s", 2),
        answered(3, (7,), 18),
        Ended("s", 3, 18),
    ],
    "a rewind": [
        answered(1, (5,), 5),
        answered(2, (6, 1), 11, 12),
        Rewound("s", 1, 1),
        answered(2, (7,), 12),
        Ended("s", 2, 12),
    ],
    "a fork": [
        answered(1, (5,), 5),
        Opened("t", "s", 1),
        answered(2, (6,), 11),
        Attempt("t", 2, (8,), ANSWERED, (13.0,), 2),
        Ended("t", 2, 13),
        Ended("s", 2, 11),
    ],
    "lost by a restart": [answered(1, (5,), 5), Restarted(), refused(2, (6,), "session_lost")],
}

BAD: dict[str, tuple[list[Event], Kind, int, int]] = {
    "a retry taken twice": ([answered(1, (5,), 5), cut(2, 3), answered(2, (3,), 11, last=3)], Kind.DUPLICATED, 2, 2),
    "a chunk taken twice": ([answered(1, (5, 2), 5, 7), answered(3, (4,), 18)], Kind.DUPLICATED, 1, 2),
    "taken again": ([answered(1, (5,), 5), answered(1, (5,), 5)], Kind.DUPLICATED, 1, 1),
    "a step beyond those sent": (
        [answered(1, (5,), 5), answered(2, (6,), 11), Ended("s", 3, 17)],
        Kind.DUPLICATED,
        2,
        2,
    ),
    "a state that was dropped": (
        [answered(1, (5,), 5), answered(2, (3,), 8), answered(3, (9,), 14)],
        Kind.LOST,
        2,
        2,
    ),
    "a step that was dropped": (
        [answered(1, (5,), 5), answered(2, (3,), 8), refused(3, (9,), "step_gap", 2)],
        Kind.LOST,
        2,
        2,
    ),
    "dropped at the end": ([answered(1, (5,), 5), answered(2, (3,), 8), Ended("s", 1, 5)], Kind.LOST, 2, 2),
    "a sum dropped at the end": ([answered(1, (5,), 5), answered(2, (3,), 8), Ended("s", 2, 5)], Kind.LOST, 2, 2),
    "a WebSocket that resumes too early": ([answered(1, (5,), 5), Resumed("s", 0)], Kind.LOST, 1, 1),
    "lost without a restart": ([answered(1, (5,), 5), refused(2, (6,), "session_lost")], Kind.LOST, 1, 1),
    "a replay that differs": ([answered(1, (5,), 5), answered(1, (5,), 6, replayed=True)], Kind.DIFFERENT, 1, 1),
    "a retry that is not replayed": ([cut(1, 5), refused(1, (5,), "step_conflict", 2)], Kind.NOT_REPLAYED, 1, 1),
    "a retry of the last request refused as too old": (
        [answered(1, (5,), 5), refused(1, (5,), "step_too_old", 2)],
        Kind.NOT_REPLAYED,
        1,
        1,
    ),
    "a gap that is taken": ([answered(1, (5,), 5), answered(4, (6,), 11)], Kind.GAP, 4, 4),
    "the next step refused": ([answered(1, (5,), 5), refused(2, (6,), "step_gap", 2)], Kind.GAP, 2, 2),
    "an answer with a wrong step number": ([answered(1, (5,), 5, last=2)], Kind.GAP, 1, 1),
    "a sum of no requests": ([answered(1, (5,), 5), answered(2, (6,), 99)], Kind.WRONG, 1, 1),
    "rewound too far": ([answered(1, (5,), 5), answered(2, (6,), 11), Rewound("s", 1, 0)], Kind.WRONG, 1, 1),
    "an answer after the session was lost": (
        [answered(1, (5,), 5), Restarted(), refused(2, (6,), "session_lost"), answered(2, (6,), 11)],
        Kind.WRONG,
        1,
        1,
    ),
    "refused for no reason": ([answered(1, (5,), 5), refused(2, (6,), "internal_error")], Kind.FAILED, 2, 2),
    "a silent restart from zero": ([answered(1, (5,), 5), answered(2, (6,), 6)], Kind.LOST, 1, 1),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_valid_history_has_no_violation(name: str) -> None:
    """Events that are allowed under faults are not reported as violations."""
    assert check([OPENED, *GOOD[name]]).violations == []


@pytest.mark.parametrize("name", BAD)
def test_each_violation_is_reported_once(name: str) -> None:
    """A violation is reported once, with its kind and steps, also after valid sessions and before later events."""
    events, kind, first, last = BAD[name]
    others: list[Event] = [Opened("other"), Attempt("other", 1, (1,), ANSWERED, (1.0,), 1), Ended("other", 1, 1)]
    (found,) = check([*others, OPENED, *events, Ended("s", 7, 7)]).violations
    assert (found.session, found.kind, found.first, found.last) == ("s", kind, first, last), str(found)
