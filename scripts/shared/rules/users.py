"""Decides which user of Box does what, so that every run on every host decides the same. Pure.

Rendezvous hashing: each user gets a score for the id of an asset or a campaign, and the highest score wins.
The order of the users makes no difference. A user who is added takes an equal share from each of the others,
and the share of one who is removed goes to all others; everything else stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256


def user_for(item_id: str, users: Iterable[str]) -> str:
    """The user who does an item: the same one as long as the users are the same. users: at least one.

    The scores must never change: after a change, the large files that are partly uploaded would begin again.
    """
    return max(users, key=lambda user: sha256(f"{user} {item_id}".encode()).digest())
