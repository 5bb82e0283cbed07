"""Calls Box: its folders, its files, and its upload sessions for large files.

MARKDOWN_DOCS/DAM_AND_BOX.md says what is documented about the API and what is not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any
from urllib.parse import quote

from shared.base.errors import BoxError
from shared.base.values import BoxFile, BoxFolderListing, BoxSettings
from shared.box.answers import (
    Part,
    UploadSession,
    digest,
    endless,
    entries_of,
    file_of,
    id_in,
    in_path,
    multipart,
    only_file,
    part_of,
    text_in,
    upload_session,
)
from shared.box.calls import BoxCalls, Gate
from shared.box.refusals import storable
from shared.box.session import BoxSession
from shared.http.guards import within
from shared.http.patience import backoff_seconds

logger = logging.getLogger(__name__)

LISTING_PAGE = 1000
MOST_PAGES = 1000
"""A longer listing is refused."""
SMALL_FILE_LIMIT = 64 * 1024 * 1024
COMMIT_PATIENCE_SECONDS = 900.0
PARTS_MISMATCH_TRIES = 6
FILE_FIELDS = "id,type,name,size,sha1,file_version"


class BoxClient:
    """Box's client. Raises BoxError for failures of Box; BoxSession repeats calls.

    So a write whose answer was lost may be sent twice; Box then answers with a name conflict, and the
    transfer compares the SHA-1. Every method may be called by any thread.
    """

    def __init__(
        self, settings: BoxSettings, gate: Gate, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """sleep: waits between tries; may raise StoppedError."""
        self._session = BoxSession(BoxCalls(settings, gate, sleep))
        self._api = f"{settings.api_url}/2.0"
        self._uploads = f"{settings.upload_url}/2.0"
        self._parts_are_uploads = settings.parts_count_as_uploads

    def guarded(self, ensure_held: Callable[[], None]) -> BoxClient:
        """The same client. ensure_held is called before each call; if it raises, the call is not made."""
        twin = copy(self)
        twin._session = self._session.guarded(ensure_held)
        return twin

    def as_user(self, user: str, gate: Gate) -> BoxClient:
        """The same client, but a user of Box makes the calls. user: its id in Box; gate: keeps its limits.

        They share connections and login: the app's service account acts for the user (header `As-User`).
        """
        twin = copy(self)
        twin._session = self._session.as_user(user, gate)
        return twin

    def close(self) -> None:
        """Drop the connections."""
        self._session.calls.close()

    def log_in(self) -> None:
        """Get a token ahead of the first call. Raises BoxError at the first failure; calls themselves try
        again.
        """
        self._session.login.token(most_tries=1)

    def connect(self) -> None:
        """Open a connection ahead of an upload. Raises BoxError, ConfigError."""
        self._session.calls.connect(self._uploads)

    def read_user(self) -> str:
        """The id of the user who makes our calls. Raises BoxError, also when we may not act for the user."""
        what = "reading our user in Box"
        answer = self._session.call("GET", f"{self._api}/users/me?fields=id", what=what)
        return id_in(answer.mapping, "id", what)

    # Folders

    def folder_exists(self, folder_id: str) -> bool:
        """Whether the folder exists and is not in the trash."""
        url = f"{self._api}/folders/{in_path(folder_id)}?fields=id,name"
        return self._read_or_none(url, f"looking for Box folder {folder_id}") is not None

    def may_upload_to(self, folder_id: str) -> bool | None:
        """Whether we may write to a folder; None when Box does not say. Raises BoxError, also when the folder
        is gone.
        """
        url = f"{self._api}/folders/{in_path(folder_id)}?fields=id,permissions"
        found = self._session.call("GET", url, what=f"reading Box folder {folder_id}").mapping
        can_upload = within(found, "permissions", "can_upload")
        return can_upload if isinstance(can_upload, bool) else None

    def create_folder(self, parent_id: str, name: str) -> str:
        """Make a folder and return its id. Raises NameTakenError when the name is in use."""
        what = f"creating the Box folder {name!r} in {parent_id}"
        wanted = {"name": name, "parent": {"id": parent_id}}
        answer = self._session.call(
            "POST", f"{self._api}/folders?fields=id,name", what=what, json_body=wanted
        )
        return id_in(answer.mapping, "id", what)

    def list_folder(self, folder_id: str) -> BoxFolderListing:
        """Everything in a folder, to the last page, by markers: offsets are unreliable in a large folder."""
        what = f"listing Box folder {folder_id}"
        files: list[BoxFile] = []
        folders: dict[str, str] = {}
        address = (
            f"{self._api}/folders/{in_path(folder_id)}/items"
            f"?fields={FILE_FIELDS}&usemarker=true&limit={LISTING_PAGE}"
        )
        marker = ""
        for _ in range(MOST_PAGES):
            url = f"{address}&marker={quote(marker, safe='')}" if marker else address
            page = self._session.call("GET", url, what=what).mapping
            for item in entries_of(page, what):
                if item.get("type") == "file":
                    files.append(file_of(item, what))
                elif item.get("type") == "folder":
                    folders[id_in(item, "id", what)] = text_in(item, "name", what)
            marker = storable(page.get("next_marker") or "")
            if not marker:
                return BoxFolderListing(tuple(files), folders)
        raise endless(what)

    # Files

    def read_file(self, file_id: str) -> BoxFile | None:
        """The file's present record; None when it is gone or in the trash."""
        what = f"reading Box file {file_id}"
        found = self._read_or_none(f"{self._api}/files/{in_path(file_id)}?fields={FILE_FIELDS}", what)
        return None if found is None else file_of(found, what)

    def read_content(self, file_id: str) -> bytes:
        """The bytes of a small file."""
        what = f"downloading Box file {file_id}"
        url = f"{self._api}/files/{in_path(file_id)}/content"
        answer = self._session.call("GET", url, what=what, limit=SMALL_FILE_LIMIT)
        if answer.status != 302:
            return answer.content
        location = answer.headers.get("Location") or ""
        return self._session.fetch(location, what=what, limit=SMALL_FILE_LIMIT)

    def upload_file(
        self, folder_id: str, name: str, content: bytes | memoryview, sha1: str, *, replaces: str | None
    ) -> BoxFile:
        """Upload in one request; replaces names the file that gets a new version instead.

        It sends sha1 (hex) too, so that Box refuses damaged bytes. Raises NameTakenError.
        """
        attributes: dict[str, object] = {"name": name}
        if replaces is None:
            attributes["parent"] = {"id": folder_id}
            url = f"{self._uploads}/files/content?fields={FILE_FIELDS}"
            what = f"uploading {name!r} to Box folder {folder_id}"
        else:
            url = f"{self._uploads}/files/{in_path(replaces)}/content?fields={FILE_FIELDS}"
            what = f"uploading {name!r} as a new version of Box file {replaces}"
        kind, pieces = multipart(attributes, content)
        # Despite its name the header contains a SHA-1.
        with self._telling_who_locked(replaces):
            answer = self._session.call(
                "POST",
                url,
                what=what,
                headers={"Content-Type": kind, "Content-MD5": sha1},
                pieces=pieces,
                is_upload=True,
            )
        return only_file(answer.mapping, what)

    @contextmanager
    def _telling_who_locked(self, file_id: str | None) -> Iterator[None]:
        """Around the upload of a new version: adds the person who locked the file to a refusal."""
        try:
            yield
        except BoxError as exc:
            if file_id is not None and "locked" in exc.kind:
                holder = self._lock_holder(file_id)
                exc.message = exc.message.replace("locked in Box", f"locked in Box{holder}", 1)
            raise

    def _lock_holder(self, file_id: str) -> str:
        """` by NAME (LOGIN)`, or nothing when Box does not say."""
        url = f"{self._api}/files/{in_path(file_id)}?fields=id,lock"
        try:
            found = self._read_or_none(url, f"reading the lock of Box file {file_id}")
        except BoxError as exc:
            logger.debug("%s", exc)
            return ""
        said = (within(found, "lock", "created_by", field) for field in ("name", "login"))
        name, login = (storable(text or "")[:100] for text in said)
        if name and login:
            return f" by {name} ({login})"
        return f" by {name or login}" if name or login else ""

    def remove_bad_copy(self, file: BoxFile, before: BoxFile | None) -> None:
        """Delete what was just uploaded: the whole file, or only our version of an existing one.

        Box restores an earlier version by copying it on top; after that ours is deleted.
        """
        url = f"{self._api}/files/{in_path(file.id)}"
        what = f"deleting the bad copy {file.name!r} (Box file {file.id})"
        if before is None:
            self._session.call("DELETE", url, what=what)
            return
        wanted = {"type": "file_version", "id": before.version_id}
        self._session.call("POST", f"{url}/versions/current", what=what, json_body=wanted)
        if file.version_id:
            self._session.call("DELETE", f"{url}/versions/{in_path(file.version_id)}", what=what)

    # Large files

    def open_session(
        self, folder_id: str, name: str, size_bytes: int, *, replaces: str | None
    ) -> UploadSession:
        """A new upload session. Raises NameTakenError."""
        wanted: dict[str, object] = {"file_size": size_bytes, "file_name": name}
        if replaces is None:
            wanted["folder_id"] = folder_id
            url = f"{self._uploads}/files/upload_sessions"
            what = f"opening an upload session for {name!r} in Box folder {folder_id}"
        else:
            url = f"{self._uploads}/files/{in_path(replaces)}/upload_sessions"
            what = f"opening an upload session for {name!r} as a new version of Box file {replaces}"
        with self._telling_who_locked(replaces):
            answer = self._session.call("POST", url, what=what, json_body=wanted, is_upload=True)
        return self._upload_session(answer.mapping, what)

    def read_session(self, session_id: str) -> UploadSession | None:
        """An upload session that was opened before; None when it has ended, or when it is not ours: only the
        user who opened a session may use it.
        """
        what = f"reading the upload session {session_id}"
        url = f"{self._uploads}/files/upload_sessions/{in_path(session_id)}"
        try:
            return self._upload_session(self._session.call("GET", url, what=what).mapping, what)
        except BoxError as exc:
            if not _is_over(exc):
                raise
            return None

    def list_parts(self, session: UploadSession) -> dict[int, Part]:
        """{offset: part} of the parts that Box has of a session."""
        what = f"listing the parts of the upload session {session.id}"
        parts: dict[int, Part] = {}
        for _ in range(MOST_PAGES):
            url = f"{session.parts_url}?offset={len(parts)}&limit={LISTING_PAGE}"
            entries = entries_of(self._session.call("GET", url, what=what).mapping, what)
            known = len(parts)
            parts |= {part.offset: part for part in (part_of(entry, what) for entry in entries)}
            if len(parts) == known:
                return parts
        raise endless(what)

    def send_part(
        self, session: UploadSession, offset: int, content: memoryview, sha1: bytes, total_bytes: int
    ) -> Part:
        """Upload the part that begins at offset; sha1 is its digest, total_bytes the size of the file.

        Parts cannot be changed: when an earlier try arrived and only its answer was lost, Box refuses the
        second one, and we use the part that Box has, if it is the same.
        """
        last = offset + len(content) - 1
        what = f"uploading bytes {offset}-{last} to the upload session {session.id}"
        try:
            answer = self._session.call(
                "PUT",
                session.part_url,
                what=what,
                headers={
                    "Digest": digest(sha1),
                    "Content-Range": f"bytes {offset}-{last}/{total_bytes}",
                    "Content-Type": "application/octet-stream",
                },
                pieces=(content,),
                is_upload=self._parts_are_uploads,
            )
        except BoxError as exc:
            if exc.status_code != 409:
                raise
            stored = self.list_parts(session).get(offset)
            if stored is None or (stored.size, stored.sha1) != (len(content), sha1.hex()):
                raise
            return stored
        part = answer.mapping.get("part")
        return part_of(part if isinstance(part, dict) else {}, what)

    def commit(self, session: UploadSession, parts: Sequence[Part], sha1: bytes, name: str) -> BoxFile:
        """Make the file from the parts; sha1 is the digest of the whole file. Raises NameTakenError.

        Box may answer 202 while it is still processing the parts, and `parts_mismatch` just after the last
        one.
        """
        what = f"committing {name!r}"
        listed = [
            {"part_id": part.id, "offset": part.offset, "size": part.size, "sha1": part.sha1}
            for part in sorted(parts, key=lambda part: part.offset)
        ]
        give_up_at = time.monotonic() + COMMIT_PATIENCE_SECONDS
        mismatches = 0
        while True:
            try:
                answer = self._session.call(
                    "POST",
                    session.commit_url,
                    what=what,
                    headers={"Digest": digest(sha1)},
                    json_body={"parts": listed},
                )
            except BoxError as exc:
                mismatches += 1
                if exc.kind != "parts_mismatch" or mismatches == PARTS_MISMATCH_TRIES:
                    raise
                self._session.calls.sleep(backoff_seconds(mismatches))
                continue
            if answer.status != 202:
                return only_file(answer.mapping, what)
            if time.monotonic() > give_up_at:
                raise BoxError(
                    f"{what}: Box is still processing the parts after {COMMIT_PATIENCE_SECONDS:.0f} s",
                    kind="commit_unfinished",
                    retryable=True,
                )
            self._session.calls.sleep(1)

    def abort(self, session_id: str) -> None:
        """Abort a session; it is not an error when the session has already ended, or when another user of Box
        opened it: Box then ends it after 7 days.
        """
        url = f"{self._uploads}/files/upload_sessions/{in_path(session_id)}"
        try:
            self._session.call("DELETE", url, what=f"aborting the upload session {session_id}")
        except BoxError as exc:
            if not _is_over(exc):
                raise

    def _upload_session(self, found: Mapping[str, Any], what: str) -> UploadSession:
        return upload_session(found, f"{self._uploads}/files/upload_sessions", self._session.trusts, what)

    def _read_or_none(self, url: str, what: str) -> dict[str, Any] | None:
        try:
            return self._session.call("GET", url, what=what).mapping
        except BoxError as exc:
            if exc.status_code in (404, 410):
                return None
            raise


def _is_over(error: BoxError) -> bool:
    """Whether we cannot use an upload session any more: it has ended, or is another user's."""
    return error.status_code in (403, 404, 410) and not error.heals_by_itself
