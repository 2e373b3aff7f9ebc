"""The table's limits are exact, and no operation iterates over all sessions."""

from base64 import urlsafe_b64decode
from pathlib import Path

import pytest

from service.app import Service
from service.engine.chunk import Chunk
from service.errors import ModelReplaced, SessionClosed, SessionExpired, SessionLost, SessionNotFound, TableFull
from service.sessions.session import Session
from service.sessions.table import SessionTable
from service.sessions.tombstones import TOMBSTONE_SECONDS
from service.settings import Settings
from tests.fakes import FakeClock


@pytest.fixture
def table(service: Service) -> SessionTable:
    return service.sessions


def test_each_session_has_its_own_idle_limit(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """A session ends exactly when its own idle limit has passed, by a sweep or when it is looked up."""
    model = service.repository.find("lstm")
    short, long = table.create("t", model, 2.5), table.create("t", model, 60)
    clock.advance(2.4)
    assert table.find(short.id, "t") is short
    clock.advance(0.1)
    with pytest.raises(SessionExpired):
        table.find(short.id, "t")
    assert table.find(long.id, "t") is long
    clock.advance(61)
    assert table.sweep() == 1
    assert len(table) == len(table._expiry) == 0


def test_a_sweep_ends_no_session_in_use(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """A sweep does not end a session that was used within its idle limit."""
    model = service.repository.find("lstm")
    session = table.create("t", model, 10)
    clock.advance(9)
    session.used = clock()
    clock.advance(2)
    assert table.sweep() == 0
    clock.advance(10)
    assert table.sweep() == 1


def test_an_ended_session_leaves_only_a_tombstone(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """A closed session leaves only a tombstone, and its id is unknown after an hour."""
    session = table.create("t", service.repository.find("lstm"), 900)
    table.close(session)
    assert len(table) == len(table._expiry) == 0
    with pytest.raises(SessionClosed):
        table.find(session.id, "t")
    with pytest.raises(SessionNotFound):
        table.find(session.id, "other")
    clock.advance(TOMBSTONE_SECONDS + 1)
    table.sweep()
    with pytest.raises(SessionNotFound):
        table.find(session.id, "t")


def test_tombstones_are_bounded(service: Service, clock: FakeClock) -> None:
    """Only the newest tombstones are kept."""
    table = SessionTable(replica="r0", boot="b", clock=clock, tombstones=3)
    model = service.repository.find("lstm")
    ids = []
    for _ in range(5):
        session = table.create("t", model, 900)
        table.close(session)
        ids.append(session.id)
    assert len(table._tombstones) == 3
    with pytest.raises(SessionNotFound):
        table.find(ids[0], "t")


def test_the_limit_is_exact(table: SessionTable, service: Service) -> None:
    """A model never has more sessions than its limit, and a closed one makes room for one."""
    model = service.repository.find("lstm")
    live = [table.create("t", model, 900) for _ in range(model.max_sessions)]
    for _ in range(100):
        with pytest.raises(TableFull):
            table.create("t", model, 900)
        table.close(live.pop())
        live.append(table.create("t", model, 900))
    assert model.sessions == model.max_sessions


def test_a_session_ends_once(table: SessionTable, service: Service) -> None:
    """Closing a session twice raises ValueError with the session that was found."""
    session = table.create("t", service.repository.find("lstm"), 900)
    table.close(session)
    assert isinstance(session.ended, SessionClosed)
    with pytest.raises(ValueError, match="expected a live session, found <Session"):
        table.close(session)


async def test_a_session_is_resident_until_it_ends(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """Live sessions are resident; for any other id, load and find raise the error that says why there is none."""
    session = table.create("t", service.repository.find("lstm"), 5)
    assert table.resident(session.id, "t") is table.find(session.id, "t") is session
    assert table.resident(session.id, "other") is table.resident("unknown", "t") is None
    clock.advance(5)
    with pytest.raises(SessionExpired):
        table.resident(session.id, "t")
    assert table.resident(session.id, "t") is None
    other_boot = f"r0-boot-{session.id.split('-', 2)[2]}"
    for key, tenant, why in (
        (session.id, "t", SessionExpired),
        (session.id, "other", SessionNotFound),
        (other_boot, "t", SessionLost),
        ("unknown", "t", SessionNotFound),
    ):
        with pytest.raises(why):
            await table.load(key, tenant)
        with pytest.raises(why):
            table.find(key, tenant)


def test_a_fleet_is_looked_up_row_by_row(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """Each row of a fleet has its session, by id or by name, or its own error."""
    model, other = service.repository.find("lstm"), service.repository.find("explosive")
    first, named = table.create("t", model, 900), table.create("t", model, 900, "name")
    idle, closed = table.create("t", model, 5), table.create("t", model, 900, "closed")
    strange = table.create("t", other, 900)
    table.close(closed)
    clock.advance(5)
    keys = [first.id, "name", idle.id, idle.id, "closed", strange.id, "unknown"]
    lookup = table.find_fleet(keys, "t", model)
    assert lookup.sessions == [first, named, None, None, None, None, None]
    assert [type(lookup.errors[row]) for row in sorted(lookup.errors)] == [
        *(SessionExpired, SessionExpired, SessionClosed, SessionNotFound, SessionNotFound)
    ]
    assert not lookup.uniform
    assert [type(error) for error in table.find_fleet([first.id], "other", model).errors.values()] == [SessionNotFound]


def test_a_lookup_of_different_idle_sessions_is_uniform(table: SessionTable, service: Service) -> None:
    """A lookup is uniform exactly if its rows are different idle sessions on the version that was asked for."""
    model, other = service.repository.find("lstm"), service.repository.find("explosive")
    sessions = [table.create("t", model, 900, f"name {number}") for number in range(3)]
    first, second, third = sessions
    lookup = table.find_fleet([first.id, "name 1", third.id], "t", model)
    assert (lookup.sessions, lookup.errors, lookup.uniform) == (sessions, {}, True)
    assert not table.find_fleet([first.id, "name 0"], "t", model).uniform  # one session, by its id and its name
    assert not table.find_fleet([first.id, "unknown"], "t", model).uniform
    second.busy = Chunk(second, (bytes(12),), 1)
    lookup = table.find_fleet([first.id, second.id], "t", model)
    assert (lookup.sessions, lookup.errors, lookup.uniform) == ([first, second], {}, False)
    second.busy = None
    first.model = other
    assert not table.find_fleet([first.id, second.id], "t", model).uniform
    first.model = model


def test_undoing_a_replacement_gives_the_name_back(table: SessionTable, service: Service) -> None:
    """Undoing a session that has replaced another one gives the name back to that one."""
    model = service.repository.find("lstm")
    before = table.create("t", model, 900, "name")
    after = table.create("t", model, 900, "name", instead_of=before)
    assert table.find_named("name", "t", "lstm") is after
    assert before.name is None
    table.undo(after, before)
    assert table.find_named("name", "t", "lstm") is before
    assert table.last_of_name("name", "t", "lstm") is None
    table.close(before)
    assert table.last_of_name("name", "t", "lstm") == before.id


def test_a_retired_version_has_no_sessions(table: SessionTable, service: Service) -> None:
    """A retired version takes no new sessions, and its existing ones end when they are looked up."""
    model = service.repository.find("lstm")
    session: Session = table.create("t", model, 900)
    model.retire()
    with pytest.raises(ModelReplaced):
        table.create("t", model, 900)
    with pytest.raises(ModelReplaced):
        table.resident(session.id, "t")
    assert model.sessions == 0


def test_ids_cannot_be_guessed(table: SessionTable, service: Service, artifacts: Path) -> None:
    """Ids contain 128 random bits after the names of the replica and of the process."""
    model = service.repository.find("lstm")
    ids = {table.create("t", model, 900).id for _ in range(20)}
    assert len(ids) == 20
    assert {len(urlsafe_b64decode(session_id.split("-", 2)[2] + "==")) for session_id in ids} == {16}
    assert all(session_id.startswith("r0-") for session_id in ids)
    assert Settings(artifacts=artifacts).replica == "r0"


def test_a_page_lists_only_live_sessions(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """A page lists no session that has expired or whose version is retired."""
    model = service.repository.find("lstm")
    short, long, other = (table.create("t", model, limit) for limit in (5, 60, 5))
    clock.advance(5)
    assert table.page("t", 10)[0] == [long]
    for gone in (short, other):
        with pytest.raises(SessionExpired):
            table.find(gone.id, "t")
    model.retire()
    assert table.page("t", 10)[0] == []
    assert len(table) == 0


def test_a_page_can_begin_after_an_ended_session(table: SessionTable, service: Service) -> None:
    """A page can begin after the newest session that has ended, and lists those opened later."""
    model = service.repository.find("lstm")
    first, second = table.create("t", model, 900), table.create("t", model, 900)
    table.close(second)
    assert table.page("t", 10, after=second.id)[0] == []
    table.close(first)
    third = table.create("t", model, 900)
    assert table.page("t", 10, after=first.id)[0] == table.page("t", 10, after=second.id)[0] == [third]
    table.close(third)
    fourth = table.create("t", model, 900)
    assert table.page("t", 10, after=first.id)[0] == table.page("t", 10, after=third.id)[0] == [fourth]
