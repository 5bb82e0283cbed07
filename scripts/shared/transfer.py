"""The transfer: a campaign's assets from the DAM into its Box folder, every byte accounted for.

An asset counts as transferred when the size the DAM declared, the bytes read, and the size and SHA-1 that Box
reports all agree. One part of one file is in memory at a time.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from shared.box import BoxClient, NameTakenError
from shared.errors import AppError, BoxError, DamError
from shared.models import (
    Asset,
    BoxFile,
    BoxFolderListing,
    Campaign,
    DamFolder,
    LedgerEntry,
    MasterAssets,
    UploadTotals,
)
from shared.names import SHORT_ID_LENGTH, distinguish, legal_name, name_key, plan_names, strict_name

logger = logging.getLogger(__name__)

DIRECT_UPLOAD_LIMIT = 20 * 1024 * 1024
"""Up to here one request does; above, an upload session (Box takes sessions from 20,000,000 bytes on)."""
READ_SIZE = 1024 * 1024
TRIES_PER_ASSET = 3
NAME_REFUSALS = ("item_name_invalid", "item_name_too_long")


class Readable(Protocol):
    """A stream of bytes: at most `size` of them, b"" at the end."""

    def read(self, size: int) -> bytes: ...


class Source(Protocol):
    """Where assets come from."""

    def open_asset(self, asset_id: str) -> AbstractContextManager[Readable]: ...


class Ledger(Protocol):
    """What must outlive a run: which asset is in Box, and which Box folder is the campaign's."""

    def uploaded_assets(self, campaign_id: str) -> dict[str, LedgerEntry]: ...
    def record_upload(self, campaign_id: str, asset: Asset, file: BoxFile, run_id: str) -> None: ...
    def box_folder_of(self, campaign_id: str) -> str | None: ...
    def claim_box_folder(self, campaign_id: str, folder_id: str) -> bool: ...


Progress = Callable[[Asset, int], None]
"""Told after every block: the asset in hand and how many of its bytes have been moved."""


@dataclass(frozen=True, slots=True)
class TransferJob:
    """One campaign's transfer: what to move, between which systems, and who is told."""

    campaign: Campaign
    master: MasterAssets
    dam: Source
    box: BoxClient
    ledger: Ledger
    root_folder_id: str
    run_id: str
    is_stopping: Callable[[], bool]
    progress: Progress


@dataclass(slots=True)
class _Place:
    """A folder in Box and what it is known to hold."""

    folder_id: str
    listing: BoxFolderListing
    names: dict[str, str] = field(default_factory=dict)


def transfer_campaign(job: TransferJob) -> UploadTotals | None:
    """Bring every asset of the campaign into Box; None when asked to stop before the end.

    One asset's failure does not keep the others from being moved; it is raised at the end, so that the next
    run has only the failed ones left. A system-wide failure is raised at once.
    """
    known = job.ledger.uploaded_assets(job.campaign.id)
    root = _campaign_folder(job)
    places = _folders_in_box(job, root, known)
    failures: list[AppError] = []
    for asset in job.master.assets:
        if job.is_stopping():
            return None
        try:
            _bring(job, asset, places[asset.folder.id], known.get(asset.id))
        except AppError as exc:
            if exc.is_system_wide or exc.system not in (DamError.system, BoxError.system):
                raise
            logger.warning("asset %s (%s) failed: %s", asset.id, asset.name, exc)
            failures.append(exc)
    if failures:
        raise _summary(failures, len(job.master.assets))
    return UploadTotals(len(job.master.assets), job.master.size_bytes)


def _summary(failures: list[AppError], total: int) -> AppError:
    first = failures[0]
    if len(failures) > 1:
        first.message = f"{len(failures)} of {total} assets failed, the first: {first.message}"
    return first


# Folders


def _campaign_folder(job: TransferJob) -> _Place:
    """The campaign's own folder: the remembered one, wherever it is and whatever its name, else a new one.

    A folder that has the wanted name and belongs to no campaign was made by a person, or by a run that was
    killed before it could remember it; it is taken over. One that belongs to another campaign is not.
    """
    campaign = job.campaign
    remembered = job.ledger.box_folder_of(campaign.id)
    if remembered is not None:
        if job.box.folder_exists(remembered):
            return _Place(remembered, job.box.list_folder(remembered))
        logger.warning("the Box folder %s of campaign %s is gone; making a new one", remembered, campaign.id)
    wanted = legal_name(f"{campaign.number} - {campaign.name}" if campaign.number else campaign.name)
    candidates = (
        wanted,
        distinguish(wanted, campaign.id[:SHORT_ID_LENGTH]),
        distinguish(wanted, campaign.id),
        strict_name(wanted, campaign.id),
    )
    for name in candidates:
        try:
            folder_id, is_new = job.box.create_folder(job.root_folder_id, name), True
        except NameTakenError as exc:
            if not exc.is_folder or exc.existing_id is None:
                continue
            folder_id, is_new = exc.existing_id, False
        except BoxError as exc:
            if exc.kind in NAME_REFUSALS:
                continue
            if exc.status_code not in (403, 404):
                raise
            raise BoxError(
                f"Box folder {job.root_folder_id} cannot be written to: {exc.message}",
                kind="root_unusable",
                hint="check BOX_ROOT_FOLDER_ID; the app's service account needs to be an editor there",
                status_code=exc.status_code,
            ) from exc
        if job.ledger.claim_box_folder(campaign.id, folder_id):
            return _Place(folder_id, BoxFolderListing() if is_new else job.box.list_folder(folder_id))
    raise BoxError(
        f"no folder name is free for campaign {campaign.label!r} below Box folder {job.root_folder_id}",
        kind="name_taken",
        hint="another file or campaign holds the names",
    )


def _folders_in_box(job: TransferJob, root: _Place, known: Mapping[str, LedgerEntry]) -> dict[str, _Place]:
    """The Box folder for every DAM folder that leads to an asset, with the names planned in each."""
    children: dict[str, dict[str, DamFolder]] = {}
    assets: dict[str, list[Asset]] = {}
    for asset in job.master.assets:
        assets.setdefault(asset.folder.id, []).append(asset)
        folder = asset.folder
        while folder.parent is not None:
            children.setdefault(folder.parent.id, {})[folder.id] = folder
            folder = folder.parent
    places: dict[str, _Place] = {}
    waiting = [(job.master.folder_id or "", root)]
    while waiting:
        dam_id, place = waiting.pop()
        places[dam_id] = place
        below = sorted(children.get(dam_id, {}).values(), key=lambda folder: folder.id)
        here = sorted(assets.get(dam_id, []), key=lambda asset: asset.id)
        pinned = {
            asset.id: known[asset.id].box_name
            for asset in here
            if asset.id in known and known[asset.id].revision == asset.revision
        }
        items = [(folder.id, folder.name) for folder in below] + [(asset.id, asset.name) for asset in here]
        place.names.update(plan_names(items, pinned))
        for folder in below:
            waiting.append((folder.id, _sub_folder(job, place, place.names[folder.id], folder.id)))
    return places


def _sub_folder(job: TransferJob, place: _Place, name: str, dam_id: str) -> _Place:
    for folder_id, existing in place.listing.folders.items():
        if existing == name:
            return _Place(folder_id, job.box.list_folder(folder_id))
    try:
        return _Place(job.box.create_folder(place.folder_id, name), BoxFolderListing())
    except NameTakenError as exc:
        if exc.is_folder and exc.existing_id is not None:
            return _Place(exc.existing_id, job.box.list_folder(exc.existing_id))
        raise
    except BoxError as exc:
        if exc.kind not in NAME_REFUSALS:
            raise
        return _sub_folder(job, place, strict_name(name, dam_id), dam_id)


# Assets


def _bring(job: TransferJob, asset: Asset, place: _Place, entry: LedgerEntry | None) -> None:
    """See to it that one asset is in Box, and remember that it is."""
    if entry is not None and entry.revision == asset.revision and _is_still_there(job.box, place, entry):
        logger.debug("asset %s is already in Box as file %s", asset.id, entry.box_file_id)
        job.progress(asset, asset.size_bytes)
        return
    file = _copy_patiently(job, asset, place)
    job.ledger.record_upload(job.campaign.id, asset, file, job.run_id)
    logger.info(
        "asset %s is in Box as file %s: %s, %d bytes, SHA-1 %s",
        asset.id, file.id, file.name, file.size_bytes, file.sha1,
        extra={"action": "asset_uploaded", "asset_id": asset.id, "bytes": file.size_bytes},
    )  # fmt: skip


def _copy_patiently(job: TransferJob, asset: Asset, place: _Place) -> BoxFile:
    """Copy; on a fault that may pass, read and send the file again; on a name that is refused, change it."""
    name = place.names[asset.id]
    key = name_key(name)
    existing = next((file for file in place.listing.files if name_key(file.name) == key), None)
    for tries in range(1, TRIES_PER_ASSET + 1):
        try:
            return _copy(job, asset, place.folder_id, name, existing)
        except (BoxError, DamError) as exc:
            if tries == TRIES_PER_ASSET:
                raise
            if isinstance(exc, NameTakenError):
                if exc.is_folder or exc.existing_id is None:
                    name = distinguish(name, asset.id)
                else:
                    existing = job.box.read_file(exc.existing_id)
            elif exc.kind in NAME_REFUSALS:
                name = strict_name(name, asset.id)
            elif exc.is_out_of_reach or not exc.retryable or (exc.status_code or 0) >= 500:
                raise  # the client has tried patiently already
            logger.info("asset %s, try %d: %s", asset.id, tries, exc)
    raise AssertionError("unreachable: the last try returns or raises")


def _is_still_there(box: BoxClient, place: _Place, entry: LedgerEntry) -> bool:
    """Whether Box still holds the bytes of the ledger, where they were put or where a person moved them."""
    file = next((file for file in place.listing.files if file.id == entry.box_file_id), None)
    if file is None:
        file = box.read_file(entry.box_file_id)
    return file is not None and (file.size_bytes, file.sha1) == (entry.size_bytes, entry.sha1)


def _copy(job: TransferJob, asset: Asset, folder_id: str, name: str, existing: BoxFile | None) -> BoxFile:
    """Move one asset's bytes, unless Box has them under this name already; verified either way."""
    if asset.size_bytes <= DIRECT_UPLOAD_LIMIT:
        content = bytearray()
        sha1 = _read_through(job, asset, content.extend)
        if existing is not None and _matches(existing, asset, sha1):
            return existing
        replaces = existing.id if existing else None
        file = job.box.upload_file(folder_id, name, bytes(content), sha1, replaces=replaces)
        return _verified(job.box, file, asset, sha1)
    if existing is not None and existing.size_bytes == asset.size_bytes:
        sha1 = _read_through(job, asset, lambda block: None)
        if _matches(existing, asset, sha1):
            return existing
    replaces = existing.id if existing else None
    with job.box.open_upload(folder_id, name, asset.size_bytes, replaces=replaces) as upload:
        part = bytearray()
        sent = 0

        def send() -> None:
            nonlocal sent
            content = bytes(part)
            upload.send_part(sent, content, hashlib.sha1(content, usedforsecurity=False).digest())
            sent += len(content)
            part.clear()

        def take(block: bytes) -> None:
            view = memoryview(block)
            while view:
                room = upload.part_size - len(part)
                part.extend(view[:room])
                view = view[room:]
                if len(part) == upload.part_size:
                    send()

        sha1 = _read_through(job, asset, take)
        if part:
            send()
        file = upload.commit(bytes.fromhex(sha1))
    return _verified(job.box, file, asset, sha1)


def _read_through(job: TransferJob, asset: Asset, take: Callable[[bytes], object]) -> str:
    """Hand every block to `take`; return the SHA-1 (hex). Raises DamError unless the size is as declared."""
    sha1 = hashlib.sha1(usedforsecurity=False)
    count = 0
    with job.dam.open_asset(asset.id) as stream:
        while block := stream.read(READ_SIZE):
            count += len(block)
            if count > asset.size_bytes:
                break
            sha1.update(block)
            take(block)
            job.progress(asset, count)
    if count != asset.size_bytes:
        got = f"more than {asset.size_bytes}" if count > asset.size_bytes else str(count)
        raise DamError(
            f"asset {asset.id} ({asset.name!r}): the DAM declared {asset.size_bytes} bytes and sent {got}",
            kind="size_mismatch",
            retryable=True,
            item_id=asset.id,
        )
    return sha1.hexdigest()


def _matches(file: BoxFile, asset: Asset, sha1: str) -> bool:
    return (file.size_bytes, file.sha1) == (asset.size_bytes, sha1)


def _verified(box: BoxClient, file: BoxFile, asset: Asset, sha1: str) -> BoxFile:
    """The file, if Box says that it holds what was read; when an answer denies it, Box is asked once more."""
    if _matches(file, asset, sha1):
        return file
    again = box.read_file(file.id)
    if again is not None and _matches(again, asset, sha1):
        return again
    shown = again or file
    raise BoxError(
        f"asset {asset.id} ({asset.name!r}): read {asset.size_bytes} bytes with SHA-1 {sha1},"
        f" Box holds {shown.size_bytes} bytes with SHA-1 {shown.sha1}",
        kind="digest_mismatch",
        item_id=asset.id,
    )
