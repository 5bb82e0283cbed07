"""Reads Box's answers, and writes its addresses and bodies. Pure."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from shared.base.errors import BoxError
from shared.base.values import BoxFile
from shared.box.refusals import safe_id, storable
from shared.http.guards import within

LARGEST_PART = 128 * 1024 * 1024
"""Box's parts are 8 to 64 MB; an upload needs a buffer of that size in memory."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part that Box has. sha1: hex."""

    id: str
    offset: int
    size: int
    sha1: str


@dataclass(frozen=True, slots=True)
class UploadSession:
    """A large file being uploaded. part_size: bytes of every part except the last; Box chooses it."""

    id: str
    part_size: int
    part_url: str
    parts_url: str
    commit_url: str


def in_path(item_id: str) -> str:
    return quote(item_id, safe="")


def digest(sha1: bytes) -> str:
    return f"sha={base64.b64encode(sha1).decode()}"


def _senseless(what: str, lacks: str) -> BoxError:
    return BoxError(f"{what}: Box's answer lacks {lacks}", kind="bad_answer", retryable=True)


def endless(what: str) -> BoxError:
    return BoxError(f"{what}: Box's list does not end", kind="unfinished_listing", retryable=True)


def text_in(found: Mapping[str, Any], name: str, what: str) -> str:
    value = found.get(name)
    if value is None or isinstance(value, dict | list):
        raise _senseless(what, f'"{name}"')
    return storable(value)


def id_in(found: Mapping[str, Any], name: str, what: str) -> str:
    value = safe_id(found.get(name))
    if value is None:
        raise _senseless(what, f'a usable "{name}"')
    return value


def _number(found: Mapping[str, Any], name: str, what: str) -> int:
    try:
        return int(found[name])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise _senseless(what, f'a number as "{name}"') from None


def entries_of(found: Mapping[str, Any], what: str) -> list[dict[str, Any]]:
    entries = found.get("entries")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _senseless(what, '"entries"')
    return entries


def part_of(found: Mapping[str, Any], what: str) -> Part:
    return Part(
        text_in(found, "part_id", what),
        _number(found, "offset", what),
        _number(found, "size", what),
        text_in(found, "sha1", what).lower(),
    )


def file_of(found: Mapping[str, Any], what: str) -> BoxFile:
    return BoxFile(
        id=id_in(found, "id", what),
        name=text_in(found, "name", what),
        size_bytes=_number(found, "size", what),
        sha1=text_in(found, "sha1", what).lower(),
        version_id=safe_id(within(found, "file_version", "id")) or "",
    )


def only_file(found: Mapping[str, Any], what: str) -> BoxFile:
    entries = entries_of(found, what)
    if len(entries) != 1:
        raise _senseless(what, "its one file")
    return file_of(entries[0], what)


def upload_session(
    found: Mapping[str, Any], root: str, trusts: Callable[[str], bool], what: str
) -> UploadSession:
    """An upload session. The addresses come from Box; for one that is missing, or on a foreign host, which
    must not get our token, we use the documented one below root.
    """
    session_id = id_in(found, "id", what)
    part_size = _number(found, "part_size", what)
    if not 1 <= part_size <= LARGEST_PART:
        raise BoxError(f"{what}: Box asks for parts of {part_size} bytes", kind="bad_answer", retryable=True)
    own = f"{root}/{in_path(session_id)}"

    def address(name: str, documented: str) -> str:
        url = within(found, "session_endpoints", name)
        return url if isinstance(url, str) and trusts(url) else documented

    return UploadSession(
        id=session_id,
        part_size=part_size,
        part_url=address("upload_part", own),
        parts_url=address("list_parts", f"{own}/parts"),
        commit_url=address("commit", f"{own}/commit"),
    )


def multipart(
    attributes: Mapping[str, object], content: bytes | memoryview
) -> tuple[str, Sequence[bytes | memoryview]]:
    """(Content-Type, body) of an upload. Box wants the attributes before the file."""
    boundary = secrets.token_hex(16)
    before = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="attributes"\r\n\r\n'
        f"{json.dumps(attributes)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    return f"multipart/form-data; boundary={boundary}", (before, content, f"\r\n--{boundary}--\r\n".encode())
