"""Which user of Box does what: the same answer everywhere and always, in fair shares, and little moves."""

from __future__ import annotations

from collections import Counter
from hashlib import sha1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.rules.users import user_for

USER_IDS = st.integers(1, 10**11).map(str)
SOME_USERS = st.lists(USER_IDS, min_size=1, max_size=50, unique=True)
A, B, C = "27000000001", "27000000002", "27000000003"
ASSETS = [sha1(str(number).encode()).hexdigest() for number in range(6000)]
"""Ids as the DAM makes them."""


@pytest.mark.parametrize(
    ("item_id", "users", "wanted"),
    [
        ("0" * 40, [A], A),  # with one user there is no choice
        ("0" * 40, [A, B], A),
        ("0" * 39 + "1", [A, B], B),
        ("0" * 39 + "1", [B, A], B),  # in any order
        ("0" * 40, [A, B, C], C),  # taken over by the new one
        ("0" * 39 + "1", [A, B, C], B),  # not taken over
        ("0" * 39 + "1", [A, C], C),  # the one who had it is gone
        ("f" * 40, [A, C], A),
    ],
)
def test_user_for__never_changes(item_id: str, users: list[str], wanted: str) -> None:
    """Fixed values: under another rule the runs after an upgrade would not find their upload sessions."""
    assert user_for(item_id, users) == wanted


@given(item_id=st.text("0123456789abcdef", min_size=1, max_size=40), users=SOME_USERS, data=st.data())
def test_user_for__a_change_of_users_moves_only_their_share(
    item_id: str, users: list[str], data: st.DataObject
) -> None:
    """One who is added takes from others, and nothing moves between them; one who is removed gives back."""
    before = user_for(item_id, users)
    assert before in users
    assert user_for(item_id, data.draw(st.permutations(users))) == before
    added = data.draw(USER_IDS.filter(lambda user: user not in users))
    assert user_for(item_id, [*users, added]) in (before, added)
    removed = data.draw(st.sampled_from(users))
    left = [user for user in users if user != removed]
    if before in left:
        assert user_for(item_id, left) == before


@given(users=st.lists(USER_IDS, min_size=2, max_size=8, unique=True))
def test_user_for__shares_are_fair(users: list[str]) -> None:
    """6,000 assets: no share is a fifth larger or smaller than the others (five standard deviations)."""
    shares = Counter(user_for(asset, users) for asset in ASSETS)
    fair = len(ASSETS) / len(users)
    assert all(0.8 * fair < shares[user] < 1.2 * fair for user in users), shares


def test_user_for__one_more_user_takes_an_equal_part_of_each() -> None:
    before = {asset: user_for(asset, ["1", "2", "3"]) for asset in ASSETS}
    after = {asset: user_for(asset, ["1", "2", "3", "4"]) for asset in ASSETS}
    moved = Counter(before[asset] for asset in ASSETS if after[asset] != before[asset])
    assert sum(moved.values()) == pytest.approx(len(ASSETS) / 4, rel=0.1)
    assert all(count == pytest.approx(len(ASSETS) / 12, rel=0.2) for count in moved.values()), moved
