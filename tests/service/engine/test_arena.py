"""Each slot but the two reserved ones is either leased or free."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.card import StateSpec
from service.engine.arena import INITIAL, RESERVED, Arena, ArenaExhausted, Slots


@given(st.lists(st.one_of(st.integers(0, 5), st.just(-1)), max_size=60))
def test_no_slot_is_leased_twice(moves: list[int]) -> None:
    """No slot is leased twice, and the counts stay true, in any sequence of leases and releases."""
    slots = Slots(20)
    leased: list[int] = []
    for move in moves:
        if move < 0 and leased:
            slots.release(leased.pop(len(leased) // 2))
        elif move >= 0:
            try:
                got = [slots.lease()] if move == 1 else slots.lease_many(move)
            except ArenaExhausted:
                assert slots.free < max(move, 1)
                continue
            assert not set(got) & set(leased)
            assert all(RESERVED <= slot < 20 for slot in got)
            leased += got
        assert slots.leased == len(leased) == len(set(leased))
        assert slots.free == 18 - len(leased)


def test_a_lease_that_does_not_fit_takes_nothing() -> None:
    """A lease that does not fit raises ArenaExhausted, and takes no slot."""
    slots = Slots(RESERVED + 3)
    with pytest.raises(ArenaExhausted):
        slots.lease_many(4)
    assert len(slots.lease_many(3)) == 3
    with pytest.raises(ArenaExhausted):
        slots.lease()


def test_slot_zero_holds_the_initial_state() -> None:
    """Slot 0 holds the card's initial state, one value for all elements or one for each, in any dtype."""
    states = (
        StateSpec(name="h", shape=(2, 2), initial=(1, 2, 3, 4)),
        StateSpec(name="n", shape=(), dtype="int64", initial=7),
    )
    arena = Arena(states, 10)
    np.testing.assert_array_equal(arena.rows["h"][INITIAL], [[1, 2], [3, 4]])
    assert arena.rows["n"][INITIAL] == 7
