"""What the simulated DAM remembers: folders, assets, fields, locks, and what its search last indexed.

Nothing here knows HTTP. Public methods take the store's one lock: tests and request threads may mix freely.
"""

import hashlib
import mimetypes
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

STATUS_FIELD = "MARKETING.FIELD.STATUS"
NUMBER_FIELD = "MARKETING.FIELD.CAMPAIGN NUMBER"  # a blank in an id, as in ARTESIA.FIELD.ASSET NAME
NAME_FIELD = "ARTESIA.FIELD.ASSET NAME"
ID_FIELD = "ARTESIA.FIELD.ASSET ID"

# Table id -> (column id, lookup domain of the column), as asked for by pyxecm otmm.py.
KNOWN_TABLES = {
    "OTM.TABLE.PRODUCT_TABLE_FIELD": ("PRODUCT_CHAR_ID", "OTMM.DOMAIN.OTM_PRODUCT"),
    "OTMM.FIELD.PRODUCT_NEW.TAB": ("OTMM.COLUMN.PRODUCT_NEW.TAB", "OTMM.DOMAIN.OTM_PRODUCT_NEW.LU"),
    "OTMM.FIELD.BUSINESS_UNIT.TAB": ("OTMM.COLUMN.BUSINESS_UNIT.TAB", "OTMM.DOMAIN.OTM_BUSINESS_UNIT.LU"),
}

BLOCK_BYTES = 1 << 20
_STAMP_BYTES = 8


@lru_cache(maxsize=16)
def _pattern(seed: int) -> bytes:
    return hashlib.shake_256(f"dam-simulator:{seed}".encode()).digest(BLOCK_BYTES)


@lru_cache(maxsize=256)
def _digest(content: "GeneratedContent", algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    for block in content.blocks():
        digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class GeneratedContent:
    """`size` pseudo-random bytes fixed by `seed`, made block by block and never held whole.

    One pattern of 1 MiB is repeated; the first bytes of each repetition carry its number, so that parts which
    arrive swapped, doubled or missing change the SHA-1.
    """

    size: int
    seed: int

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """The bytes [start, stop) in blocks of at most 1 MiB."""
        end = self.size if stop is None else min(stop, self.size)
        pattern = _pattern(self.seed)
        head = int.from_bytes(pattern[:_STAMP_BYTES], "big")
        while start < end:
            number, offset = divmod(start, BLOCK_BYTES)
            length = min(BLOCK_BYTES - offset, end - start)
            block = (head ^ number).to_bytes(_STAMP_BYTES, "big") + pattern[_STAMP_BYTES:]
            yield block if length == BLOCK_BYTES else block[offset : offset + length]
            start += length

    def sha1(self) -> str:
        """Hex SHA-1 of the whole, streamed (and remembered)."""
        return _digest(self, "sha1")

    def md5(self) -> str:
        """Hex MD5 of the whole, streamed (and remembered)."""
        return _digest(self, "md5")


Content = bytes | GeneratedContent


def content_length(content: Content) -> int:
    """How many bytes the content really has, whatever the DAM declares."""
    return content.size if isinstance(content, GeneratedContent) else len(content)


def content_blocks(content: Content, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The bytes [start, stop) of either kind of content."""
    if isinstance(content, GeneratedContent):
        yield from content.blocks(start, stop)
    else:
        yield content[start:stop]


@dataclass
class Options:
    """Behaviours that differ between installations, or that public sources leave open.

    Each guards an assumption of the client; MARKDOWN_DOCS/DAM_AND_BOX.md lists what is confirmed.
    """

    search_contains: bool = True
    """CHAR.CONTAINS hits substrings (A1 finds A10). False: it hits equal values only."""
    index_lag: bool = False
    """Search continues to answer what it last indexed, until `reindex()`."""
    max_page_size: int | None = 200
    """The longest page, whatever `limit` says (200 is the longest seen in pyxecm otmm.py). None: no cap."""
    default_page_size: int | None = 25
    """The page when `limit` is not sent. None: everything."""
    child_count_offset: int = 0
    """Added to container_child_counts, which are at times wrong on real servers."""
    hit_count_offset: int = 0
    """Added to total_hit_count of a search."""
    single_object_lists: bool = False
    """A list of one is sent as that one."""
    omit_empty_lists: bool = False
    """asset_list and folder_list are left out when empty."""
    ignore_after: bool = False
    """Every page is page 1."""
    lock_answer: Literal["bulk_ok", "bulk_failed_list", "error"] = "bulk_ok"
    """bulk_ok: locks work, an item locked by another login is refused (as `lock_refusal` says);
    bulk_failed_list: every lock is refused with 200 and failed_object_list; error: every one with 409."""
    lock_refusal: Literal["bulk_failed_list", "error"] = "bulk_failed_list"
    """How an item locked by another login is refused while lock_answer is bulk_ok."""
    require_lock: bool = True
    """PATCH on an item that the caller has not locked is refused with 403."""
    patch_404_after_save: bool = False
    """PATCH saves and then answers 404: "saved, but you may no longer see it"."""
    status_does_not_stick: bool = False
    """PATCH answers 200 and changes nothing."""
    status_is_lookup: bool = False
    """The status is a DomainValue (code and label) and not a plain string."""
    flat_metadata: bool | None = None
    """None: flat fields in lists, groups in GET. True: flat everywhere. False: groups everywhere."""
    require_requested_by: bool = True
    """Writes in session mode need X-Requested-By = session id, else 400."""
    html_login_on_expired: bool = False
    """No valid login: 302 to a log-in page (200, HTML) instead of 401."""
    login_page_on_expired: bool = False
    """No valid login: every request gets the log-in page itself, with 200."""
    contents_redirect: str = ""
    """An address that /contents answers with by a 302, as with an object store."""
    accept_ranges: bool = False
    """/contents honours Range: bytes=a-b."""
    generated_checksums: bool = False
    """content_checksum also for GeneratedContent (costs one pass over its bytes)."""


class UnknownItemError(LookupError):
    """No item has this id."""


@dataclass
class Table:
    """One tabular field of one column: the codes it holds."""

    column_id: str
    codes: list[str]


@dataclass
class Item:
    """A folder or an asset. `indexed` is what search believes of `fields`."""

    id: str
    name: str
    is_folder: bool
    created_at: datetime
    updated_at: datetime
    is_campaign: bool = False
    master_assets_id: str | None = None
    content: Content = b""
    version: int = 1
    mime_type: str = "application/octet-stream"
    declared_size: int | None = None
    declared_checksum: str | None = None
    deleted: bool = False
    expired: bool = False
    locked_by: str | None = None
    last_locked_by: str = "importer"
    locked_at: datetime | None = None
    parents: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)
    fields: dict[str, str | None] = field(default_factory=dict)
    indexed: dict[str, str | None] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """The byte count the DAM declares."""
        return content_length(self.content) if self.declared_size is None else self.declared_size

    @property
    def content_id(self) -> str:
        """Id of the master content, as in /renditions/{content id}."""
        return make_id("content", self.id)

    def values(self, *, indexed: bool = False) -> dict[str, str | None]:
        """Scalar fields by id, the two that every item has first."""
        return {NAME_FIELD: self.name, ID_FIELD: self.id, **(self.indexed if indexed else self.fields)}


def make_id(*parts: object) -> str:
    """40 lower-case hex, always the same for the same parts."""
    return hashlib.sha1(":".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def utc_now() -> datetime:
    """Now, to the second: the DAM's dates have no fractions (pyxecm otmm.py parses no other form)."""
    return datetime.now(UTC).replace(microsecond=0)


class DamStore:
    """The tree and its bookkeeping."""

    def __init__(self, options: Options) -> None:
        """`options` is shared with the server and may change at any time."""
        self.options = options
        self.guard = threading.RLock()
        self.items: dict[str, Item] = {}
        self.content_owner: dict[str, str] = {}
        self.lookup_domains: dict[str, dict[str, str]] = {}
        self.status_labels: dict[str, str] = {}
        self._made = 0

    def new_item(
        self, parent_id: str | None, name: str, *, is_folder: bool, item_id: str | None = None
    ) -> Item:
        """A new item under a parent (None: a root folder). Ids follow a counter: every run gives the same."""
        with self.guard:
            self._made += 1
            identity = item_id or make_id("item", self._made)
            if identity in self.items:
                raise ValueError(f"item {identity} exists already")
            now = utc_now()
            item = Item(id=identity, name=name, is_folder=is_folder, created_at=now, updated_at=now)
            if parent_id is not None:
                self._join(self.folder(parent_id), item)
            self.items[identity] = item
            return item

    def new_asset(
        self, parent_id: str, name: str, content: Content, mime_type: str | None, item_id: str | None
    ) -> Item:
        """A new asset with its master content."""
        with self.guard:
            item = self.new_item(parent_id, name, is_folder=False, item_id=item_id)
            item.content = content
            item.mime_type = mime_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
            self.content_owner[item.content_id] = item.id
            return item

    def replace_content(self, asset_id: str, content: Content) -> None:
        """A new version of an asset's bytes, declared truly."""
        with self.guard:
            item = self.item(asset_id)
            item.content = content
            item.version += 1
            item.updated_at = utc_now()
            item.declared_size = item.declared_checksum = None

    def item(self, item_id: str) -> Item:
        """Raises UnknownItemError."""
        with self.guard:
            try:
                return self.items[item_id]
            except KeyError:
                raise UnknownItemError(item_id) from None

    def folder(self, item_id: str) -> Item:
        """As `item`, and an asset's id is unknown too."""
        item = self.item(item_id)
        if not item.is_folder:
            raise UnknownItemError(item_id)
        return item

    @staticmethod
    def _join(folder: Item, child: Item) -> None:
        if child.id not in folder.children:
            folder.children.append(child.id)
            child.parents.append(folder.id)

    def link(self, folder_id: str, child_id: str) -> None:
        """Put the item into one more folder."""
        with self.guard:
            self._join(self.folder(folder_id), self.item(child_id))

    def remove(self, item_id: str) -> None:
        """Take the item out of the world, with everything that sits nowhere else."""
        with self.guard:
            item = self.item(item_id)
            for parent_id in item.parents:
                self.items[parent_id].children.remove(item_id)
            del self.items[item_id]
            self.content_owner.pop(item.content_id, None)
            for child_id in list(item.children):
                child = self.items[child_id]
                child.parents.remove(item_id)
                if not child.parents:
                    self.remove(child_id)

    def children(self, folder_id: str) -> list[Item]:
        """In the order in which they were put there."""
        with self.guard:
            return [self.items[child_id] for child_id in self.folder(folder_id).children]

    def descendants(self, folder_id: str) -> Iterator[Item]:
        """Everything below, each item once."""
        seen = {folder_id}
        waiting = [folder_id]
        while waiting:
            for child in self.children(waiting.pop()):
                if child.id in seen:
                    continue
                seen.add(child.id)
                yield child
                if child.is_folder:
                    waiting.append(child.id)

    def paths(self, item: Item) -> list[list[Item]]:
        """Every way from a root down to the item's folder."""
        with self.guard:
            found: list[list[Item]] = []
            for parent_id in item.parents:
                parent = self.items[parent_id]
                found += [[*above, parent] for above in (self.paths(parent) if parent.parents else [[]])]
            return found

    def set_field(self, item_id: str, field_id: str, value: str | None) -> None:
        """Write one scalar field; the index follows unless it lags."""
        with self.guard:
            item = self.item(item_id)
            if field_id == NAME_FIELD:
                item.name = value or ""
            else:
                item.fields[field_id] = value
                if not self.options.index_lag:
                    item.indexed[field_id] = value
            item.updated_at = utc_now()

    def set_table(self, item_id: str, field_id: str, codes: list[str]) -> None:
        """Write one tabular field, named by its table or by its column."""
        with self.guard:
            table_id, column_id = table_and_column(field_id)
            self.item(item_id).tables[table_id] = Table(column_id, list(codes))

    def knows_field(self, field_id: str) -> bool:
        """Is this a field of the metadata model: given by us, or used on any item?"""
        with self.guard:
            return field_id in {STATUS_FIELD, NUMBER_FIELD, NAME_FIELD, ID_FIELD} or any(
                field_id in item.fields for item in self.items.values()
            )

    def knows_table(self, field_id: str) -> bool:
        """Is this a table, or the column of one?"""
        with self.guard:
            table_id, _ = table_and_column(field_id)
            return table_id in KNOWN_TABLES or any(table_id in item.tables for item in self.items.values())

    def label(self, column_id: str, code: str) -> str:
        """The text shown for a code: the lookup domain's, or the code itself."""
        domain = next((known for column, known in KNOWN_TABLES.values() if column == column_id), None)
        with self.guard:
            return self.lookup_domains.get(domain or "", {}).get(code, code)

    def reindex(self) -> None:
        """Let search see everything as it is now."""
        with self.guard:
            for item in self.items.values():
                item.indexed = dict(item.fields)

    def lock(self, item_id: str, login: str) -> bool:
        """Lock for `login`; False when another login holds it."""
        with self.guard:
            item = self.item(item_id)
            if item.locked_by not in (None, login):
                return False
            item.locked_by = item.last_locked_by = login
            item.locked_at = utc_now()
            return True

    def unlock(self, item_id: str, login: str) -> bool:
        """Release; False when another login holds it. Releasing what is free is fine."""
        with self.guard:
            item = self.item(item_id)
            if item.locked_by not in (None, login):
                return False
            item.locked_by = None
            return True


def table_and_column(field_id: str) -> tuple[str, str]:
    """(table id, column id) for either of the two. An unknown id is a table with a column of the same id."""
    for table_id, (column_id, _) in KNOWN_TABLES.items():
        if field_id in (table_id, column_id):
            return table_id, column_id
    return field_id, field_id
