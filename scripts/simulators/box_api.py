"""Box's API over the simulator's memory: which path does what, what is checked, what the JSON looks like.

Facts: "Box OpenAPI", "Box guide common-errors", "Box guide uploads/chunked"; the shape of `conflicts` (an
array for folders, an object for files) and a preflight's trailing slash from MARKDOWN_DOCS/DAM_AND_BOX.md.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

from simulators.box_gate import Accounts
from simulators.box_store import (
    ROOT_ID,
    Content,
    ContentTimes,
    File,
    Folder,
    Item,
    Options,
    RefusedError,
    Store,
    listing_key,
)
from simulators.box_uploads import ContentWriter, Digest, Part, Uploads, UploadSession, parts_mismatch
from simulators.box_wire import Answer, Call, MultipartReader

Json = dict[str, Any]

HELP_URL = "https://developer.box.com/guides/api-calls/permissions-and-errors/common-errors/"
DEFAULT_PAGE = 100
MAX_OFFSET = 10_000

BASE_NAMES = ["type", "id", "etag"]
FILE_MINI = [*BASE_NAMES, "file_version", "sequence_id", "sha1", "name"]
FOLDER_MINI = [*BASE_NAMES, "sequence_id", "name"]
COMMON_STANDARD = [
    *["description", "size", "path_collection", "created_at", "modified_at", "trashed_at", "purged_at"],
    *["content_created_at", "content_modified_at", "created_by", "modified_by", "owned_by", "shared_link"],
    *["parent", "item_status"],
]
FOLDER_STANDARD = [*COMMON_STANDARD, "folder_upload_email", "item_collection"]

DOWNLOAD_PREFIX = "/download/"

Handler = Callable[["Api", Call, str], Answer]
Made = TypeVar("Made", bound=Item)
_ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def _route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register a handler for API paths such as `/folders/{id}`."""
    return _register(method, "/2.0" + path)


def _upload_route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register a handler for paths of the upload host, where `/api` stands before `/2.0`."""
    return _register(method, "(?:/api)?/2.0" + path)


def _register(method: str, path: str) -> Callable[[Handler], Handler]:
    pattern = re.compile(path.replace(".", r"\.").replace("{id}", r"(\w+)") + "/?")

    def keep(handler: Handler) -> Handler:
        _ROUTES.append((method, pattern, handler))
        return handler

    return keep


def error_answer(error: RefusedError, *, conflict: Json | None = None, as_array: bool = False) -> Answer:
    """An error in Box's standard shape."""
    context = dict(error.context or {})
    if conflict is not None:
        context["conflicts"] = [conflict] if as_array else conflict
    body: Json = {
        "type": "error",
        "status": error.status,
        "code": error.code,
        "help_url": HELP_URL,
        "message": error.message,
        "request_id": secrets.token_hex(8),
    }
    if context:
        body["context_info"] = context
    return Answer.of_json(error.status, body, error.headers)


class Api:
    """Answers API calls that have passed the gate."""

    def __init__(self, options: Options, store: Store, uploads: Uploads, accounts: Accounts) -> None:
        self._options = options
        self._store = store
        self._uploads = uploads
        self._accounts = accounts
        self._wrong_lock = threading.Lock()

    def answer(self, call: Call) -> Answer:
        """The answer to a call; refusals become Box's error JSON."""
        try:
            return self._dispatch(call)
        except RefusedError as exc:
            if exc.conflict is None:
                return error_answer(exc)
            shown = self._show(call, exc.conflict, [])
            return error_answer(exc, conflict=shown, as_array="/folders" in call.path)

    def _dispatch(self, call: Call) -> Answer:
        methods = []
        for method, pattern, handler in _ROUTES:
            if found := pattern.fullmatch(call.path):
                if method == call.method:
                    return handler(self, call, found[1] if pattern.groups else "")
                methods.append(method)
        if methods:
            raise RefusedError(
                405, "method_not_allowed", "Method Not Allowed", headers={"Allow": ", ".join(methods)}
            )
        raise RefusedError(404, "not_found", "Not Found")

    # --- users and folders

    @_route("GET", "/users/me")
    def _get_me(self, call: Call, _: str) -> Answer:
        stamp = _stamp(self._store.folder(ROOT_ID).created_at)
        user = self._user(call.user_id) | {
            "created_at": stamp,
            "modified_at": stamp,
            "language": "en",
            "timezone": "Europe/Rome",
            "space_amount": 10**15,
            "space_used": sum(file.content.size for file in self._store.files()),
            "max_upload_size": 150 * 10**9,
            "status": "active",
        }
        fields = _fields(call)
        if fields is None:
            return Answer.of_json(200, user)
        user["enterprise"] = {"type": "enterprise", "id": self._accounts.enterprise_id, "name": "Simulated"}
        wanted = {"type", "id", "name", "login", *fields}
        return Answer.of_json(200, {name: value for name, value in user.items() if name in wanted})

    @_route("GET", "/folders/{id}")
    def _get_folder(self, call: Call, folder_id: str) -> Answer:
        with self._store.lock:
            folder = self._store.folder(folder_id)
            return Answer.of_json(200, self._show(call, folder, _fields(call), FOLDER_STANDARD))

    @_route("GET", "/folders/{id}/items")
    def _list_items(self, call: Call, folder_id: str) -> Answer:
        query = call.query
        limit = self._limit(call)
        with self._store.lock:
            items = self._store.children(self._store.folder(folder_id))
            if query.get("usemarker", "").lower() == "true":
                after = _read_marker(query.get("marker", ""))
                rest = [item for item in items if listing_key(item) > after]
                page = rest[:limit]
                answer: Json = {"entries": self._entries(call, page), "limit": limit}
                if len(rest) > limit:
                    answer["next_marker"] = _marker(page[-1])
                elif self._options.next_marker_style != "missing":
                    answer["next_marker"] = None if self._options.next_marker_style == "null" else ""
                return Answer.of_json(200, answer)
            offset = _offset(call)
            items = self._in_order(items, query.get("sort", "name"), query.get("direction", "ASC"))
            page = items[offset : offset + limit]
            answer = _collection(self._entries(call, page), len(items), offset, limit)
            return Answer.of_json(200, answer)

    @_route("POST", "/folders")
    def _create_folder(self, call: Call, _: str) -> Answer:
        body = call.json()
        if "name" not in body:
            raise _missing("name")
        with self._store.lock:
            folder = _made(call, self._store.create_folder(_parent_id(body), body["name"]))
            return Answer.of_json(201, self._show(call, folder, _fields(call), FOLDER_STANDARD))

    @_route("PUT", "/folders/{id}")
    def _change_folder(self, call: Call, folder_id: str) -> Answer:
        with self._store.lock:
            return self._change(call, self._store.folder(folder_id), FOLDER_STANDARD)

    @_route("DELETE", "/folders/{id}")
    def _delete_folder(self, call: Call, folder_id: str) -> Answer:
        recursive = call.query.get("recursive", "").lower() == "true"
        with self._store.lock:
            folder = self._store.folder(folder_id)
            self._store.delete(folder, recursive=recursive, if_match=call.headers.get("if-match"))
        return Answer(204)

    # --- files

    @_route("GET", "/files/{id}")
    def _get_file(self, call: Call, file_id: str) -> Answer:
        with self._store.lock:
            file = self._store.file(file_id)
            if call.headers.get("if-none-match", "").strip('"') == str(file.etag):
                return Answer(304)
            return Answer.of_json(200, self._show(call, file, _fields(call), COMMON_STANDARD))

    @_route("PUT", "/files/{id}")
    def _change_file(self, call: Call, file_id: str) -> Answer:
        with self._store.lock:
            return self._change(call, self._store.file(file_id), COMMON_STANDARD)

    @_route("DELETE", "/files/{id}")
    def _delete_file(self, call: Call, file_id: str) -> Answer:
        with self._store.lock:
            self._store.delete(self._store.file(file_id), if_match=call.headers.get("if-match"))
        return Answer(204)

    @_route("GET", "/files/{id}/content")
    def _download(self, call: Call, file_id: str) -> Answer:
        """A redirection to where the bytes are, as live Box answers."""
        self._store.file(file_id)
        return Answer(302, headers={"Location": f"{call.base_url}{DOWNLOAD_PREFIX}{file_id}"})

    def download(self, call: Call) -> Answer:
        """The bytes of a file, at the address that was answered; 404 when they were not kept.

        The address itself is the permission: a token that is sent along is one shown to strangers, so 400.
        """
        if "authorization" in call.headers:
            raise RefusedError(400, "bad_request", "A token was sent to the host of downloads")
        file_id = call.path.removeprefix(DOWNLOAD_PREFIX)
        with self._store.lock:
            content = self._store.file(file_id).content
            kept = content.kept
            if kept is None and content.path is not None:
                kept = content.path.read_bytes()
        if kept is None:
            raise RefusedError(404, "not_found", "The simulator has not kept these bytes")
        return Answer(200, kept, {"Content-Type": "application/octet-stream"})

    @_route("DELETE", "/files/{id}/versions/{id}")
    def _delete_version(self, call: Call, file_id: str) -> Answer:
        self._store.delete_version(file_id, call.path.rstrip("/").rpartition("/")[2])
        return Answer(204)

    @_route("POST", "/files/{id}/versions/current")
    def _promote(self, call: Call, file_id: str) -> Answer:
        version_id = call.json().get("id")
        with self._store.lock:
            file = self._store.promote_version(file_id, version_id)
            return Answer.of_json(201, self._file_version(call, file))

    @_upload_route("OPTIONS", "/files/content")
    def _preflight(self, call: Call, _: str) -> Answer:
        body = call.json()
        with self._store.lock:
            parent = self._store.folder(_parent_id(body))
            name = self._store.check_name(body.get("name"))
            self._store.check_free(parent, name)
        return self._upload_url(call, "/api/2.0/files/content")

    @_upload_route("OPTIONS", "/files/{id}/content")
    def _preflight_version(self, call: Call, file_id: str) -> Answer:
        body = call.json()
        with self._store.lock:
            file = self._store.file(file_id)
            self._store.check_etag(file, call.headers.get("if-match"))
            if body.get("name") is not None:
                name = self._store.check_name(body["name"])
                self._store.check_free(self._store.folder(file.parent_id), name, besides=file)
        return self._upload_url(call, f"/api/2.0/files/{file.id}/content")

    @_upload_route("POST", "/files/content")
    def _upload_file(self, call: Call, _: str) -> Answer:
        attributes, content = self._receive_form(call, self._check_new)
        with self._store.lock:
            file = self._keep(
                content,
                lambda: self._store.create_file(
                    _parent_id(attributes), attributes.get("name"), content, _times(attributes)
                ),
            )
            return self._files(call, _made(call, file), 201)

    @_upload_route("POST", "/files/{id}/content")
    def _upload_version(self, call: Call, file_id: str) -> Answer:
        if_match = call.headers.get("if-match")

        def check(attributes: Json) -> None:
            self._store.check_etag(self._store.file(file_id), if_match)

        attributes, content = self._receive_form(call, check)
        with self._store.lock:
            file = self._keep(
                content,
                lambda: self._store.add_version(
                    file_id, content, name=attributes.get("name"), if_match=if_match, times=_times(attributes)
                ),
            )
            file.modified_by = call.user_id
            return self._files(call, file, 200)

    # --- upload sessions

    @_upload_route("POST", "/files/upload_sessions")
    def _create_session(self, call: Call, _: str) -> Answer:
        body = call.json()
        file_size = self._file_size(body)
        folder_id = body.get("folder_id")
        if folder_id is None:
            raise RefusedError(400, "missing_destination", "Missing destination: folder_id")
        if not str(folder_id).isdecimal():
            raise RefusedError(400, "invalid_folder_id", "Invalid folder_id")
        with self._store.lock:
            parent = self._store.folder(folder_id)
            name = self._store.check_name(body.get("file_name"))
            self._store.check_free(parent, name)
        session = self._uploads.create(
            owner=call.user_id, file_size=file_size, file_name=name, folder_id=parent.id
        )
        return Answer.of_json(201, self._show_session(call, session))

    @_upload_route("POST", "/files/{id}/upload_sessions")
    def _create_version_session(self, call: Call, file_id: str) -> Answer:
        body = call.json()
        name = body.get("file_name")
        with self._store.lock:
            file = self._store.file(file_id)
            file_size = self._file_size(body)
            if name is not None:
                name = self._store.check_name(name)
                self._store.check_free(self._store.folder(file.parent_id), name, besides=file)
        session = self._uploads.create(
            owner=call.user_id, file_size=file_size, file_name=name, file_id=file.id
        )
        return Answer.of_json(201, self._show_session(call, session))

    @_upload_route("PUT", "/files/upload_sessions/{id}")
    def _upload_part(self, call: Call, session_id: str) -> Answer:
        session = self._uploads.session(session_id, call.user_id, to_write=True)
        digest = _digest(call, also_sha512=True)
        offset, size = _content_range(call, session)
        if call.body.length not in {None, size}:
            raise RefusedError(416, "invalid_range", "The content-length is not that of the content-range")
        part = session.receive(offset, size, digest, call.body.readinto, call.buffer)
        return Answer.of_json(200, {"part": _show_part(part)})

    @_upload_route("GET", "/files/upload_sessions/{id}")
    def _get_session(self, call: Call, session_id: str) -> Answer:
        return Answer.of_json(200, self._show_session(call, self._uploads.session(session_id, call.user_id)))

    @_upload_route("GET", "/files/upload_sessions/{id}/parts")
    def _list_parts(self, call: Call, session_id: str) -> Answer:
        parts = self._uploads.session(session_id, call.user_id).parts()
        offset, limit = _offset(call), self._limit(call)
        page = [_show_part(part) for part in parts[offset : offset + limit]]
        return Answer.of_json(
            200, {"entries": page, "total_count": len(parts), "offset": offset, "limit": limit, "order": []}
        )

    @_upload_route("DELETE", "/files/upload_sessions/{id}")
    def _abort_session(self, call: Call, session_id: str) -> Answer:
        session = self._uploads.session(session_id, call.user_id)
        self._uploads.remove(session)
        session.close()
        return Answer(204)

    @_upload_route("POST", "/files/upload_sessions/{id}/log")
    def _log_event(self, call: Call, session_id: str) -> Answer:
        self._uploads.session(session_id, call.user_id)
        return Answer(204)

    @_upload_route("POST", "/files/upload_sessions/{id}/plan")
    def _plan(self, call: Call, session_id: str) -> Answer:
        """Which parts of a new version the file's present version already has, at the same place."""
        session = self._uploads.session(session_id, call.user_id, to_write=True)
        asked = call.json().get("parts")
        if not isinstance(asked, list):
            raise _missing("parts")
        known = b""
        if session.file_id is not None:
            known = self._store.file(session.file_id).content.kept or b""
        hits, misses = [], []
        for plan in asked:
            try:
                offset, size, sha512 = int(plan["offset"]), int(plan["size"]), str(plan["sha512"])
            except (KeyError, TypeError, ValueError):
                raise RefusedError(400, "bad_request", "Each part needs offset, size and sha512") from None
            shown: Json = {"offset": offset, "size": size, "sha512": sha512}
            block = known[offset : offset + size] if offset >= 0 else b""
            if block and len(block) == size and hashlib.sha512(block).hexdigest() == sha512:
                hits.append(shown | {"part_id": session.adopt(offset, block, sha512).part_id})
            else:
                misses.append(shown)
        return Answer.of_json(200, {"upload_session_id": session.id, "hits": hits, "misses": misses})

    @_upload_route("POST", "/files/upload_sessions/{id}/commit")
    def _commit(self, call: Call, session_id: str) -> Answer:
        session = self._uploads.session(session_id, call.user_id, to_write=True)
        digest = _digest(call)
        body = call.json()
        listed = body.get("parts")
        if not isinstance(listed, list) or not all(isinstance(part, dict) for part in listed):
            raise _missing("parts")
        if len({"sha512" in part for part in listed if "sha1" in part or "sha512" in part}) > 1:
            raise RefusedError(400, "bad_request", "Include sha512 on every part or on none of them")
        with self._store.lock:
            session.commits += 1
            if session.commits <= self._options.commit_202:
                return Answer(202, headers={"Retry-After": "0"})
            if self._options.parts_mismatch_once and not session.mismatches:
                session.mismatches += 1
                raise parts_mismatch()
            session.check_commit(listed, digest.value.hex())
            file = self._commit_file(call, session, body.get("attributes") or {})
            return self._files(call, file, 201)

    def _commit_file(self, call: Call, session: UploadSession, attributes: Json) -> File:
        """Make the file of a session whose parts are right; all is checked before the session closes."""
        times, name = _times(attributes), attributes.get("name", session.file_name)
        if session.file_id is None:
            parent = self._store.folder(session.folder_id)
            self._store.check_free(parent, self._store.check_name(name))
            self._uploads.remove(session)
            file = _made(call, self._store.create_file(parent.id, name, session.finish(), times))
        else:
            if_match = call.headers.get("if-match")
            file = self._store.file(session.file_id)
            self._store.check_etag(file, if_match)
            if name is not None:
                self._store.check_free(
                    self._store.folder(file.parent_id), self._store.check_name(name), besides=file
                )
            self._uploads.remove(session)
            self._store.add_version(file.id, session.finish(), name=name, if_match=if_match, times=times)
            file.modified_by = call.user_id
        if attributes.get("description") is not None:
            file.description = str(attributes["description"])
        return file

    # --- taking in

    def _check_new(self, attributes: Json) -> None:
        with self._store.lock:
            parent = self._store.folder(_parent_id(attributes))
            self._store.check_free(parent, self._store.check_name(attributes.get("name")))

    def _receive_form(self, call: Call, check: Callable[[Json], None]) -> tuple[Json, Content]:
        """Read `attributes` and then `file` from a form; nothing is kept of a form that is refused."""
        if "content-length" not in call.headers and call.body.length is not None:
            raise RefusedError(411, "length_required", "content-length header was required")
        reader = MultipartReader(call.headers.get("content-type", ""), call.body, call.buffer)
        attributes: Json | None = None
        has_file = False
        writer = ContentWriter(self._options)
        try:
            for part in reader.parts():
                if part.name == "attributes":
                    attributes = _read_attributes(part.read())
                    check(attributes)
                elif not part.is_file and part.name != "file":
                    continue
                elif attributes is None:
                    raise RefusedError(
                        400,
                        "metadata_after_file_contents",
                        "Metadata is included after file contents in a file upload request.",
                    )
                else:  # whatever its name: rclone calls it `contents`
                    self._write_file(part.blocks, writer)
                    has_file = True
            if attributes is None or not has_file:
                raise _missing("file" if attributes is not None else "attributes")
            expected = call.headers.get("content-md5")
            if expected is not None and expected.strip().lower() != writer.sha1():
                raise RefusedError(
                    400, "bad_digest", "The specified content-md5 did not match what we received"
                )
        except BaseException:
            writer.discard()
            raise
        return attributes, writer.finish()

    def _write_file(self, blocks: Iterable[memoryview], writer: ContentWriter) -> None:
        for block in blocks:
            writer.write(block)
            if writer.size > self._options.max_direct_size:
                raise RefusedError(413, "request_entity_too_large", "Request Entity too Large")

    def _keep(self, content: Content, store: Callable[[], File]) -> File:
        """Store received bytes; when the store refuses, nothing of them stays on disk."""
        try:
            return store()
        except RefusedError:
            if content.path is not None:
                content.path.unlink(missing_ok=True)
            raise

    def _file_size(self, body: Json) -> int:
        size = body.get("file_size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise RefusedError(400, "bad_request", "Invalid file_size")
        if size < self._options.min_session_size:
            raise RefusedError(
                400,
                "file_size_too_small",
                f"File size is below {self._options.min_session_size} bytes",
            )
        return size

    def _change(self, call: Call, item: Item, standard: list[str]) -> Answer:
        body = call.json()
        parent = body.get("parent")
        times = _times(body)
        self._store.change(
            item,
            name=body.get("name"),
            parent_id=parent.get("id") if isinstance(parent, dict) else None,
            description=body.get("description"),
            if_match=call.headers.get("if-match"),
        )
        item.content_created_at = times.created_at or item.content_created_at
        item.content_modified_at = times.modified_at or item.content_modified_at
        return Answer.of_json(200, self._show(call, item, _fields(call), standard))

    # --- showing

    def _limit(self, call: Call) -> int:
        asked = call.query.get("limit", str(DEFAULT_PAGE))
        if not asked.isdecimal() or not int(asked):
            raise RefusedError(400, "invalid_limit", "Limit is not a valid number")
        return min(int(asked), 1000, self._options.page_limit_cap)

    def _in_order(self, items: list[Item], by: str, direction: str) -> list[Item]:
        """Items for offset paging: folders first, then by name, id, date or size."""
        keys: dict[str, Callable[[Item], Any]] = {
            "id": lambda item: int(item.id),
            "date": lambda item: item.modified_at,
            "size": lambda item: _size(self._store, item),
        }
        backwards = direction.upper() == "DESC"
        ordered = sorted(
            items, key=keys.get(by, lambda item: self._store.name_key(item.name)), reverse=backwards
        )
        return sorted(ordered, key=lambda item: item.kind != "folder")

    def _entries(self, call: Call, items: Iterable[Item]) -> list[Json]:
        fields = _fields(call)
        return [self._show(call, item, fields if fields is not None else []) for item in items]

    def _files(self, call: Call, file: File, status: int) -> Answer:
        shown = self._show(call, file, _fields(call), COMMON_STANDARD)
        return Answer.of_json(status, {"total_count": 1, "entries": [shown]})

    def _show(
        self, call: Call, item: Item, fields: Iterable[str] | None, standard: Iterable[str] = ()
    ) -> Json:
        """An item's JSON: the mini set and the fields asked for, or else the standard ones."""
        names = [
            *(FOLDER_MINI if isinstance(item, Folder) else FILE_MINI),
            *(standard if fields is None else fields),
        ]
        shown: Json = {}
        for name in dict.fromkeys(names):
            getter = _FILE_FIELDS.get(name) if isinstance(item, File) else _FOLDER_FIELDS.get(name)
            getter = getter or _ITEM_FIELDS.get(name)
            if getter is not None:
                shown[name] = getter(self, call, item)
        return shown

    def _sha1(self, call: Call, file: File) -> str:
        """The file's SHA-1; a wrong one where the options ask for it, the same one all through an answer."""
        if "wrong_sha1" not in call.notes:
            with self._wrong_lock:
                left = self._options.wrong_sha1_times
                call.notes["wrong_sha1"] = self._options.wrong_sha1 and left != 0
                if call.notes["wrong_sha1"] and left is not None:
                    self._options.wrong_sha1_times = left - 1
        true_sha1 = file.content.sha1
        if not call.notes["wrong_sha1"]:
            return true_sha1
        return hashlib.sha1(true_sha1.encode(), usedforsecurity=False).hexdigest()

    def _file_version(self, call: Call, file: File) -> Json:
        return {"type": "file_version", "id": file.version_id, "sha1": self._sha1(call, file)}

    def _path_collection(self, item: Item) -> Json:
        above = [_mini_folder(folder) for folder in self._store.ancestors(item)]
        return {"total_count": len(above), "entries": above}

    def _parent(self, item: Item) -> Json | None:
        return None if item.parent_id is None else _mini_folder(self._store.folder(item.parent_id))

    def _item_collection(self, call: Call, folder: Folder) -> Json:
        items = self._in_order(self._store.children(folder), "name", "ASC")
        page = [self._show(call, item, []) for item in items[:DEFAULT_PAGE]]
        return _collection(page, len(items), 0, DEFAULT_PAGE)

    def _permissions(self, call: Call) -> Json:
        """What the caller may do with a folder."""
        is_editor = self._accounts.may_upload(call.user_id)
        names = ("delete", "invite_collaborator", "rename", "set_share_access", "share")
        return dict.fromkeys((f"can_{name}" for name in names), is_editor) | {
            "can_download": True,
            "can_upload": is_editor and self._options.can_upload,
        }

    def _user(self, user_id: str) -> Json:
        """A user; the service account for what a test put into the world."""
        account = self._accounts
        if user_id in ("", account.user_id):
            name, login = "A1 to A2", f"AutomationUser_{account.client_id}@boxdevedition.com"
        else:
            name, login = f"User {user_id}", f"AppUser_{account.client_id}_{user_id}@boxdevedition.com"
        return {"type": "user", "id": user_id or account.user_id, "name": name, "login": login}

    def _upload_url(self, call: Call, path: str) -> Answer:
        return Answer.of_json(
            200, {"upload_url": call.base_url + path, "upload_token": secrets.token_urlsafe(16)}
        )

    def _show_session(self, call: Call, session: UploadSession) -> Json:
        url = f"{call.base_url}/api/2.0/files/upload_sessions/{session.id}"
        return {
            "id": session.id,
            "type": "upload_session",
            "session_expires_at": _stamp(session.expires_at),
            "part_size": session.part_size,
            "total_parts": session.total_parts,
            "num_parts_processed": len(session.parts()),
            "session_endpoints": {
                "upload_part": url,
                "commit": f"{url}/commit",
                "abort": url,
                "list_parts": f"{url}/parts",
                "status": url,
                "log_event": f"{url}/log",
                "plan": f"{url}/plan",
            },
        }


def _made(call: Call, item: Made) -> Made:
    """A new item, signed by the user who made it."""
    item.created_by = item.modified_by = call.user_id
    return item


Getter = Callable[[Api, Call, Any], Any]


def _nothing(*_: object) -> None:
    return None


_ITEM_FIELDS: dict[str, Getter] = {
    "type": lambda _api, _call, item: item.kind,
    "id": lambda _api, _call, item: item.id,
    "etag": lambda _api, _call, item: None if item.id == ROOT_ID else str(item.etag),
    "sequence_id": lambda _api, _call, item: None if item.id == ROOT_ID else str(item.etag),
    "name": lambda _api, _call, item: item.name,
    "description": lambda _api, _call, item: item.description,
    "size": lambda api, _call, item: _size(api._store, item),
    "path_collection": lambda api, _call, item: api._path_collection(item),
    "created_at": lambda _api, _call, item: _own_stamp(item, item.created_at),
    "modified_at": lambda _api, _call, item: _own_stamp(item, item.modified_at),
    "trashed_at": _nothing,
    "purged_at": _nothing,
    "content_created_at": lambda _api, _call, item: _own_stamp(item, item.content_created_at),
    "content_modified_at": lambda _api, _call, item: _own_stamp(item, item.content_modified_at),
    "created_by": lambda api, _call, item: api._user(item.created_by),
    "modified_by": lambda api, _call, item: api._user(item.modified_by),
    "owned_by": lambda api, _call, _item: api._user(""),
    "shared_link": _nothing,
    "parent": lambda api, _call, item: api._parent(item),
    "item_status": lambda _api, _call, _item: "active",
}
_FOLDER_FIELDS: dict[str, Getter] = {
    "folder_upload_email": _nothing,
    "item_collection": lambda api, call, item: api._item_collection(call, item),
    "permissions": lambda api, call, _item: api._permissions(call),
}
_FILE_FIELDS: dict[str, Getter] = {
    "file_version": lambda api, call, item: api._file_version(call, item),
    "sha1": lambda api, call, item: api._sha1(call, item),
    "extension": lambda _api, _call, item: item.name.rpartition(".")[2] if "." in item.name else "",
    "version_number": lambda _api, _call, item: str(item.versions),
}


def _missing(name: str) -> RefusedError:
    fault = {"reason": "missing_parameter", "name": name, "message": f"'{name}' is required"}
    return RefusedError(400, "bad_request", "Bad Request", context={"errors": [fault]})


def _parent_id(body: Json) -> str:
    parent = body.get("parent")
    if not isinstance(parent, dict) or parent.get("id") is None:
        raise _missing("parent")
    return str(parent["id"])


def _read_attributes(raw: bytes) -> Json:
    try:
        attributes = json.loads(raw)
    except ValueError:
        attributes = None
    if not isinstance(attributes, dict):
        raise RefusedError(400, "bad_request", "'attributes' is not a JSON object")
    _times(attributes)
    return attributes


def _times(attributes: Json) -> ContentTimes:
    """The content times among a file's attributes; 400 when one is not RFC 3339."""
    read: list[datetime | None] = []
    for name in ("content_created_at", "content_modified_at"):
        value = attributes.get(name)
        try:
            at = None if value is None else datetime.fromisoformat(str(value))
        except ValueError:
            raise RefusedError(400, "bad_request", f"Invalid {name}") from None
        read.append(at if at is None or at.tzinfo else at.replace(tzinfo=UTC))
    return ContentTimes(*read)


def _fields(call: Call) -> list[str] | None:
    fields = call.query.get("fields")
    return None if not fields else [name.strip() for name in fields.split(",")]


def _offset(call: Call) -> int:
    asked = call.query.get("offset", "0")
    if not asked.isdecimal() or int(asked) > MAX_OFFSET:
        raise RefusedError(400, "invalid_offset", "Offset is not a valid number")
    return int(asked)


def _marker(item: Item) -> str:
    return base64.urlsafe_b64encode(json.dumps(listing_key(item)).encode()).decode()


def _read_marker(marker: str) -> tuple[int, int]:
    """The place behind which a page begins."""
    if not marker:
        return (-1, -1)
    try:
        kind, number = json.loads(base64.urlsafe_b64decode(marker))
        return (int(kind), int(number))
    except (TypeError, ValueError):
        raise RefusedError(400, "bad_request", "Invalid marker") from None


def _digest(call: Call, *, also_sha512: bool = False) -> Digest:
    """The `digest` header (RFC 3230): `sha=BASE64`, for parts also `sha-512=BASE64`."""
    algorithm, _, value = call.headers.get("digest", "").partition("=")
    known = {"sha": "sha1", "sha1": "sha1"} | ({"sha-512": "sha512"} if also_sha512 else {})
    try:
        return Digest(known[algorithm.strip().lower()], base64.b64decode(value, validate=True))
    except (KeyError, binascii.Error):
        raise RefusedError(400, "bad_request", "Invalid or missing digest header") from None


def _content_range(call: Call, session: UploadSession) -> tuple[int, int]:
    """Offset and size of a part from its content-range; 416 unless it is one of the session's parts."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", call.headers.get("content-range", "").strip())
    if found is None:
        raise RefusedError(416, "invalid_range", "Invalid or missing content-range header")
    first, last, total = (int(group) for group in found.groups())
    end = min(first + session.part_size, session.file_size)
    if total != session.file_size or first % session.part_size or first >= total or last + 1 != end:
        raise RefusedError(416, "invalid_range", "The content-range is not a part of this upload session")
    return first, end - first


def _show_part(part: Part) -> Json:
    shown: Json = {"part_id": part.part_id, "offset": part.offset, "size": part.size, "sha1": part.sha1}
    return shown if part.sha512 is None else shown | {"sha512": part.sha512}


def _mini_folder(folder: Folder) -> Json:
    is_root = folder.id == ROOT_ID
    etag = None if is_root else str(folder.etag)
    return {"type": "folder", "id": folder.id, "sequence_id": etag, "etag": etag, "name": folder.name}


def _collection(entries: list[Json], total: int, offset: int, limit: int) -> Json:
    order = [{"by": "type", "direction": "ASC"}, {"by": "name", "direction": "ASC"}]
    return {"total_count": total, "entries": entries, "offset": offset, "limit": limit, "order": order}


def _size(store: Store, item: Item) -> int:
    if isinstance(item, File):
        return item.content.size
    if not isinstance(item, Folder):
        return 0
    return sum(below.content.size for below in store.below(item) if isinstance(below, File))


def _own_stamp(item: Item, at: datetime) -> str | None:
    return None if item.id == ROOT_ID else _stamp(at)


def _stamp(at: datetime) -> str:
    """A time as Box writes it: whole seconds and an offset."""
    return at.isoformat(timespec="seconds")
