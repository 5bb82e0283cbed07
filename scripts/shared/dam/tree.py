"""Lists the files of a tree of folders."""

from __future__ import annotations

from collections import deque
from itertools import islice

from shared.base.errors import DamError
from shared.base.values import Asset, DamFolder
from shared.dam.answers import MOST_ITEMS
from shared.http.ahead import MOST_AHEAD, Ahead

Child = DamFolder | Asset
Listings = Ahead[DamFolder, list[Child]]

DEEPEST_FOLDER = 64
"""How many levels of sub-folders are allowed: more than people make, but not endless."""


def assets_below(root: DamFolder, campaign_id: str, children: Listings) -> tuple[Asset, ...]:
    """The files below a folder, each once, level by level; several folders are listed at the same time.

    Raises DamError for an endless tree.
    """
    assets: dict[str, Asset] = {}
    seen = {root.id}
    waiting = deque([(root, 0)])
    while waiting:
        if len(waiting) > 1:
            for folder, _ in islice(waiting, MOST_AHEAD):
                children.expect(folder)
        folder, depth = waiting.popleft()
        if depth > DEEPEST_FOLDER or len(seen) + len(assets) > MOST_ITEMS:
            raise DamError(
                f"campaign {campaign_id} has more than {DEEPEST_FOLDER} levels of folders,"
                f" or more than {MOST_ITEMS} items",
                kind="unfinished_listing",
                hint=f'tidy its "{root.name}" folder',
                item_id=campaign_id,
            )
        for child in children(folder):
            if isinstance(child, Asset):
                assets.setdefault(child.id, child)
            elif child.id not in seen:
                seen.add(child.id)
                waiting.append((child, depth + 1))
    return tuple(assets.values())
