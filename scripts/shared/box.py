"""Box, through the primitives of its official SDK.

The SDK takes a third of a second to import, so it is loaded when a client is made, and a client is made only
when there is something to upload. Its `upload_big_file*` helpers are left alone: they cannot resume, leave
their session open on errors and cost quadratic time on short reads (MARKDOWN_DOCS/DAM_AND_BOX.md).
"""

from __future__ import annotations

import base64
import io
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

from shared.errors import BoxError, ConfigError
from shared.models import BoxFile, BoxFolderListing, BoxSettings

logger = logging.getLogger(__name__)

MAX_TRIES = 4
BACKOFF_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
CONNECT_TIMEOUT_SECONDS = 10
LISTING_PAGE = 1000
COMMIT_PATIENCE_SECONDS = 900.0
PARTS_MISMATCH_TRIES = 6
OUT_OF_REACH_STATUSES = (429, 502, 503, 504)
NAME_CODES = ("item_name_invalid", "item_name_too_long")
FILE_FIELDS = ["id", "type", "name", "size", "sha1"]

T = TypeVar("T")


class NameTakenError(BoxError):
    """The name is in use in that folder. existing_id and is_folder tell by what, as far as Box said."""

    def __init__(self, message: str, *, existing_id: str | None, is_folder: bool) -> None:
        super().__init__(message, kind="name_taken", retryable=True, status_code=409)
        self.existing_id = existing_id
        self.is_folder = is_folder


class BoxClient:
    """One session with Box as its service account. Raises BoxError for what Box does.

    Calls are repeated a few times on 429, 5xx and dropped connections, a token that ended is renewed. A
    write whose answer was lost may so be sent twice; Box then answers with a name conflict, which the
    transfer settles by SHA-1.
    """

    def __init__(self, settings: BoxSettings) -> None:
        from box_sdk_gen.client import BoxClient as SdkClient
        from box_sdk_gen.networking.base_urls import BaseUrls
        from box_sdk_gen.networking.network import NetworkSession
        from box_sdk_gen.networking.timeout_config import TimeoutConfig

        self._auth = _authentication(settings)
        self._session = NetworkSession(
            base_urls=BaseUrls(base_url=settings.api_url, upload_url=settings.upload_url),
            retry_strategy=_retry_strategy(self._log_in),
            timeout_config=TimeoutConfig(
                connection_timeout_ms=CONNECT_TIMEOUT_SECONDS * 1000,
                read_timeout_ms=int(settings.timeout_seconds * 1000),
            ),
        )
        self._client = SdkClient(self._auth, network_session=self._session)
        self._is_logged_in = False

    # Folders

    def folder_exists(self, folder_id: str) -> bool:
        """Whether the folder is there and not in the trash."""
        what = f"looking for Box folder {folder_id}"
        try:
            self._ask(what, lambda: self._client.folders.get_folder_by_id(folder_id, fields=["id", "name"]))
        except BoxError as exc:
            if exc.status_code == 404:
                return False
            raise
        return True

    def create_folder(self, parent_id: str, name: str) -> str:
        """Make a folder and return its id. Raises NameTakenError when the name is in use."""
        from box_sdk_gen.managers.folders import CreateFolderParent

        parent = CreateFolderParent(id=parent_id)
        what = f"creating the Box folder {name!r} in {parent_id}"
        folder = self._ask(what, lambda: self._client.folders.create_folder(name, parent))
        return str(folder.id)

    def list_folder(self, folder_id: str) -> BoxFolderListing:
        """Everything in a folder, read by marker to the last page."""
        what = f"listing Box folder {folder_id}"
        files: list[BoxFile] = []
        folders: dict[str, str] = {}
        marker: str | None = None
        while True:
            list_from = partial(
                self._client.folders.get_folder_items,
                folder_id,
                fields=FILE_FIELDS,
                usemarker=True,
                marker=marker,
                limit=LISTING_PAGE,
            )
            page = self._ask(what, list_from)
            for item in page.entries or []:
                if _type_of(item) == "file":
                    files.append(_file(item, what))
                elif _type_of(item) == "folder":
                    folders[str(item.id)] = str(item.name)
            marker = page.next_marker or None
            if marker is None:
                return BoxFolderListing(tuple(files), folders)

    # Files

    def read_file(self, file_id: str) -> BoxFile | None:
        """The file as Box has it now; None when it is gone or in the trash."""
        what = f"reading Box file {file_id}"
        try:
            file = self._ask(what, lambda: self._client.files.get_file_by_id(file_id, fields=FILE_FIELDS))
        except BoxError as exc:
            if exc.status_code == 404:
                return None
            raise
        return _file(file, what)

    def upload_file(
        self, folder_id: str, name: str, content: bytes, sha1: str, *, replaces: str | None
    ) -> BoxFile:
        """Upload in one request; replaces names the file that gets a new version instead.

        sha1 (hex) goes along, so that Box refuses bytes that were damaged on the way. Raises NameTakenError.
        """
        from box_sdk_gen.managers import uploads

        manager = self._client.uploads
        if replaces is not None:
            new_version = uploads.UploadFileVersionAttributes(name=name)
            answer = self._ask(
                f"uploading a new version of Box file {replaces}",
                lambda: manager.upload_file_version(
                    replaces, new_version, io.BytesIO(content), content_md_5=sha1, fields=FILE_FIELDS
                ),
            )
        else:
            parent = uploads.UploadFileAttributesParentField(id=folder_id)
            new_file = uploads.UploadFileAttributes(name=name, parent=parent)
            answer = self._ask(
                f"uploading {name!r} to Box folder {folder_id}",
                lambda: manager.upload_file(
                    new_file, io.BytesIO(content), content_md_5=sha1, fields=FILE_FIELDS
                ),
            )
        return _only_file(answer, f"uploading {name!r}")

    @contextmanager
    def open_upload(
        self, folder_id: str, name: str, size_bytes: int, *, replaces: str | None
    ) -> Iterator[UploadSession]:
        """An upload session for a large file; aborted unless it was committed. Raises NameTakenError."""
        manager = self._client.chunked_uploads
        if replaces is not None:
            session = self._ask(
                f"opening an upload session for Box file {replaces}",
                lambda: manager.create_file_upload_session_for_existing_file(replaces, size_bytes),
            )
        else:
            session = self._ask(
                f"opening an upload session for {name!r} in Box folder {folder_id}",
                lambda: manager.create_file_upload_session(folder_id, size_bytes, name),
            )
        upload = UploadSession(self._ask, manager, session, name, size_bytes)
        try:
            yield upload
        finally:
            upload.abort_unless_committed()

    # Session

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """One SDK call, logged in, its errors translated."""
        if not self._is_logged_in:
            self._log_in()
        with _translated(what):
            return call()

    def _log_in(self) -> None:
        """Fetch a token; each try is a fresh request, because a JWT assertion must not be used twice."""
        for tries in range(1, MAX_TRIES + 1):
            try:
                with _translated("logging in to Box"):
                    self._auth.refresh_token(network_session=self._session)
            except BoxError as exc:
                if tries == MAX_TRIES or not exc.retryable:
                    raise
                logger.debug("login to Box failed, trying again: %s", exc)
                time.sleep(_backoff(tries))
            else:
                self._is_logged_in = True
                return


class UploadSession:
    """A file on its way to Box, part by part. Parts are immutable once Box has them."""

    def __init__(
        self, ask: Callable[[str, Callable[[], Any]], Any], manager: Any, session: Any, name: str, size: int
    ) -> None:
        self._ask = ask
        self._manager = manager
        self._endpoints = session.session_endpoints
        self._name = name
        self._size_bytes = size
        self._parts: list[Any] = []
        self._is_committed = False
        self.part_size: int = session.part_size
        """Bytes of every part but the last: Box's choice."""

    def send_part(self, offset: int, content: bytes, sha1: bytes) -> None:
        """Upload the part that begins at offset; sha1 is its digest."""
        last = offset + len(content) - 1
        what = f"uploading bytes {offset}-{last} of {self._name!r}"
        try:
            answer = self._ask(
                what,
                lambda: self._manager.upload_file_part_by_url(
                    self._endpoints.upload_part,
                    io.BytesIO(content),
                    f"sha={base64.b64encode(sha1).decode()}",
                    f"bytes {offset}-{last}/{self._size_bytes}",
                ),
            )
            self._parts.append(answer.part)
        except BoxError as exc:
            if exc.status_code != 409:
                raise
            # The answer to an earlier try was lost: Box has the part already, if it is the same one.
            self._parts.append(self._stored_part(offset, len(content), sha1.hex(), exc))

    def commit(self, sha1: bytes) -> BoxFile:
        """Turn the parts into the file; sha1 is the digest of the whole. Raises NameTakenError.

        Box may answer 202 while it still works on the parts, and `parts_mismatch` just after the last one.
        """
        what = f"committing {self._name!r}"
        digest = f"sha={base64.b64encode(sha1).decode()}"
        give_up_at = time.monotonic() + COMMIT_PATIENCE_SECONDS
        mismatches = 0
        while True:
            try:
                answer = self._ask(
                    what,
                    lambda: self._manager.create_file_upload_session_commit_by_url(
                        self._endpoints.commit, self._parts, digest
                    ),
                )
            except BoxError as exc:
                mismatches += 1
                if exc.kind != "parts_mismatch" or mismatches == PARTS_MISMATCH_TRIES:
                    raise
                time.sleep(_backoff(mismatches))
                continue
            if answer is not None:
                self._is_committed = True
                return _only_file(answer, what)
            if time.monotonic() > give_up_at:
                raise BoxError(
                    f"{what}: Box is still processing the parts after {COMMIT_PATIENCE_SECONDS:.0f} s",
                    kind="commit_unfinished",
                    retryable=True,
                )
            time.sleep(1)

    def abort_unless_committed(self) -> None:
        """Give the session back to Box; a failure to do so is only logged, sessions end by themselves."""
        if self._is_committed:
            return
        try:
            url = self._endpoints.abort
            self._ask(
                f"aborting the upload of {self._name!r}",
                lambda: self._manager.delete_file_upload_session_by_url(url),
            )
        except BoxError as exc:
            logger.debug("%s", exc)

    def _stored_part(self, offset: int, size: int, sha1: str, refusal: BoxError) -> Any:
        start = 0
        while True:
            list_from = partial(
                self._manager.get_file_upload_session_parts_by_url,
                self._endpoints.list_parts,
                offset=start,
                limit=LISTING_PAGE,
            )
            entries = self._ask(f"listing the parts of {self._name!r}", list_from).entries or []
            for part in entries:
                if part.offset == offset and part.size == size and part.sha_1 == sha1:
                    return part
            if not entries:
                raise refusal
            start += len(entries)


def _authentication(settings: BoxSettings) -> Any:
    """The SDK's auth object. Raises ConfigError when the JWT file is not what Box hands out."""
    if settings.jwt_config is None:
        from box_sdk_gen.box.ccg_auth import BoxCCGAuth, CCGConfig

        return BoxCCGAuth(
            CCGConfig(
                client_id=settings.client_id,
                client_secret=settings.client_secret or "",
                enterprise_id=settings.enterprise_id,
            )
        )
    from box_sdk_gen.box.jwt_auth import BoxJWTAuth, JWTConfig

    try:
        text = settings.jwt_config.read_text(encoding="utf-8")
        keys = json.loads(text)["boxAppSettings"]["appAuth"]
        if not all(keys[name] for name in ("publicKeyID", "privateKey", "passphrase")):
            raise KeyError("appAuth")
        return BoxJWTAuth(JWTConfig.from_config_json_string(text))
    except OSError as exc:
        raise ConfigError(f"BOX_JWT_CONFIG: cannot read {settings.jwt_config}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(
            f"BOX_JWT_CONFIG: {settings.jwt_config} is not the JSON file that Box hands out for JWT"
        ) from exc


def _retry_strategy(log_in: Callable[[], None]) -> Any:
    """The SDK's retry rule, with its faults mended: `Retry-After` as a date, waits without bound, and a JWT
    assertion sent again after a 429 (box-python-sdk-gen#731)."""
    from box_sdk_gen.networking.retries import RetryStrategy

    class Patience(RetryStrategy):  # type: ignore[misc]
        def should_retry(self, fetch_options: Any, fetch_response: Any, attempt_number: int) -> bool:
            if fetch_options.url.endswith("/oauth2/token") or attempt_number >= MAX_TRIES:
                return False
            status = fetch_response.status
            if status == 401 and fetch_options.auth is not None:
                log_in()
                return True
            return bool(status == 0 or status == 429 or status >= 500)

        def retry_after(self, fetch_options: Any, fetch_response: Any, attempt_number: int) -> float:
            if fetch_response.status == 401:
                return 0.0
            asked = _retry_after_seconds(fetch_response.headers)
            return _backoff(attempt_number) if asked is None else min(asked, LONGEST_WAIT_SECONDS)

    return Patience()


def _retry_after_seconds(headers: Any) -> float | None:
    """`Retry-After` in either form, as seconds from now."""
    value = next((text for name, text in headers.items() if name.lower() == "retry-after"), None)
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _backoff(tries: int) -> float:
    return BACKOFF_SECONDS * 2.0**tries * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """The SDK's errors, and what it trips over in a senseless answer, as BoxError with Box's own code."""
    import requests
    from box_sdk_gen.box.errors import BoxAPIError, BoxSDKError

    try:
        yield
    except BoxAPIError as exc:
        raise _api_error(what, exc.response_info) from exc
    except (BoxSDKError, requests.RequestException) as exc:
        cause = getattr(exc, "error", None) or exc
        raise BoxError(
            f"{what}: Box is out of reach ({type(cause).__name__})", kind="out_of_reach", retryable=True
        ) from exc
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise BoxError(
            f"{what}: Box's answer makes no sense ({type(exc).__name__}: {exc})",
            kind="bad_answer",
            retryable=True,
        ) from exc


def _api_error(what: str, info: Any) -> BoxError:
    body = info.body if isinstance(info.body, dict) else {}
    status, code = info.status_code, info.code or body.get("error") or ""
    request = f", request {info.request_id}" if info.request_id else ""
    said = f"{what}: HTTP {status} {code}{request}".rstrip()
    if code in ("invalid_client", "invalid_grant", "unauthorized_client"):
        described = str(body.get("error_description", ""))
        return BoxError(
            f"{what}: Box refused the credentials ({code}: {described[:200]})",
            kind="login_refused",
            hint="check BOX_CLIENT_ID, BOX_CLIENT_SECRET and BOX_ENTERPRISE_ID or BOX_JWT_CONFIG,"
            " and that the app is authorised in Box's admin console",
            retryable="jti" in described,
            status_code=status,
        )
    if status == 409 and code == "item_name_in_use":
        conflicts = (info.context_info or {}).get("conflicts")
        conflict = conflicts[0] if isinstance(conflicts, list) and conflicts else conflicts
        found = conflict if isinstance(conflict, dict) else {}
        return NameTakenError(said, existing_id=found.get("id"), is_folder=found.get("type") == "folder")
    hints = {
        "storage_limit_exceeded": "the Box account is full",
        "file_size_limit_exceeded": "the Box account does not take files of this size",
    }
    if status in OUT_OF_REACH_STATUSES:
        kind = "out_of_reach"
    elif status == 401:
        kind = "not_logged_in"
    else:
        kind = code or ("forbidden" if status == 403 else "not_found" if status == 404 else "box_error")
    return BoxError(
        said,
        kind=kind,
        hint=hints.get(kind, ""),
        retryable=status >= 500 or status in (401, 409, 429) or code in ("bad_digest", "digest_mismatch"),
        status_code=status,
    )


def _type_of(item: Any) -> str:
    return str(getattr(item.type, "value", item.type))


def _file(item: Any, what: str) -> BoxFile:
    if not item.id or item.size is None or not item.sha_1:
        raise BoxError(f"{what}: Box left out the file's size or SHA-1", kind="bad_answer", retryable=True)
    return BoxFile(str(item.id), str(item.name), int(item.size), str(item.sha_1).lower())


def _only_file(answer: Any, what: str) -> BoxFile:
    entries = answer.entries or []
    if len(entries) != 1:
        raise BoxError(f"{what}: Box answered with {len(entries)} files", kind="bad_answer", retryable=True)
    return _file(entries[0], what)
