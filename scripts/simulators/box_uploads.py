"""Bytes on their way into the Box simulator: hashed while they arrive, and upload sessions made of parts.

A session's whole-file SHA-1 is computed without keeping parts that arrive in order; a part that arrives ahead
of its turn waits in a temporary file. Facts: "Box OpenAPI" (upload_session, upload_part, plan) and "Box guide
uploads/chunked".
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from simulators.box_store import MEBIBYTE, Content, Options, RefusedError, denied

SPOOL_IN_MEMORY = MEBIBYTE

# Fills the buffer given and answers the number of bytes; 0 at the end.
ReadInto = Callable[[memoryview], int]


@dataclass(frozen=True)
class Checkpoint:
    """A point to which a writer can go back."""

    size: int
    sha1: Any


class ContentWriter:
    """Hashes what is written; keeps the bytes too while they are few, or when a folder is given."""

    def __init__(self, options: Options) -> None:
        self.size = 0
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._keep_below = options.keep_content_below
        self._kept: bytearray | None = bytearray()
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        if options.content_dir is not None:
            options.content_dir.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".incoming-", dir=options.content_dir)
            self._file, self._path = os.fdopen(handle, "w+b"), Path(name)

    def write(self, block: bytes | memoryview) -> None:
        """Add bytes at the end."""
        self._sha1.update(block)
        self.size += len(block)
        if self._kept is not None:
            if self.size <= self._keep_below:
                self._kept += block
            else:
                self._kept = None
        if self._file is not None:
            self._file.write(block)

    def checkpoint(self) -> Checkpoint:
        """Where the writer is now."""
        return Checkpoint(self.size, self._sha1.copy())

    def restore(self, point: Checkpoint) -> None:
        """Undo everything written since the checkpoint."""
        self.size, self._sha1 = point.size, point.sha1.copy()
        if self._kept is not None:
            del self._kept[point.size :]
        if self._file is not None:
            self._file.seek(point.size)
            self._file.truncate()

    def sha1(self) -> str:
        """SHA-1 of everything written so far, hex."""
        return self._sha1.hexdigest()

    def finish(self) -> Content:
        """What was written. The writer is done with."""
        if self._file is not None:
            self._file.close()
        kept = None if self._kept is None else bytes(self._kept)
        return Content(self.size, self.sha1(), kept, self._path)

    def discard(self) -> None:
        """Give up; a file begun on disk goes."""
        self._kept = None
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def content_of(data: bytes, options: Options) -> Content:
    """Bytes at hand as a file's content."""
    writer = ContentWriter(options)
    writer.write(data)
    return writer.finish()


@dataclass(frozen=True)
class Digest:
    """A digest a client sent along with bytes: `sha1` or `sha512`, and its value."""

    algorithm: str
    value: bytes


@dataclass(frozen=True)
class Part:
    """One part a session holds. `part_id` is 8 upper-case hex digits, the digests are lower-case hex."""

    part_id: str
    offset: int
    size: int
    sha1: str
    sha512: str | None = None


@dataclass(frozen=True)
class OpenSession:
    """An upload session as a test sees it: neither committed nor aborted."""

    id: str
    file_name: str
    folder_id: str | None
    file_id: str | None
    file_size: int
    part_size: int
    offsets: tuple[int, ...]
    expired: bool
    owner: str


def _overlap() -> RefusedError:
    return RefusedError(
        409, "range_overlaps_existing_part", "The byte range of this part overlaps with an existing part"
    )


def parts_mismatch() -> RefusedError:
    """The refusal of a commit that lists other parts than the session has."""
    return RefusedError(400, "parts_mismatch", "The parts do not match those of the upload session")


def _gone() -> RefusedError:
    return RefusedError(404, "not_found", "The upload session was not found")


class UploadSession:
    """One chunked upload, from creation to commit or abort. Parts may come in any order and in parallel."""

    def __init__(
        self,
        options: Options,
        *,
        owner: str,
        file_size: int,
        file_name: str | None,
        folder_id: str | None = None,
        file_id: str | None = None,
    ) -> None:
        self.id = secrets.token_hex(16).upper()
        self.owner = owner
        self.file_size = file_size
        self.file_name = file_name
        self.folder_id = folder_id
        self.file_id = file_id
        self.part_size = options.part_size
        self.expires_at = datetime.now(UTC) + timedelta(seconds=options.session_lifetime)
        self.commits = 0
        self.mismatches = 0
        self._expires = time.monotonic() + options.session_lifetime
        self._lock = threading.Lock()
        self._parts: dict[int, Part] = {}
        self._whole = ContentWriter(options)
        self._whole_busy = False
        self._ahead: dict[int, IO[bytes]] = {}
        self._closed = False

    @property
    def total_parts(self) -> int:
        """How many parts the file makes."""
        return -(-self.file_size // self.part_size)

    @property
    def is_expired(self) -> bool:
        """Whether the session's time is over."""
        return time.monotonic() >= self._expires

    def expire(self) -> None:
        """The session's time is over."""
        self._expires = time.monotonic()

    def parts(self) -> list[Part]:
        """The parts held, by offset."""
        with self._lock:
            return [self._parts[offset] for offset in sorted(self._parts)]

    def receive(self, offset: int, size: int, digest: Digest, read: ReadInto, buffer: memoryview) -> Part:
        """Take one part from the wire.

        409 when its range is taken, 412 when the bytes are not those of the digest, 416 when there are fewer.
        A part that is refused or cut off leaves nothing behind.
        """
        with self._lock:
            self._check_room(offset)
            is_next = not self._whole_busy and offset == self._whole.size
            if is_next:
                self._whole_busy = True
                before = self._whole.checkpoint()
        target = self._whole if is_next else _spool()
        try:
            part = _take(offset, size, digest, read, buffer, target)
            with self._lock:
                self._check_room(offset)
                self._parts[offset] = part
                if is_next:
                    self._whole_busy = False
                elif not isinstance(target, ContentWriter):
                    self._ahead[offset] = target
                self._catch_up(buffer)
        except BaseException:
            with self._lock:
                if not isinstance(target, ContentWriter):
                    target.close()
                else:
                    self._whole_busy = False
                    if self._closed:
                        target.discard()
                    else:
                        target.restore(before)
                        self._catch_up(buffer)
            raise
        return part

    def adopt(self, offset: int, data: bytes, sha512: str) -> Part:
        """Hold a part that the file's previous version already has: a plan's hit."""
        with self._lock:
            self._check_room(offset)
            sha1 = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            part = Part(secrets.token_hex(4).upper(), offset, len(data), sha1, sha512)
            spool = _spool()
            spool.write(data)
            self._parts[offset], self._ahead[offset] = part, spool
            self._catch_up(memoryview(bytearray(MEBIBYTE)))
            return part

    def check_commit(self, listed: Sequence[Mapping[str, Any]], sha1: str) -> None:
        """Refuse a commit with other parts than the session's, or with another digest than the file's."""
        with self._lock:
            held = sorted(self._parts.values(), key=lambda part: part.offset)
            if sum(part.size for part in held) != self.file_size or not _agree(listed, held):
                raise parts_mismatch()
            if self._whole.sha1() != sha1:
                raise RefusedError(400, "digest_mismatch", "File digest was incorrect")

    def finish(self) -> Content:
        """The whole file's content; the session takes nothing more."""
        with self._lock:
            self._closed = True
            return self._whole.finish()

    def close(self) -> None:
        """Forget everything received."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for spool in self._ahead.values():
                spool.close()
            self._ahead.clear()
            if not self._whole_busy:
                self._whole.discard()

    def _check_room(self, offset: int) -> None:
        if self._closed:
            raise _gone()
        if offset in self._parts:
            raise _overlap()

    def _catch_up(self, buffer: memoryview) -> None:
        """Hash the parts that waited and whose turn has come."""
        while not self._whole_busy and (spool := self._ahead.pop(self._whole.size, None)) is not None:
            spool.seek(0)
            with spool:
                while block := spool.read(len(buffer)):
                    self._whole.write(block)


def _spool() -> IO[bytes]:
    """A place for a part that is ahead of its turn; closed when the turn has come."""
    return tempfile.SpooledTemporaryFile(max_size=SPOOL_IN_MEMORY)


def _take(
    offset: int,
    size: int,
    digest: Digest,
    read: ReadInto,
    buffer: memoryview,
    target: IO[bytes] | ContentWriter,
) -> Part:
    """Read one part of `size` bytes into the target, checking its digest."""
    sha1 = hashlib.sha1(usedforsecurity=False)
    sha512 = hashlib.sha512() if digest.algorithm == "sha512" else None
    missing = size
    while missing:
        count = read(buffer[: min(missing, len(buffer))])
        if not count:
            raise RefusedError(416, "invalid_range", "The part is shorter than its content-range says")
        block = buffer[:count]
        sha1.update(block)
        if sha512 is not None:
            sha512.update(block)
        target.write(block)
        missing -= count
    if read(buffer[:1]):
        raise RefusedError(416, "invalid_range", "The part is longer than its content-range says")
    if (sha512 or sha1).digest() != digest.value:
        raise RefusedError(412, "precondition_failed", "The digest does not match the bytes of the part")
    return Part(
        secrets.token_hex(4).upper(), offset, size, sha1.hexdigest(), sha512.hexdigest() if sha512 else None
    )


def _agree(listed: Sequence[Mapping[str, Any]], held: Sequence[Part]) -> bool:
    """Whether the parts a client lists are, in whatever order, exactly the parts held."""
    if len(listed) != len(held):
        return False
    try:
        in_order = sorted(listed, key=lambda part: int(part["offset"]))
        return all(
            said["part_id"] == part.part_id
            and int(said["offset"]) == part.offset
            and int(said["size"]) == part.size
            and said.get("sha1") in {None, part.sha1}
            and (part.sha512 is None or said.get("sha512") in {None, part.sha512})
            for said, part in zip(in_order, held, strict=True)
        )
    except (KeyError, TypeError, ValueError):
        return False


class Uploads:
    """The sessions that are open, expired ones among them."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._sessions: dict[str, UploadSession] = {}

    def create(
        self,
        *,
        owner: str,
        file_size: int,
        file_name: str | None,
        folder_id: str | None = None,
        file_id: str | None = None,
    ) -> UploadSession:
        """A new session of a user, for a new file in a folder or for a new version of a file."""
        session = UploadSession(
            self._options,
            owner=owner,
            file_size=file_size,
            file_name=file_name,
            folder_id=folder_id,
            file_id=file_id,
        )
        with self._lock:
            self._sessions[session.id] = session
        return session

    def session(self, session_id: str, user_id: str, *, to_write: bool = False) -> UploadSession:
        """The session; 404 once it is gone; when expired 404 to readers and 410 to writers.

        It belongs to the user who opened it. Whether Box answers others 403 or 404 is not known.
        """
        with self._lock:
            session = self._sessions.get(session_id.upper())
        if session is None:
            raise _gone()
        if session.owner != user_id:
            raise denied() if self._options.foreign_session_status == 403 else _gone()
        if session.is_expired and to_write:
            raise RefusedError(410, "session_expired", "The upload session has expired")
        if session.is_expired:
            raise _gone()
        return session

    def expire(self) -> None:
        """The time of all sessions is over."""
        with self._lock:
            for session in self._sessions.values():
                session.expire()

    def remove(self, session: UploadSession) -> None:
        """The session is committed or aborted: later calls find it gone."""
        with self._lock:
            self._sessions.pop(session.id, None)

    def open(self) -> list[OpenSession]:
        """The sessions neither committed nor aborted, oldest first."""
        with self._lock:
            sessions = list(self._sessions.values())
        return [
            OpenSession(
                session.id,
                session.file_name or "",
                session.folder_id,
                session.file_id,
                session.file_size,
                session.part_size,
                tuple(part.offset for part in session.parts()),
                session.is_expired,
                session.owner,
            )
            for session in sessions
        ]

    def close(self) -> None:
        """Forget every session and what it received."""
        with self._lock:
            sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            session.close()
