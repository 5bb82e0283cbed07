"""Reads an asset's bytes from the DAM in order, with their digests, over as many connections as needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from shared.base.errors import DamError
from shared.upload.progress import Moving, Progress

DIRECT_UPLOAD_LIMIT = 20 * 1024 * 1024
"""Up to this size one request is used; above, an upload session (Box accepts them from 20,000,000 bytes)."""
BLOCK_SIZE = 1024 * 1024
"""How much is read before it is added to the digest, while it is in the processor's cache."""
DOWNLOAD_TRIES = 3


class Readable(Protocol):
    """A stream of bytes: fills a view as far as it can, and returns how far; 0 at the end.

    size: of the whole file, as the answer declares it; None when it does not.
    """

    @property
    def size(self) -> int | None: ...
    def readinto(self, view: memoryview) -> int: ...


class Source(Protocol):
    """The source of assets."""

    def open_asset(
        self, asset_id: str, start: int = 0, *, size_bytes: int | None = None
    ) -> AbstractContextManager[Readable]: ...


class Download:
    """An asset's bytes, in order and with their digests, over as many connections as needed."""

    def __init__(self, dam: Source, moving: Moving, progress: Progress) -> None:
        self._dam = dam
        self._moving = moving
        self._asset = asset = moving.asset
        self._progress = progress
        self._count = 0
        self._stream: Readable | None = None
        self._connection = ExitStack()
        self.sha1 = hashlib.sha1(usedforsecurity=False)
        self._md5: Any = hashlib.md5(usedforsecurity=False) if asset.md5 else None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside this, the bytes may be read; the count is taken back unless all of them come."""
        is_whole = False
        try:
            yield
            is_whole = True
        finally:
            self._close()
            if not is_whole:
                self._progress.rewind(self._moving, self._count)

    def fill(self, view: memoryview) -> None:
        """Fill the whole view. When a connection breaks, another one continues from there, as long as each
        brings something. An answer that ends with too few bytes is something else, for example an error page
        with status 200: it is not continued. Raises DamError.
        """
        tries = 0
        at = 0
        while at < len(view):
            try:
                stream = self.open()
                block = view[at : at + BLOCK_SIZE]
                got = stream.readinto(block)
                if not got:
                    raise self._wrong_size(str(self._count))
            except DamError as exc:
                if exc.status_code == 416:  # there is nothing from here on: the file is shorter than declared
                    raise self._wrong_size(str(self._count)) from exc
                tries += 1
                # A small file is read again from the start.
                is_small = self._asset.size_bytes <= DIRECT_UPLOAD_LIMIT
                if exc.kind != "broken_download" or tries == DOWNLOAD_TRIES or is_small:
                    raise
                self._close()
                continue
            tries = 0
            self.sha1.update(block[:got])
            if self._md5 is not None:
                self._md5.update(block[:got])
            at += got
            self._count += got
            self._progress.advance(self._moving, got)

    def finish(self) -> None:
        """Release the connection. Raises DamError for more bytes than declared, or a wrong checksum."""
        asset = self._asset
        if self.open().readinto(memoryview(bytearray(1))):
            raise self._wrong_size(f"more than {asset.size_bytes}")
        self._close()
        if self._md5 is not None and self._md5.hexdigest() != asset.md5:
            raise DamError(
                f"asset {asset.id} ({asset.name!r}): the DAM declares the MD5 {asset.md5},"
                f" its bytes have {self._md5.hexdigest()}",
                kind="checksum_mismatch",
                hint="import the file again, or set DAM_COMPARE_CHECKSUMS=false if these are not MD5s",
                item_id=asset.id,
            )

    def open(self) -> Readable:
        """The stream, opened from the next byte unless it is already open. Raises DamError."""
        if self._stream is None:
            asset = self._asset
            opened = self._dam.open_asset(asset.id, self._count, size_bytes=asset.size_bytes)
            self._stream = self._connection.enter_context(opened)
            if self._stream.size not in (None, asset.size_bytes):
                raise self._wrong_size(str(self._stream.size))
        return self._stream

    def _close(self) -> None:
        self._stream = None
        self._connection.close()

    def _wrong_size(self, got: str) -> DamError:
        asset = self._asset
        return DamError(
            f"asset {asset.id} ({asset.name!r}): the DAM declared {asset.size_bytes} bytes and sent {got}",
            kind="size_mismatch",
            retryable=True,
            item_id=asset.id,
        )


def read_sha1(dam: Source, moving: Moving, progress: Progress) -> str:
    """The SHA-1 (hex) of an asset's bytes, read to the end but not copied. Raises DamError."""
    asset = moving.asset
    download = Download(dam, moving, progress)
    view = memoryview(bytearray(min(BLOCK_SIZE, asset.size_bytes)))
    with download.opened():
        for at in range(0, asset.size_bytes, BLOCK_SIZE):
            download.fill(view[: asset.size_bytes - at])
        download.finish()
    progress.rewind(moving, asset.size_bytes)
    return download.sha1.hexdigest()
