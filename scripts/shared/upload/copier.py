"""Copies single assets from the DAM into their Box folders, and verifies every byte.

An asset counts as copied when all of these agree: the size that the DAM declared, its checksum if it declares
one, the bytes read, and the size and SHA-1 that Box reports.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from shared.base.errors import AppError, BoxError, DamError, StoppedError
from shared.base.values import Asset, BoxFile, Campaign, LedgerEntry, OpenUpload
from shared.box.answers import Part, UploadSession
from shared.box.refusals import MOST_CONFLICTS, NameTakenError
from shared.rules.names import other_names, strict_name
from shared.upload.box_users import BoxUsers
from shared.upload.download import DIRECT_UPLOAD_LIMIT, Download, Source, read_sha1
from shared.upload.folders import NAME_REFUSALS
from shared.upload.ledger import Ledger
from shared.upload.places import Place
from shared.upload.progress import Moving, Progress
from shared.upload.workers import Lane, Pool

logger = logging.getLogger(__name__)

TRIES_PER_ASSET = 3
MISMATCHES = ("digest_mismatch", "checksum_mismatch")


class Sender(Protocol):
    """The campaign that an asset is copied for."""

    @property
    def campaign(self) -> Campaign: ...
    def is_ours(self, asset_id: str, file_id: str) -> bool:
        """Whether a file in Box was made for this asset, or for one that is no longer in the DAM."""


class SomebodysFileError(BoxError):
    """A file that is not ours, with different bytes, has the name: it must not be changed."""

    def __init__(self, name: str, file: BoxFile) -> None:
        super().__init__(
            f"{name!r} is the name of Box file {file.id}, which we did not make", kind="name_taken"
        )


class SessionSpoiledError(BoxError):
    """The upload session has other bytes than the DAM sends now, or has ended: a new one is needed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="session_spoiled", retryable=True)


@dataclass(frozen=True, slots=True)
class Errand:
    """One asset to copy to its place. entry: from the ledger; None when it has none for this revision."""

    sender: Sender
    asset: Asset
    place: Place
    entry: LedgerEntry | None

    def is_recorded(self, file: BoxFile) -> bool:
        """Whether the ledger's file in Box is unchanged since it was verified."""
        entry = self.entry
        return entry is not None and (file.size_bytes, file.sha1) == (entry.size_bytes, entry.sha1)


@dataclass(frozen=True, slots=True)
class Copier:
    """Copies one campaign's assets to Box. Every method may be called by any thread.

    box, ledger: their calls and writes check that we still hold the campaign. One user of Box does everything
    for an asset, in every run: only the user who began an upload session can continue it.
    """

    dam: Source
    box: BoxUsers
    ledger: Ledger
    pool: Pool
    progress: Progress
    run_id: str
    is_stopping: Callable[[], bool]

    def bring(self, errand: Errand) -> BoxFile:
        """Make sure that the asset is in Box, and record it. Raises AppError, StoppedError."""
        asset = errand.asset
        if errand.entry is not None:
            file = self.box.of(asset.id).read_file(errand.entry.box_file_id)  # a person may have moved it
            if file is not None and errand.is_recorded(file):
                self.progress.skip(asset)
                return file
        campaign = errand.sender.campaign
        with self.progress.in_hand(asset, campaign.label) as moving:
            file = self._copy_patiently(errand, moving)
        self.ledger.record_upload(campaign.id, asset, file, self.run_id)
        logger.info(
            "campaign %s (%s): asset %s is in Box as file %s: %s, %d bytes, SHA-1 %s",
            campaign.id, campaign.label, asset.id, file.id, file.name, file.size_bytes, file.sha1,
            extra={
                "action": "asset_uploaded", "campaign_id": campaign.id, "asset_id": asset.id,
                "bytes": file.size_bytes,
            },
        )  # fmt: skip
        return file

    def _copy_patiently(self, errand: Errand, moving: Moving) -> BoxFile:
        """Copy under the planned name, or under another one when something that is not ours has that name."""
        name = errand.place.names[errand.asset.id]
        others = iter(other_names(name, errand.asset.id))
        copy = _Copy(self, errand, moving)
        while True:
            try:
                return self._copy_as(name, copy, errand)
            except (SomebodysFileError, NameTakenError) as exc:
                other = next(others, None)
                if other is None:
                    raise _no_name_is_free(errand, name) from exc
                logger.warning(
                    "campaign %s (%s): something in Box that is not ours has the name %r of asset %s;"
                    " uploading it as %r",
                    errand.sender.campaign.id, errand.sender.campaign.label, name, errand.asset.id, other,
                )  # fmt: skip
                name = other

    def _copy_as(self, name: str, copy: _Copy, errand: Errand) -> BoxFile:
        """Copy under one name. After a temporary fault, read and send the file again. When the bytes in Box
        differ, delete the copy and send them once more. Raises NameTakenError when the name is in use.
        """
        asset, existing = errand.asset, errand.place.files_by_name.get(name)
        tries = conflicts = mismatches = 0
        while True:
            try:
                return copy.run(name, existing)
            except NameTakenError as exc:
                conflicts += 1
                if exc.file_id is None or conflicts == MOST_CONFLICTS:
                    raise
                existing = self.box.of(asset.id).read_file(exc.file_id)
            except (BoxError, DamError) as exc:
                tries += 1
                mismatches += exc.kind in MISMATCHES
                if tries == TRIES_PER_ASSET or mismatches == 2 or not _may_succeed_at_once(exc):
                    raise
                if exc.kind in NAME_REFUSALS:
                    name = strict_name(name, asset.id)
                logger.info("asset %s, try %d: %s", asset.id, tries, exc)


def _no_name_is_free(errand: Errand, last_name: str) -> BoxError:
    asset = errand.asset
    return BoxError(
        f"no free name for asset {asset.id} ({asset.name!r}) in the Box folder"
        f" {errand.place.path or '/'!r} of campaign {errand.sender.campaign.label!r}",
        kind="name_taken",
        hint=f"rename, move or delete {last_name!r} there; the next run then uploads the asset",
        item_id=asset.id,
    )


def _may_succeed_at_once(error: AppError) -> bool:
    """Whether another try makes sense now: under a stricter name, or sending the bytes once more.

    After a fault of a whole system it makes no sense: the client has already tried several times.
    """
    if error.kind in NAME_REFUSALS or error.kind in MISMATCHES:
        return True
    is_systems_fault = error.is_out_of_reach or (error.status_code or 0) >= 500
    return error.retryable and not (is_systems_fault or error.heals_by_itself)


class _Copy:
    """One asset being copied, in several tries."""

    def __init__(self, copier: Copier, errand: Errand, moving: Moving) -> None:
        self._copier = copier
        self._moving = moving
        self._box = copier.box.of(errand.asset.id)
        self._errand = errand
        self._asset = errand.asset
        self._dam = copier.dam
        self._sha1_seen: str | None = None
        """The SHA-1 of the bytes of an earlier, complete try."""
        self._made: set[str] = set()
        """Bad copies of earlier tries, which may still be in Box."""

    def run(self, name: str, existing: BoxFile | None) -> BoxFile:
        """Copy the bytes, unless Box already has them under this name; verified in both cases.

        existing: the file that has the name; it gets a new version if it is ours.
        """
        has_its_size = existing is not None and existing.size_bytes == self._asset.size_bytes
        if existing is not None and not has_its_size and not self._is_ours(name, existing):
            raise SomebodysFileError(name, existing)  # before any byte is read
        if self._asset.size_bytes <= DIRECT_UPLOAD_LIMIT:
            return self._copy_small(name, existing)
        if existing is not None and has_its_size:
            if self._sha1_seen is None:
                self._sha1_seen = read_sha1(self._dam, self._moving, self._copier.progress)
            held = self._held(name, existing, self._sha1_seen)
            if held is not None:
                return held
        return self._copy_large(name, existing)

    def _is_ours(self, name: str, existing: BoxFile) -> bool:
        """Whether a file in the campaign's own folder may get a new version; Box keeps the old one.

        A file of exactly this name may: an upload whose answer was lost, or a run that was killed, left it.
        When Box only considers the names equal, the file is not ours, unless ledger or receipt list it.
        """
        if existing.name == name or existing.id in self._made:
            return True
        return self._errand.sender.is_ours(self._asset.id, existing.id)

    def _held(self, name: str, existing: BoxFile, sha1: str) -> BoxFile | None:
        """The file that has the name, if it has these bytes; None if it is ours, for a new version.

        Before a file counts as not ours, Box is asked once more: it may be ours, made by an upload whose
        answer was lost, and an answer may be wrong.
        """
        if _matches(existing, self._asset, sha1):
            return existing
        if self._is_ours(name, existing):
            return None
        again = self._box.read_file(existing.id)
        if again is not None and _matches(again, self._asset, sha1):
            return again
        raise SomebodysFileError(name, existing)

    def _copy_small(self, name: str, existing: BoxFile | None) -> BoxFile:
        asset = self._asset
        download = Download(self._dam, self._moving, self._copier.progress)
        view = memoryview(bytearray(asset.size_bytes))
        with download.opened():
            download.fill(view)
            download.finish()
        sha1 = download.sha1.hexdigest()
        if existing is not None:
            held = self._held(name, existing, sha1)
            if held is not None:
                return held
        replaces = existing.id if existing else None
        place = self._errand.place
        file = self._box.upload_file(place.folder_id, name, view, sha1, replaces=replaces)
        return self._verified(file, sha1, existing)

    def _copy_large(self, name: str, existing: BoxFile | None) -> BoxFile:
        """Copy by an upload session, which is opened while the DAM prepares the download."""
        download = Download(self._dam, self._moving, self._copier.progress)
        with download.opened():
            with ThreadPoolExecutor(1) as beside:
                opening = beside.submit(self._session, name, existing)
                download.open()
            session, known = opening.result()
            return self._fill(session, known, download, name, existing)

    def _fill(
        self,
        session: UploadSession,
        known: dict[int, Part],
        download: Download,
        name: str,
        existing: BoxFile | None,
    ) -> BoxFile:
        try:
            parts, sha1 = self._send_parts(session, known, download)
            self._sha1_seen = sha1.hex()
            file = self._box.commit(session, parts, sha1, name)
        except AppError as exc:
            # After a temporary fault, this run or the next continues the session; otherwise it is given up
            # now.
            is_over = isinstance(exc, BoxError) and exc.status_code in (404, 410)
            if is_over or not exc.retryable or isinstance(exc, (SessionSpoiledError, NameTakenError)):
                self._give_up(session)
            if is_over:
                raise SessionSpoiledError(f"the upload session ended too soon: {exc.message}") from exc
            raise
        self._copier.ledger.forget_upload(session.id)
        return self._verified(file, self._sha1_seen, existing)

    def _session(self, name: str, existing: BoxFile | None) -> tuple[UploadSession, dict[int, Part]]:
        """The open session of an earlier run for this file, with its parts by offset, or else a new one."""
        asset, ledger = self._asset, self._copier.ledger
        campaign_id = self._errand.sender.campaign.id
        folder_id, replaces = self._errand.place.folder_id, existing.id if existing else None
        wanted = OpenUpload(campaign_id, asset.id, "", asset.revision, asset.size_bytes, folder_id, replaces)
        left = ledger.open_upload(campaign_id, asset.id)
        if left is not None:
            if replace(left, session_id="") == wanted:
                session = self._box.read_session(left.session_id)
                if session is not None:
                    return session, self._box.list_parts(session)
                logger.info("asset %s: the upload session of an earlier run cannot be continued", asset.id)
            # Even when Box says that it has ended: nothing looks for it again.
            self._box.abort(left.session_id)
            ledger.forget_upload(left.session_id)
        session = self._box.open_session(folder_id, name, asset.size_bytes, replaces=replaces)
        ledger.remember_upload(replace(wanted, session_id=session.id), self._copier.run_id)
        return session, {}

    def _send_parts(
        self, session: UploadSession, known: dict[int, Part], download: Download
    ) -> tuple[list[Part], bytes]:
        """Read the whole file, because its SHA-1 needs all of it, and send the parts that Box lacks."""
        asset, progress, size = self._asset, self._copier.progress, self._asset.size_bytes
        parts: dict[int, Part] = {}
        with self._copier.pool.lane(session.part_size) as lane:
            for offset in range(0, size, session.part_size):
                if self._copier.is_stopping():
                    raise StoppedError
                buffer = lane.buffer()
                view = memoryview(buffer)[: min(session.part_size, size - offset)]
                download.fill(view)
                there = known.get(offset)
                if there is None:
                    lane.send(buffer, self._sending(session, offset, view, parts, lane))
                    continue
                if (there.size, there.sha1) != (len(view), _sha1(view).hex()):
                    raise SessionSpoiledError(
                        f"asset {asset.id} ({asset.name!r}): the upload session has other bytes at {offset}"
                    )
                parts[offset] = there
                progress.resumed(self._moving, len(view))
                lane.give_back(buffer)
            download.finish()
            lane.finish()
        return list(parts.values()), download.sha1.digest()

    def _sending(
        self, session: UploadSession, offset: int, view: memoryview, parts: dict[int, Part], lane: Lane
    ) -> Callable[[], None]:
        """A function that sends a part. It also computes the part's digest: the reader is busy with the
        file's.
        """

        def send() -> None:
            size, sha1 = self._asset.size_bytes, _sha1(view)
            with lane.senders:
                parts[offset] = self._box.send_part(session, offset, view, sha1, size)
            self._copier.progress.sent_part(self._moving, len(view))

        return send

    def _give_up(self, session: UploadSession) -> None:
        try:
            self._box.abort(session.id)
        except BoxError as exc:
            logger.warning("%s; a later run tries again", exc)
            return
        self._copier.ledger.forget_upload(session.id)

    def _verified(self, file: BoxFile, sha1: str, existing: BoxFile | None) -> BoxFile:
        """The file, if Box reports the bytes that were read. If it does not, Box is asked once more, and a
        bad copy is deleted.
        """
        asset = self._asset
        if _matches(file, asset, sha1):
            return file
        again = self._box.read_file(file.id)
        if again is not None and _matches(again, asset, sha1):
            return again
        shown = again or file
        self._made.add(shown.id)
        try:
            self._box.remove_bad_copy(shown, existing)
        except BoxError as exc:
            logger.warning("asset %s: the bad copy is still in Box: %s", asset.id, exc)
        raise BoxError(
            f"asset {asset.id} ({asset.name!r}): read {asset.size_bytes} bytes with SHA-1 {sha1},"
            f" Box has {shown.size_bytes} bytes with SHA-1 {shown.sha1}",
            kind="digest_mismatch",
            item_id=asset.id,
        )


def _matches(file: BoxFile, asset: Asset, sha1: str) -> bool:
    return (file.size_bytes, file.sha1) == (asset.size_bytes, sha1)


def _sha1(view: memoryview) -> bytes:
    return hashlib.sha1(view, usedforsecurity=False).digest()
