"""Finds the campaigns that a person means: by an id, a number, a name, or the beginning of a name.

The query is database/queries/find.sql, for all words at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.database import Database

MOST_NAMED = 20
"""For an ambiguous word, at most this many campaigns are named."""
_NO_TEXT = "\ufffd"
"""Replaces bytes that are not text. We do not search for it: two different words could look the same."""


@dataclass(frozen=True, slots=True)
class Meant:
    """The campaigns that a word may mean. ids: MOST_NAMED of them at most; total: how many there are."""

    word: str
    ids: tuple[str, ...] = ()
    total: int = 0

    @property
    def is_ambiguous(self) -> bool:
        return self.total > 1


def find(database: Database, words: Sequence[str]) -> list[Meant]:
    """What each of the words means, in their order. Raises DbError."""
    asked = list(dict.fromkeys(words))
    values = {"words": [word for word in asked if _NO_TEXT not in word], "most": str(MOST_NAMED)}
    found: dict[str, list[tuple[str, int]]] = {}
    for word, campaign_id, total in database.run_query("find", values)[1]:
        found.setdefault(word, []).append((campaign_id, total))
    return [_meant(word, found.get(word, [])) for word in asked]


def _meant(word: str, matches: Sequence[tuple[str, int]]) -> Meant:
    return Meant(word, tuple(one for one, _ in matches), matches[0][1] if matches else 0)
