"""A tenant's sessions are found by id and by name, and are linked in the sequence in which they were opened."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from service.app import Service
from service.repository.served_model import ServedModel
from service.sessions.session import Session
from service.sessions.tenant import NextOpened, Tenant


@pytest.fixture
def model(service: Service) -> ServedModel:
    return service.repository.find("lstm")


def opened(tenant: Tenant, model: ServedModel, session_id: str, name: str | None = None) -> Session:
    session = Session(session_id, "t", model, 60, 0.0, name)
    tenant.add(session)
    return session


def linked(tenant: Tenant) -> list[Session]:
    """Return the sessions from the oldest to the newest, and check the links in both directions."""
    forth, back = [], []
    session = tenant.oldest
    while session is not None:
        forth.append(session)
        session = session.newer
    session = tenant.newest
    while session is not None:
        back.append(session)
        session = session.older
    assert back == forth[::-1]
    return forth


def test_a_name_belongs_to_a_model(model: ServedModel, service: Service) -> None:
    """A name finds the session of the model that is asked for, and an id finds its session under any model."""
    tenant, other = Tenant(), service.repository.find("explosive")
    first, second = opened(tenant, model, "1", "name"), opened(tenant, other, "2", "name")
    assert tenant.find("lstm", "name") is first
    assert tenant.find("explosive", "name") is second
    assert tenant.find("lstm", "2") is second
    assert tenant.find("lstm", "another") is tenant.find("gru", "name") is None


def test_a_session_can_be_renamed(model: ServedModel) -> None:
    """After a renaming, the old name finds nothing and is not stored any more."""
    tenant = Tenant()
    session = opened(tenant, model, "1", "old")
    tenant.rename(session, "new")
    assert tenant.find("lstm", "old") is None
    assert tenant.find("lstm", "new") is session
    tenant.rename(session, None)
    assert tenant.find("lstm", "new") is None
    assert tenant.named == {}


def test_ended_sessions_refer_to_the_next_opened_one(model: ServedModel) -> None:
    """Sessions that end as the newest refer to the one that is opened next, also after that one has ended."""
    tenant = Tenant()
    first, second = opened(tenant, model, "1"), opened(tenant, model, "2")
    assert tenant.remove(first) == "2"
    after_second = tenant.remove(second)
    assert isinstance(after_second, NextOpened)
    assert after_second.id is None
    third = opened(tenant, model, "3")
    assert after_second.id == "3"
    after_third = tenant.remove(third)
    opened(tenant, model, "4")
    assert isinstance(after_third, NextOpened)
    assert [after_second.id, after_third.id] == ["3", "4"]


@given(st.lists(st.integers(0, 9), max_size=60))
@examples(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_links_follow_the_sequence_of_opening(model: ServedModel, numbers: list[int]) -> None:
    """Live sessions stay linked in the sequence of opening, whichever of them are removed."""
    tenant, live = Tenant(), list[Session]()
    for count, number in enumerate(numbers):
        if number < len(live):
            session = live.pop(number)
            following = live[number].id if number < len(live) else None
            newer = tenant.remove(session)
            assert (newer.id if isinstance(newer, NextOpened) else newer) == following
        else:
            live.append(opened(tenant, model, str(count), f"name {count}" if number % 2 else None))
        assert linked(tenant) == live
        assert list(tenant.sessions.values()) == live
        names = {session.name: session for session in live if session.name is not None}
        assert tenant.named == ({"lstm": names} if names else {})
