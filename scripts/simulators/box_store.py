"""The Box simulator's memory: folders, files and their names, and what Box refuses about them.

Facts are from "Box OpenAPI" and "Box guide common-errors"; names besides from MARKDOWN_DOCS/DAM_AND_BOX.md.
Every method takes the one lock, so the HTTP threads and a test may use a store at the same time.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Kind = Literal["file", "folder"]
NextMarkerStyle = Literal["missing", "null", "empty"]

ROOT_ID = "0"
MAX_NAME_LENGTH = 255
MEBIBYTE = 1024 * 1024


@dataclass
class Options:
    """What a test may bend, at any time; sizes in bytes, times in seconds.

    part_size, min_session_size, session_lifetime: taken up by sessions created from then on.
    max_direct_size: a direct upload above it is refused with 413.
    page_limit_cap: the longest page any list answers, whatever `limit` asks for.
    nfkc_names: names are compared after Unicode NFKC; strict_names: `< > : | ? *` are refused too.
    calls_per_minute, uploads_per_minute: above them 429 with Retry-After; None means no limit. Box's own
        are 1,000 and 240. They are for each user.
    retry_after_as_date: the 429s of these limits carry an HTTP date in place of seconds.
    upload_delay: how long each file and each part takes to be stored.
    commit_202: the first N commits of each session answer 202 with `Retry-After: 0`.
    parts_mismatch_once: the first judged commit of each session answers 400 `parts_mismatch`.
    wrong_sha1: answers that show a file carry a wrong SHA-1; wrong_sha1_times bounds how many answers do.
    next_marker_style: how the last page says that it is the last.
    keep_content_below: bytes of files up to this size are kept; larger ones are hashed and forgotten.
    can_upload: what `permissions` of every folder says, for those who may write at all.
    may_act_as_users: whether the application may use the header `As-User`.
    foreign_session_status: the answer to a user about another user's upload session, 403 or 404.
    content_dir: a folder that mirrors every file's current bytes under its Box path.
    """

    part_size: int = 8 * MEBIBYTE
    min_session_size: int = 20_000_000
    max_direct_size: int = 50 * MEBIBYTE
    page_limit_cap: int = 1000
    session_lifetime: float = 7 * 24 * 3600.0
    nfkc_names: bool = True
    strict_names: bool = False
    calls_per_minute: int | None = None
    uploads_per_minute: int | None = None
    retry_after_as_date: bool = False
    upload_delay: float = 0.0
    commit_202: int = 0
    parts_mismatch_once: bool = False
    wrong_sha1: bool = False
    wrong_sha1_times: int | None = None
    next_marker_style: NextMarkerStyle = "missing"
    keep_content_below: int = MEBIBYTE
    can_upload: bool = True
    may_act_as_users: bool = True
    foreign_session_status: Literal[403, 404] = 403
    content_dir: Path | None = None


class RefusedError(Exception):
    """Box answers with an error. `context` becomes `context_info`; `conflict` is the item in the way."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str = "",
        *,
        context: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        conflict: Item | None = None,
    ) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.code = code
        self.message = message
        self.context = context
        self.headers = headers or {}
        self.conflict = conflict


def denied() -> RefusedError:
    """The refusal of what a user may not do."""
    return RefusedError(
        403, "access_denied_insufficient_permissions", "Access denied - insufficient permission"
    )


@dataclass(frozen=True)
class Content:
    """The bytes of one file version: their size and SHA-1 (hex), and the bytes themselves where kept."""

    size: int
    sha1: str
    kept: bytes | None
    path: Path | None = None


@dataclass
class Item:
    """What files and folders have in common."""

    id: str
    name: str
    parent_id: str | None
    created_at: datetime
    modified_at: datetime
    content_created_at: datetime
    content_modified_at: datetime
    description: str = ""
    etag: int = 0
    created_by: str = ""
    modified_by: str = ""

    kind = "item"


@dataclass
class Folder(Item):
    """A folder; `children` by the name as Box compares it, so a name can be taken only once."""

    children: dict[str, Item] = field(default_factory=dict)

    kind = "folder"


@dataclass
class File(Item):
    """A file and its current version; `past` has the earlier ones by id, the newest last."""

    content: Content = field(default_factory=lambda: Content(0, "", None))
    version_id: str = ""
    versions: int = 1
    past: dict[str, Content] = field(default_factory=dict)

    kind = "file"


@dataclass(frozen=True)
class ContentTimes:
    """The times a client may give along with a file's bytes; None: the moment of the upload."""

    created_at: datetime | None = None
    modified_at: datetime | None = None


def _not_found(kind: str, item_id: object) -> RefusedError:
    """404 in the words Box uses: files are `f_1`, folders `d_1`."""
    value = f"{'d' if kind == 'folder' else 'f'}_{item_id}"
    fault = {
        "reason": "invalid_parameter",
        "name": kind,
        "message": f"Invalid value '{value}'. '{kind}' with value '{value}' not found",
    }
    return RefusedError(404, "not_found", "Not Found", context={"errors": [fault]})


class Store:
    """All folders and files. Refuses as Box does, by RefusedError."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.lock = threading.RLock()
        now = datetime.now(UTC)
        self._folders: dict[str, Folder] = {ROOT_ID: Folder(ROOT_ID, "All Files", None, now, now, now, now)}
        self._files: dict[str, File] = {}
        self._folder_numbers = itertools.count(310_000_000_001)
        self._file_numbers = itertools.count(1_700_000_000_001)
        self._version_numbers = itertools.count(1_900_000_000_001)

    # --- looking

    def folder(self, folder_id: object) -> Folder:
        """The folder, or 404."""
        with self.lock:
            found = self._folders.get(str(folder_id))
            if found is None:
                raise _not_found("folder", folder_id)
            return found

    def file(self, file_id: object) -> File:
        """The file, or 404."""
        with self.lock:
            found = self._files.get(str(file_id))
            if found is None:
                raise _not_found("file", file_id)
            return found

    def item(self, kind: str, item_id: object) -> Item:
        """The file or folder, or 404."""
        return self.folder(item_id) if kind == "folder" else self.file(item_id)

    def files(self) -> list[File]:
        """Every file."""
        with self.lock:
            return list(self._files.values())

    def folders(self) -> list[Folder]:
        """Every folder but the root."""
        with self.lock:
            return [folder for folder in self._folders.values() if folder.id != ROOT_ID]

    def ancestors(self, item: Item) -> list[Folder]:
        """The folders above an item, the root first."""
        with self.lock:
            above: list[Folder] = []
            parent_id = item.parent_id
            while parent_id is not None:
                folder = self._folders[parent_id]
                above.append(folder)
                parent_id = folder.parent_id
            return above[::-1]

    def path(self, item: Item) -> str:
        """The item's path, '/'-joined, without the root."""
        return "/".join([folder.name for folder in self.ancestors(item)[1:]] + [item.name])

    def children(self, folder: Folder) -> list[Item]:
        """A folder's items, folders first, each in order of creation: stable while others insert."""
        with self.lock:
            return sorted(folder.children.values(), key=listing_key)

    def below(self, folder: Folder) -> Iterator[Item]:
        """Everything under a folder, depth first, a folder before its items."""
        for item in self.children(folder):
            yield item
            if isinstance(item, Folder):
                yield from self.below(item)

    # --- names

    def name_key(self, name: str) -> str:
        """A name as Box compares it: without regard to case, and by default NFKC."""
        if not self.options.nfkc_names:
            return name.casefold()
        return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())

    def check_name(self, name: object) -> str:
        """The name, or 400 as in "Box guide common-errors" (item_name_invalid, item_name_too_long)."""
        if not isinstance(name, str) or not name:
            raise RefusedError(400, "item_name_invalid", "Item name invalid")
        if len(name) > MAX_NAME_LENGTH:
            raise RefusedError(400, "item_name_too_long", "Item name too long")
        refused = set("/\\") | (set("<>:|?*") if self.options.strict_names else set())
        if (
            name in {".", ".."}
            or name != name.strip()
            or any(mark in refused or unicodedata.category(mark) in {"Cc", "Cs"} for mark in name)
        ):
            raise RefusedError(400, "item_name_invalid", "Item name invalid")
        return name

    def check_free(self, folder: Folder, name: str, *, besides: Item | None = None) -> None:
        """Refuse with 409 when another item of the folder has the name."""
        with self.lock:
            taken = folder.children.get(self.name_key(name))
            if taken is not None and taken is not besides:
                raise RefusedError(
                    409, "item_name_in_use", "Item with the same name already exists", conflict=taken
                )

    def check_etag(self, item: Item, if_match: str | None) -> None:
        """Refuse with 412 when the item is no longer the one the client saw."""
        if if_match is not None and if_match.strip('"') != str(item.etag):
            raise RefusedError(
                412,
                "precondition_failed",
                "The resource has been modified. Retrieve the resource again and retry",
            )

    # --- changing

    def create_folder(self, parent_id: object, name: object) -> Folder:
        """A new folder."""
        with self.lock:
            parent = self.folder(parent_id)
            checked = self.check_name(name)
            self.check_free(parent, checked)
            now = datetime.now(UTC)
            folder = Folder(str(next(self._folder_numbers)), checked, parent.id, now, now, now, now)
            self._folders[folder.id] = folder
            parent.children[self.name_key(checked)] = folder
            return folder

    def create_file(
        self, parent_id: object, name: object, content: Content, times: ContentTimes | None = None
    ) -> File:
        """A new file with these bytes."""
        with self.lock:
            parent = self.folder(parent_id)
            checked = self.check_name(name)
            self.check_free(parent, checked)
            now = datetime.now(UTC)
            file = File(
                str(next(self._file_numbers)),
                checked,
                parent.id,
                created_at=now,
                modified_at=now,
                content_created_at=(times and times.created_at) or now,
                content_modified_at=(times and times.modified_at) or now,
                content=content,
                version_id=str(next(self._version_numbers)),
            )
            self._files[file.id] = file
            parent.children[self.name_key(checked)] = file
            self._settle(file)
            return file

    def add_version(
        self,
        file_id: object,
        content: Content,
        *,
        name: object = None,
        if_match: str | None = None,
        times: ContentTimes | None = None,
    ) -> File:
        """New bytes, and perhaps a new name, for a file that keeps its id."""
        with self.lock:
            file = self.file(file_id)
            self.check_etag(file, if_match)
            if name is not None:
                self._rename(file, name)
            self._forget(file.content)
            file.past[file.version_id] = file.content
            now = datetime.now(UTC)
            file.content = content
            file.version_id = str(next(self._version_numbers))
            file.versions += 1
            file.content_modified_at = (times and times.modified_at) or now
            self._touch(file)
            self._settle(file)
            return file

    def promote_version(self, file_id: object, version_id: object) -> File:
        """Make an earlier version current, by a copy of it on top."""
        with self.lock:
            file = self.file(file_id)
            past = file.past.get(str(version_id))
            if past is None:
                raise _not_found("file_version", version_id)
            kept = Content(past.size, past.sha1, past.kept)  # its bytes on disk are gone
            return self.add_version(file.id, kept)

    def delete_version(self, file_id: object, version_id: object) -> None:
        """Take an earlier version away."""
        with self.lock:
            file = self.file(file_id)
            if file.past.pop(str(version_id), None) is None:
                raise _not_found("file_version", version_id)
            file.versions -= 1

    def change(
        self,
        item: Item,
        *,
        name: object = None,
        parent_id: object = None,
        description: object = None,
        if_match: str | None = None,
    ) -> Item:
        """Rename, move or describe an item; None leaves as it is. All of it is done, or nothing."""
        with self.lock:
            self.check_etag(item, if_match)
            if item.id == ROOT_ID:
                raise RefusedError(403, "forbidden", "The root folder cannot be changed")
            new_name = item.name if name is None else self.check_name(name)
            old_parent = self._folders[str(item.parent_id)]
            parent = old_parent if parent_id is None else self.folder(parent_id)
            if item is parent or item in self.ancestors(parent):
                raise RefusedError(
                    400, "cyclical_folder_structure", "Folder move creates cyclical folder structure"
                )
            self.check_free(parent, new_name, besides=item)
            del old_parent.children[self.name_key(item.name)]
            item.name, item.parent_id = new_name, parent.id
            parent.children[self.name_key(new_name)] = item
            if description is not None:
                item.description = str(description)
            self._touch(item)
            for moved in [item, *self.below(item)] if isinstance(item, Folder) else [item]:
                if isinstance(moved, File):
                    self._settle(moved)
            return item

    def delete(self, item: Item, *, recursive: bool = True, if_match: str | None = None) -> None:
        """Delete an item; a folder that is not empty only when `recursive`."""
        with self.lock:
            self.check_etag(item, if_match)
            if item.id == ROOT_ID:
                raise RefusedError(403, "forbidden", "The root folder cannot be deleted")
            doomed = [item]
            if isinstance(item, Folder):
                if item.children and not recursive:
                    raise RefusedError(400, "folder_not_empty", "Cannot delete – folder not empty")
                doomed += self.below(item)
            del self._folders[str(item.parent_id)].children[self.name_key(item.name)]
            for gone in doomed:
                if isinstance(gone, File):
                    del self._files[gone.id]
                    self._forget(gone.content)
                else:
                    del self._folders[gone.id]

    # --- inside

    def _rename(self, item: Item, name: object) -> None:
        checked = self.check_name(name)
        parent = self._folders[str(item.parent_id)]
        self.check_free(parent, checked, besides=item)
        del parent.children[self.name_key(item.name)]
        item.name = checked
        parent.children[self.name_key(checked)] = item

    def _touch(self, item: Item) -> None:
        item.etag += 1
        item.modified_at = datetime.now(UTC)

    def _settle(self, file: File) -> None:
        """Put a file's bytes on disk under its Box path, by its id where the system finds that too long."""
        held, folder = file.content.path, self.options.content_dir
        if held is None or folder is None:
            return
        target = folder / self.path(file)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            held.replace(target)
        except OSError as exc:
            if exc.errno != errno.ENAMETOOLONG:
                raise
            target = folder / file.id
            held.replace(target)
        self._prune(held.parent)
        file.content = Content(file.content.size, file.content.sha1, file.content.kept, target)

    def _forget(self, content: Content) -> None:
        if content.path is not None:
            content.path.unlink(missing_ok=True)
            self._prune(content.path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove folders that have become empty, up to the content folder; the first one in use ends it."""
        top = self.options.content_dir
        with contextlib.suppress(OSError):
            for emptied in (folder, *folder.parents):
                if top is None or top not in emptied.parents:
                    return
                emptied.rmdir()


def listing_key(item: Item) -> tuple[int, int]:
    """Where an item stands in a listing: folders first, then by id."""
    return (0 if item.kind == "folder" else 1, int(item.id))
