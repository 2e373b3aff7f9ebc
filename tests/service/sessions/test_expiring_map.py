"""The map is bounded in number, bytes and age, and no tenant drops what others have within their equal part."""

from hypothesis import given
from hypothesis import strategies as st

from service.sessions.expiring_map import ExpiringMap
from tests.fakes import FakeClock

MOST, MOST_BYTES, SECONDS = 6, 20, 5.0

operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(0, 5), st.binary(max_size=24)),
        st.tuples(st.sampled_from(["get", "pop"]), st.sampled_from("abc"), st.integers(0, 5), st.just(b"")),
        st.tuples(st.sampled_from(["expire", "wait"]), st.just("a"), st.integers(0, 4), st.just(b"")),
    ),
    max_size=60,
)


class PlainMap:
    """A list of (key, value, time of put), the oldest first, which is searched from end to end."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, bytes, float]] = []
        self.dropped: list[tuple[int, bytes]] = []

    def get(self, key: int) -> bytes | None:
        return next((value for known, value, _ in self.kept if known == key), None)

    def pop(self, key: int) -> bytes | None:
        value = self.get(key)
        self.kept = [kept for kept in self.kept if kept[0] != key]
        return value

    def put(self, key: int, value: bytes, now: float) -> None:
        self.pop(key)
        self.kept.append((key, value, now))
        while len(self.kept) > MOST or self.bytes_kept() > MOST_BYTES:
            self.dropped.append(self.kept.pop(0)[:2])

    def bytes_kept(self) -> int:
        return sum(len(value) for _, value, _ in self.kept)

    def expire(self, now: float) -> None:
        self.dropped += [(key, value) for key, value, put in self.kept if put + SECONDS <= now]
        self.kept = [kept for kept in self.kept if kept[2] + SECONDS > now]


@given(operations)
def test_the_map_of_one_tenant_agrees_with_a_plain_list(steps: list[tuple[str, str, int, bytes]]) -> None:
    """For any sequence of operations of one tenant, the map holds and drops the same values as a plain list."""
    clock, plain, dropped = FakeClock(), PlainMap(), list[tuple[int, bytes]]()
    tested: ExpiringMap[int, bytes] = ExpiringMap(
        MOST, SECONDS, clock=clock, most_bytes=MOST_BYTES, size=len, dropped=lambda *gone: dropped.append(gone)
    )
    for operation, _, key, value in steps:
        if operation == "put":
            tested.put("a", key, value)
            plain.put(key, value, clock())
        elif operation == "get":
            assert tested.get("a", key) == plain.get(key)
        elif operation == "pop":
            assert tested.pop("a", key) == plain.pop(key)
        elif operation == "expire":
            tested.expire()
            plain.expire(clock())
        else:
            clock.advance(key)
        assert [tested.get("a", key) for key in range(6)] == [plain.get(key) for key in range(6)]
        assert len(tested) == len(plain.kept) <= MOST
        assert dropped == plain.dropped
        assert repr(tested) == (
            f"<ExpiringMap {len(plain.kept)} values of {plain.bytes_kept()} bytes, {len(plain.kept) > 0:d} tenants>"
        )


@given(operations)
def test_a_tenant_within_its_equal_part_loses_nothing(steps: list[tuple[str, str, int, bytes]]) -> None:
    """For any sequence of operations of three tenants: the limits hold, and only who has more than its part loses."""
    tested: ExpiringMap[int, bytes] = ExpiringMap(MOST, most_bytes=MOST_BYTES, size=len)
    for operation, tenant, key, value in steps:
        before = contents(tested)
        if operation == "put":
            tested.put(tenant, key, value)
        elif operation == "pop":
            assert tested.pop(tenant, key) == before[tenant].get(key)
        after = contents(tested)
        present = len({tenant, *(each for each, values in before.items() if values)})
        for each in set("abc") - {tenant}:
            values = before[each]
            if len(values) * present <= MOST and sum(map(len, values.values())) * present <= MOST_BYTES:
                assert after[each] == values
        kept = [value for values in after.values() for value in values.values()]
        assert len(tested) == len(kept) <= MOST
        assert sum(map(len, kept)) <= MOST_BYTES


def contents(tested: ExpiringMap[int, bytes]) -> dict[str, dict[int, bytes]]:
    """Return the values of three tenants, by key."""
    found = {tenant: {key: tested.get(tenant, key) for key in range(6)} for tenant in "abc"}
    return {tenant: {key: value for key, value in each.items() if value is not None} for tenant, each in found.items()}


def test_a_value_too_large_is_not_kept() -> None:
    """A value over the limit of bytes is dropped at once, after all older ones of its tenant."""
    tested: ExpiringMap[str, bytes] = ExpiringMap(9, most_bytes=3, size=len)
    tested.put("a", "small", b"12")
    tested.put("b", "other", b"1")
    tested.put("a", "large", b"1234")
    assert (len(tested), tested.get("b", "other")) == (1, b"1")


def test_a_tenant_that_stores_without_end_leaves_the_others_theirs() -> None:
    """One tenant uses all room that is free; others then get theirs, and lose nothing while it goes on."""
    tested: ExpiringMap[int, int] = ExpiringMap(90)
    for number in range(200):
        tested.put("a", number, number)
    assert len(tested) == 90
    for number in range(30):
        tested.put("b", number, number)
        tested.put("c", number, number)
    for number in range(200, 400):
        tested.put("a", number, number)
    assert [tested.get(tenant, number) for tenant in "bc" for number in range(30)] == [*range(30)] * 2
    assert [number for number in range(400) if tested.get("a", number) is not None] == [*range(370, 400)]
