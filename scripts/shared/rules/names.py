"""Plans names that Box accepts, each unique in its folder, before the first byte is copied. Pure.

Box's rules: 1 to 255 characters, no `/` or `\\`, no control characters, no spaces at either end, not `.` or
`..`, and unique in a folder regardless of case, across files and sub-folders (MARKDOWN_DOCS/DAM_AND_BOX.md).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

MAX_UNITS = 255
SHORT_ID_LENGTH = 8

_ILLEGAL = re.compile(r"[/\\\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_SOMETIMES_REFUSED = re.compile(r'[<>:|?*"]')
_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,10}$")


def name_key(name: str) -> str:
    """The name without its case and compatibility forms. No two of our names in a folder have the same key.

    Box does not document which names it considers equal, so we keep ours different by the strictest guess.
    For other people's files we do not guess: Box refuses a name that is taken.
    """
    return unicodedata.normalize("NFKC", name).casefold().strip()


def legal_name(name: str) -> str:
    """The most similar name that Box accepts. Shortening keeps the extension."""
    cleaned = _ILLEGAL.sub("_", name).strip()
    if not cleaned.strip("."):
        cleaned = "_" * max(len(cleaned), 1)
    return _shorten(cleaned, "")


def strict_name(name: str, item_id: str) -> str:
    """The name to use when Box refused the legal one: ASCII letters that no known rule forbids,
    and the id.
    """
    cleaned = _SOMETIMES_REFUSED.sub("_", name).encode("ascii", "replace").decode().replace("?", "_")
    return distinguish(legal_name(cleaned), item_id)


def distinguish(name: str, item_id: str) -> str:
    """The name with an id before its extension: `banner (1a2b3c4d).jpg`."""
    return _shorten(name, f" ({item_id})")


def other_names(name: str, item_id: str) -> tuple[str, ...]:
    """The names for an item when something else has its name, shortest first."""
    return (
        distinguish(name, item_id[:SHORT_ID_LENGTH]),
        distinguish(name, item_id),
        strict_name(name, item_id),
    )


def plan_names(items: Iterable[tuple[str, str]], pinned: Mapping[str, str]) -> dict[str, str]:
    """Box names for the (id, name) items of one folder, each legal and unique; earlier items choose first.

    pinned: {id: Box name} of items that are already in Box under that name; they keep it.
    """
    owners = {name_key(name): item_id for item_id, name in pinned.items()}
    planned: dict[str, str] = {}
    for item_id, name in items:
        if item_id in pinned:
            planned[item_id] = pinned[item_id]
            continue
        wanted = legal_name(name)
        for candidate in (wanted, *other_names(wanted, item_id)):
            if owners.setdefault(name_key(candidate), item_id) == item_id:
                planned[item_id] = candidate
                break
        else:
            raise ValueError(f"no free name for {item_id} ({wanted!r})")
    return planned


def _shorten(name: str, addition: str) -> str:
    """Put the addition before the extension, and cut the stem so that the whole fits."""
    match = _EXTENSION.search(name)
    extension = match[0] if match and match.start() > 0 else ""
    stem = name[: len(name) - len(extension)]
    room = MAX_UNITS - _units(addition) - _units(extension)
    stem = stem[:MAX_UNITS]  # more cannot fit; each step of the loop counts all letters that are left
    while _units(stem) > room:
        stem = stem[:-1]
    return (stem.rstrip() if addition or extension else stem).rstrip() + addition + extension


def _units(text: str) -> int:
    """Length in UTF-16 units. Box does not document what it counts; this is the larger of the two guesses."""
    return len(text) + sum(character > "\uffff" for character in text)
