"""The table's times and limits are exact, and no pass ever looks at all sessions."""

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
    """Sessions end when their own limit has passed, to the instant, whether swept or asked for."""
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


def test_a_sweep_looks_only_at_what_is_due(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """A session that was used since is put off, not ended."""
    model = service.repository.find("lstm")
    session = table.create("t", model, 10)
    clock.advance(9)
    session.used = clock()
    clock.advance(2)
    assert table.sweep() == 0
    clock.advance(10)
    assert table.sweep() == 1


def test_an_ended_session_leaves_nothing_but_a_tombstone(
    table: SessionTable, service: Service, clock: FakeClock
) -> None:
    """Closing takes it out of the schedule of expiry at once, and after an hour its id is unknown."""
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
    """Only the newest are kept."""
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
    """Never one session more than the limit, however they come and go."""
    model = service.repository.find("lstm")
    live = [table.create("t", model, 900) for _ in range(model.max_sessions)]
    for _ in range(100):
        with pytest.raises(TableFull):
            table.create("t", model, 900)
        table.close(live.pop())
        live.append(table.create("t", model, 900))
    assert model.sessions == model.max_sessions


def test_a_session_ends_once(table: SessionTable, service: Service) -> None:
    """An illegal transition names what was expected and what was found."""
    session = table.create("t", service.repository.find("lstm"), 900)
    table.close(session)
    assert isinstance(session.ended, SessionClosed)
    with pytest.raises(ValueError, match="expected a live session, found <Session"):
        table.close(session)


async def test_a_session_is_resident_until_it_is_over(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """Resident sessions are found at once; for others, loading says why there is none, as finding does."""
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
    """Each row has its session, by id or name, or says why there is none."""
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


def test_a_uniform_fleet_needs_no_other_look(table: SessionTable, service: Service) -> None:
    """A lookup is uniform if all rows are different sessions with no work under way, on the very version asked for."""
    model, other = service.repository.find("lstm"), service.repository.find("explosive")
    sessions = [table.create("t", model, 900, f"name {number}") for number in range(3)]
    first, second, third = sessions
    lookup = table.find_fleet([first.id, "name 1", third.id], "t", model)
    assert (lookup.sessions, lookup.errors, lookup.uniform) == (sessions, {}, True)
    assert not table.find_fleet([first.id, "name 0"], "t", model).uniform  # one session, by its two keys
    assert not table.find_fleet([first.id, "unknown"], "t", model).uniform
    second.busy = Chunk(second, (bytes(12),), 1)
    lookup = table.find_fleet([first.id, second.id], "t", model)
    assert (lookup.sessions, lookup.errors, lookup.uniform) == ([first, second], {}, False)
    second.busy = None
    first.model = other
    assert not table.find_fleet([first.id, second.id], "t", model).uniform
    first.model = model


def test_a_replaced_session_has_its_name_back_when_its_successor_is_undone(
    table: SessionTable, service: Service
) -> None:
    """Until then the name finds the successor, and the replaced session has none."""
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


def test_nothing_is_opened_on_a_version_that_is_over(table: SessionTable, service: Service) -> None:
    """Its sessions have ended, and so do those found later."""
    model = service.repository.find("lstm")
    session: Session = table.create("t", model, 900)
    model.retire()
    with pytest.raises(ModelReplaced):
        table.create("t", model, 900)
    with pytest.raises(ModelReplaced):
        table.resident(session.id, "t")
    assert model.sessions == 0


def test_ids_cannot_be_guessed(table: SessionTable, service: Service, artifacts: Path) -> None:
    """Ids carry 128 random bits behind the replica's and the start's names."""
    model = service.repository.find("lstm")
    ids = {table.create("t", model, 900).id for _ in range(20)}
    assert len(ids) == 20
    assert {len(urlsafe_b64decode(session_id.split("-", 2)[2] + "==")) for session_id in ids} == {16}
    assert all(session_id.startswith("r0-") for session_id in ids)
    assert Settings(artifacts=artifacts).replica == "r0"


def test_a_page_holds_no_session_that_is_over(table: SessionTable, service: Service, clock: FakeClock) -> None:
    """What a description would refuse is not listed, swept or not, idle for too long or on a version let go."""
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


def test_a_page_follows_on_a_session_that_ended_as_the_newest(table: SessionTable, service: Service) -> None:
    """Sessions opened after it are behind it, whether any was left when they were opened or not."""
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
