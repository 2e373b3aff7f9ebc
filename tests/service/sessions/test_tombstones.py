"""Tombstones say for an hour why a session ended, and to its tenant only."""

import pytest

from service.app import Service
from service.errors import SessionClosed, SessionExpired
from service.sessions.session import End, Session
from service.sessions.tombstones import TOMBSTONE_SECONDS, Tombstones
from tests.fakes import FakeClock


@pytest.fixture
def sessions(service: Service, clock: FakeClock) -> list[Session]:
    model = service.repository.find("lstm")
    return [Session(str(number), "t", model, 60, clock()) for number in range(4)]


def test_a_tombstone_gives_its_tenant_the_reason(clock: FakeClock, sessions: list[Session]) -> None:
    """A tombstone gives its tenant the reason, and is not found for other tenants."""
    tombstones = Tombstones(clock)
    for session, end, error in zip(sessions, (End.CLOSED, End.EXPIRED), (SessionClosed, SessionExpired), strict=False):
        tombstones.add(session, end, None, "newer")
        tombstone = tombstones.find("t", session.id)
        assert tombstone is not None
        assert type(tombstone.error()) is error
        assert tombstones.find("other", session.id) is None
        assert tombstone.opened_next() == "newer"


def test_a_name_gives_the_last_session_that_had_it(clock: FakeClock, sessions: list[Session]) -> None:
    """A name gives the last session that had it, as long as that session's tombstone exists."""
    tombstones = Tombstones(clock, most=2)
    for session in sessions[:3]:
        tombstones.add(session, End.CLOSED, "name", "newer")
        assert tombstones.last_of_name("t", "lstm", "name") == session.id
    assert (len(tombstones), tombstones.find("t", "0")) == (2, None)
    assert tombstones.last_of_name("t", "lstm", "other") is tombstones.last_of_name("u", "lstm", "name") is None
    tombstones.add(sessions[3], End.CLOSED, None, "newer")
    assert tombstones.last_of_name("t", "lstm", "name") == "2"
    clock.advance(TOMBSTONE_SECONDS - 1)
    tombstones.expire()
    assert len(tombstones) == 2
    clock.advance(1)
    tombstones.expire()
    assert len(tombstones) == 0
    assert tombstones.last_of_name("t", "lstm", "name") is None
