"""A limit that several groups share is divided so that each of them gets what is reserved for it."""

from hypothesis import given
from hypothesis import strategies as st

from service.engine.quota import Quota, Shares


def take(quota: Quota, group: str, most: int = 10_000) -> int:
    """Take one after the other until the quota refuses; return how many were taken."""
    taken = 0
    while taken < most and quota.allows(group):
        quota.held[group] += 1
        taken += 1
    return taken


def test_a_single_group_may_take_everything() -> None:
    """Where there is one group, or the largest share is 1, nothing is divided."""
    assert take(Quota(50, Shares(0.5, 1)), "a") == 50
    assert take(Quota(50, Shares(1.0, 2)), "a") == 50


def test_one_group_leaves_room_for_all_others() -> None:
    """A group gets its largest share; two that take all they can leave what is reserved to each of the others."""
    shares = Shares(0.5, 4)
    quota = Quota(60, shares)
    assert (quota.most, quota.reserved) == (30, 10)
    assert [take(quota, group) for group in "abcd"] == [30, 10, 10, 10]
    quota = Quota(60, shares)
    assert [take(quota, group) for group in "abcd"] == [30, 10, 10, 10]
    quota.held["a"] -= 15
    assert [take(quota, group) for group in "dcb"] == [15, 0, 0]
    assert take(quota, "a") == 0
    assert quota.held["d"] == 25


def test_a_group_that_takes_no_more_is_allowed() -> None:
    """An exchange of as many or fewer is allowed even above the share, which another group may have made smaller."""
    shares = Shares(0.5, 1)
    quota = Quota(50, shares)
    take(quota, "a", 50)
    shares.groups = 2
    assert quota.allows("a", 0)
    assert quota.allows("a", -1)
    assert not quota.allows("a")


@given(
    st.integers(1, 60),
    st.integers(2, 6),
    st.floats(0.01, 1.0),
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 1, 2, 5, -1])), max_size=200),
)
def test_what_is_reserved_is_never_refused(
    limit: int, groups: int, largest: float, steps: list[tuple[int, int]]
) -> None:
    """Whatever the groups ask for: none exceeds its share, all of them not the limit, and the reserve is granted."""
    quota = Quota(limit, Shares(largest, groups))
    held = [0] * groups
    assert quota.reserved <= quota.most <= limit
    for group, more in steps:
        group %= groups
        if more < 0 and not held[group]:
            continue
        allowed = quota.allows(group, more)
        assert allowed or held[group] + more > quota.reserved
        if allowed:
            quota.held[group] += more
            held[group] += more
            assert held[group] <= quota.most
        assert sum(held) <= limit
