"""Reads the DAM's answers: items, fields, and the end of a list; and writes ids and JSON for its addresses
and forms. Pure.

MARKDOWN_DOCS/DAM_AND_BOX.md gives the sources of the facts about items, fields and lists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

from shared.base.errors import DamError
from shared.base.text import replace_unstorable
from shared.base.values import Asset, DamFolder
from shared.http.guards import within

T = TypeVar("T")

Page = list[tuple[str, T | None]]
"""The id of each item of a page, and our value for it; None when we do not need it. Never the item itself: a
large folder has too many of them for memory."""

GONE_STATES = ("DELETED", "SEL_DEL")
"""The content_state of an item that somebody has marked for deletion."""

LONGEST_TEXT = 2000
"""Longer than any name or message that people write; a longer text ends in an ellipsis."""
LONGEST_CODE = 200
LARGEST_SIZE = 2**63 - 1
MOST_ITEMS = 250_000
"""A longer listing cannot be a listing of campaigns or of their files."""

_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}")  # an id of dots only would change the path
_MD5 = re.compile(r"[0-9a-fA-F]{32}")


def clean_text(value: object) -> str:
    """A name that can be stored and sent anywhere: no NUL, no half characters, no outer spaces,
    not too long.
    """
    return _storable(value.strip(), LONGEST_TEXT).strip() if isinstance(value, str) else ""


def _storable(text: str, limit: int) -> str:
    return replace_unstorable(text if len(text) <= limit else text[: limit - 1] + "…")


def is_safe_id(value: object) -> bool:
    """Whether an id is safe in a path, in SQL shown to people and on a command line."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _checked_id(value: object, what: str) -> str:
    if isinstance(value, str) and is_safe_id(value):
        return value
    raise DamError(f"{what}: the DAM answered with the id {value!r:.80}", kind="bad_answer", retryable=True)


def in_path(item_id: str) -> str:
    """An id as a part of a path. Raises DamError for one that would change the path (`--campaign ..`)."""
    if not is_safe_id(item_id):
        raise DamError(
            f"{item_id!r:.80} is not an id of the DAM", kind="bad_id", hint="an id has 40 hex digits"
        )
    return quote(item_id, safe="")


def compact(value: object) -> str:
    """JSON without spaces, for a form or an address."""
    return json.dumps(value, separators=(",", ":"))


def as_list(value: object) -> list[Any]:
    """A list; some servers send a list of one as the item itself, and no list when it is empty."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def mapping(answer: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    value = answer.get(key)
    if isinstance(value, dict):
        return value
    raise DamError(f'{what}: the DAM\'s answer has no "{key}"', kind="bad_answer", retryable=True)


def items_of(value: object, what: str) -> list[dict[str, Any]]:
    """The objects of a list, each with an id that is safe to use."""
    items = []
    for item in as_list(value):
        if not isinstance(item, dict):
            raise DamError(f"{what}: the DAM listed {item!r:.80}", kind="bad_answer", retryable=True)
        _checked_id(item.get("asset_id"), what)
        items.append(item)
    return items


def search_page(resource: Mapping[str, Any], what: str) -> tuple[list[dict[str, Any]], object]:
    """The hits of one page: objects if the answer has them, else only ids; and what the answer says about the
    number of hits on all pages.
    """
    result = mapping(resource, "search_result", what)
    if result.get("contains_invalid_conditions") is True:
        raise DamError(
            f"{what}: the DAM does not know the search condition",
            kind="bad_search",
            hint="check DAM_STATUS_FIELD_ID, DAM_SEARCH_OPERATOR_ID and DAM_CAMPAIGNS_FOLDER_ID",
        )
    hits = {item["asset_id"]: item for item in items_of(resource.get("asset_list"), what)}
    for hit_id in as_list(result.get("asset_id_list")):
        hits.setdefault(_checked_id(hit_id, what), {"asset_id": hit_id})
    return list(hits.values()), result.get("total_hit_count")


def all_pages(
    fetch: Callable[[int], Page[T]],
    what: str,
    item_id: str | None,
    is_last: Callable[[int, Page[T]], bool] = lambda _after, _page: False,
) -> Iterator[T]:
    """The items of all pages, by `fetch(after)`, until a page is empty; each id once. Raises DamError when a
    page has nothing new: the server then repeats a page and hides another one. Also raises it when the list
    does not end.

    is_last(items so far, page): whether this page counts as the last one, which saves a call. Not for a
    listing that must be complete: counts are sometimes wrong, and pages shorter than requested.
    """
    after = 0
    seen: set[str] = set()
    while page := fetch(after):
        news: dict[str, T | None] = {}
        for found_id, value in page:
            if found_id not in seen:
                news.setdefault(found_id, value)
        if not news:
            raise DamError(
                f"{what}: the DAM repeats a page, so the list cannot be read to its end",
                kind="unfinished_listing",
                retryable=True,
                item_id=item_id,
            )
        yield from (value for value in news.values() if value is not None)
        after += len(page)
        if is_last(after, page):
            return
        if after > MOST_ITEMS:
            raise DamError(
                f"{what}: the DAM lists more than {MOST_ITEMS} items, and the list does not end",
                kind="unfinished_listing",
                retryable=True,
                item_id=item_id,
            )
        seen.update(news)


def is_folder(item: Mapping[str, Any]) -> bool:
    """Whether it has any of the three marks that only folders have: which one it has depends on the call."""
    return (
        item.get("data_type") == "CONTAINER"
        or "container_id" in item
        or item.get("type") == "com.artesia.container.Container"
    )


def is_gone(item: Mapping[str, Any]) -> bool:
    return (
        item.get("deleted") is True or item.get("expired") is True or item.get("content_state") in GONE_STATES
    )


def size_of(item: Mapping[str, Any]) -> int | None:
    """Bytes of the master file; None for a folder, or for a file whose import has not finished."""
    size = item.get("content_size")
    if size is None:
        size = within(item, "master_content_info", "content_size")
    if isinstance(size, str) and size.isdecimal() and len(size) <= len(str(LARGEST_SIZE)):
        size = int(size)
    is_size = isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= LARGEST_SIZE
    return size if is_size else None


def _checksum_of(item: Mapping[str, Any]) -> str | None:
    """The declared checksum, if it has the form of an MD5."""
    value = within(item, "master_content_info", "content_checksum")
    return value.lower() if isinstance(value, str) and _MD5.fullmatch(value) else None


def asset_of(item: Mapping[str, Any], folder: DamFolder) -> Asset:
    asset_id, size = item["asset_id"], size_of(item)
    if size is None:
        raise DamError(
            f"asset {asset_id} ({clean_text(item.get('name'))!r}) has no content yet",
            kind="no_content",
            hint="check in the DAM whether its import is still running or has failed",
            retryable=True,
            item_id=asset_id,
        )
    return Asset(
        id=asset_id,
        name=clean_text(item.get("name")) or asset_id,
        folder=folder,
        size_bytes=size,
        revision=_revision_of(item, size),
        md5=_checksum_of(item),
    )


def _revision_of(item: Mapping[str, Any], size: int) -> str:
    """A value that changes with the file; a very long one is replaced by its digest."""
    text = f"{item.get('version', '')}/{item.get('date_last_updated', '')}"
    if len(text) > LONGEST_CODE or replace_unstorable(text) != text:
        text = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text}/{size}"


def _elements(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The elements of an item's metadata at any depth: groups in a GET, a flat list in a listing."""
    waiting = deque([item.get("metadata")])
    while waiting:
        current = waiting.popleft()
        if isinstance(current, list):
            waiting.extend(current)
        elif isinstance(current, dict):
            yield current
            waiting.append(current.get("metadata_element_list"))


def field_ids(item: Mapping[str, Any]) -> set[str]:
    """The ids of everything in an item's metadata: fields, including empty ones, and their groups."""
    return {element["id"] for element in _elements(item) if isinstance(element.get("id"), str)}


def field_code(item: Mapping[str, Any], field_id: str) -> str | None:
    """The code in a metadata field of a folder; None when it is empty or was not sent."""
    field = next((element for element in _elements(item) if element.get("id") == field_id), None)
    return None if field is None else _code_of(field)


def _code_of(field: Mapping[str, Any]) -> str | None:
    """The stored code. A lookup has it in `field_value`, next to its label; an empty field has no value."""
    value: object = field.get("value")
    for _ in range(3):
        if not isinstance(value, dict):
            break
        inner = value.get("field_value")
        value = inner if inner is not None else value.get("value")
    if value is None or isinstance(value, dict | list):
        return None
    return _storable(str(value), LONGEST_CODE)
