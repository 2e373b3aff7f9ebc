"""The schedule of expiry returns each session soon after its idle limit may have passed, and keeps no others."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service.app import Service
from service.repository.served_model import ServedModel
from service.sessions.expiry import Expiry
from service.sessions.session import UNSCHEDULED, Session


@pytest.fixture
def model(service: Service) -> ServedModel:
    return service.repository.find("lstm")


def session_of(model: ServedModel, idle_limit: float, now: float = 0.0) -> Session:
    return Session("id", "t", model, idle_limit, now)


def test_a_session_is_due_once_its_limit_has_passed(model: ServedModel) -> None:
    """A session is due once, within a second after its idle limit, and never before."""
    expiry, session = Expiry(0.0), session_of(model, 2.5)
    expiry.add(session)
    assert expiry.due(2.4, 10) == []
    assert expiry.due(3.5, 10) == [session]
    assert session.expiry_second == UNSCHEDULED
    assert expiry.due(100.0, 10) == []
    assert len(expiry) == 0


def test_a_removed_session_is_never_due(model: ServedModel) -> None:
    """A removed session is never due, and removing it again has no effect."""
    expiry, sessions = Expiry(0.0), [session_of(model, 5) for _ in range(10)]
    for session in sessions:
        expiry.add(session)
    for session in sessions[::2]:
        expiry.remove(session)
        expiry.remove(session)
    assert len(expiry) == 5
    assert sorted(map(sessions.index, expiry.due(10.0, 100))) == [1, 3, 5, 7, 9]


def test_a_call_returns_no_more_than_allowed(model: ServedModel) -> None:
    """A call returns at most as many sessions as allowed, and `pending` tells whether more are due."""
    expiry, sessions = Expiry(0.0), [session_of(model, 1) for _ in range(5)]
    for session in sessions:
        expiry.add(session)
    counts = [len(expiry.due(5.0, 2)), expiry.pending, len(expiry.due(5.0, 2)), len(expiry.due(5.0, 2)), expiry.pending]
    assert counts == [2, True, 2, 1, False]


def test_removed_sessions_are_not_kept(model: ServedModel) -> None:
    """The lists stay at most about twice as long as the number of scheduled sessions."""
    expiry, stays = Expiry(0.0), session_of(model, 60)
    expiry.add(stays)
    for _ in range(1000):
        session = session_of(model, 60)
        expiry.add(session)
        expiry.remove(session)
        expiry.remove(stays)
        expiry.add(stays)
        assert sum(len(second.sessions) for second in expiry._seconds.values()) <= 4
    expiry.remove(stays)
    assert repr(expiry) == "<Expiry 0 sessions in 0 seconds after 0>"


def test_a_session_is_scheduled_once(model: ServedModel) -> None:
    """Scheduling a session twice raises ValueError with the session that was found."""
    expiry, session = Expiry(0.0), session_of(model, 60)
    expiry.add(session)
    with pytest.raises(ValueError, match="expected a session that is not scheduled, found <Session"):
        expiry.add(session)


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["add", "remove", "use"]), st.integers(0, 7)),
        st.tuples(st.sampled_from(["wait", "due"]), st.integers(1, 7)),
    ),
    max_size=80,
)


@given(steps)
@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_schedule_agrees_with_a_plain_set(model: ServedModel, steps: list[tuple[str, int]]) -> None:
    """For any sequence of operations, the schedule returns only scheduled sessions, and all that are overdue."""
    sessions = [session_of(model, 0.7 * number + 0.5) for number in range(8)]
    expiry, scheduled, now = Expiry(0.0), set[Session](), 0.0
    for action, number in steps:
        session = sessions[number]
        if action == "add" and session not in scheduled:
            session.used = now
            expiry.add(session)
            scheduled.add(session)
        elif action == "remove":
            expiry.remove(session)
            scheduled.discard(session)
        elif action == "use":
            session.used = now
        elif action == "wait":
            now += number / 2
        elif action == "due":
            found = expiry.due(now, number)
            assert len(found) == len(set(found)) <= number
            assert set(found) <= scheduled
            scheduled -= set(found)
            if not expiry.pending and len(found) < number:
                assert all(session.expires() > now - 1 for session in scheduled)
        assert len(expiry) == len(scheduled) == sum(session.expiry_second != UNSCHEDULED for session in sessions)
