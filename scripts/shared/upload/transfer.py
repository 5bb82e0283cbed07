"""Transfers the files of one campaign: plans them, waits for them, and collects the results.

`Copier` copies the files, in the pool's threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import datetime

from shared.base.errors import AppError, CampaignLostError, DamError, StoppedError
from shared.base.values import (
    Asset,
    BoxFile,
    Campaign,
    LedgerEntry,
    MasterAssets,
    ReceiptEntry,
)
from shared.upload.copier import Copier, Errand
from shared.upload.download import DIRECT_UPLOAD_LIMIT
from shared.upload.folders import CampaignFolders
from shared.upload.limiter import STOP_POLL_SECONDS
from shared.upload.places import Place
from shared.upload.receipt import receipt, write_receipt
from shared.upload.workers import Job

logger = logging.getLogger(__name__)


class CampaignTransfer:
    """One campaign's files, from the plan to the last copy. For one thread; workers report how each file
    ended.
    """

    def __init__(self, copier: Copier, campaign: Campaign, root_folder_id: str) -> None:
        self.campaign = campaign
        self.found = MasterAssets(None)
        self.failures: list[AppError] = []
        self.done: dict[str, tuple[Asset, BoxFile]] = {}
        self.root: Place | None = None
        self._copier = copier
        self._box = copier.box.of(campaign.id)
        self._folders = CampaignFolders(self._box, copier.ledger, campaign, root_folder_id)
        self._changed = threading.Condition()
        self._pending = 0
        self._is_stopped = False
        self._fatal: BaseException | None = None
        self._places: dict[str, Place] = {}
        self._known: dict[str, LedgerEntry] = {}
        self._left_over: set[str] = set()
        """Files in Box, from ledger or receipt, of assets that are no longer in the DAM."""

    def copy(self, found: MasterAssets) -> None:
        """Copy everything in a listing that Box lacks, and wait until no copy is running.

        Called again with a later listing, it copies what is new or has changed. Failures of files that may
        have been deleted or replaced in the meantime are kept: a later listing decides. Raises AppError for
        every other failure, and StoppedError when the run must stop and files are left.
        """
        errands = self._plan(found)
        self.failures.clear()
        if errands and self._copier.is_stopping():
            raise StoppedError
        self._pending = len(errands)
        for errand in errands:
            self._queue(errand)
        with self._changed:
            while self._pending:
                self._changed.wait(STOP_POLL_SECONDS)
                if self._copier.is_stopping():
                    self._drop()
        if self._fatal is not None:
            raise self._fatal
        if any(not _may_be_outdated(error) for error in self.failures):
            raise self._failure()
        if self._is_stopped:
            raise StoppedError

    def _plan(self, found: MasterAssets) -> list[Errand]:
        """Make the folders, plan the names, and find what is not in Box. Raises BoxError, DbError."""
        if self.root is None:
            self._known = self._copier.ledger.uploaded_assets(self.campaign.id)
            self.root = self._folders.own()
        self.found = found
        shown = _shape(found)
        self.done = {one: done for one, done in self.done.items() if done[0] == shown.get(one)}
        self._left_over = self._files_besides(shown)
        current = self._current_entries(found)
        self._places = self._folders.below(self.root, found, current)
        waiting = [asset for asset in found.assets if asset.id not in self.done]
        errands: list[Errand] = []
        self._copier.progress.expect(waiting)
        for asset in waiting:
            place, entry = self._places[asset.folder.id], current.get(asset.id)
            errand = Errand(self, asset, place, entry)
            file = place.files_by_id.get(entry.box_file_id) if entry else None
            if file is None or not errand.is_recorded(file):
                errands.append(errand)
                continue
            self.done[asset.id] = (asset, file)
            self._copier.progress.skip(asset)
        return errands

    def _current_entries(self, found: MasterAssets) -> dict[str, LedgerEntry]:
        """{asset id: entry} of the ledger, for the assets' present revisions in the DAM."""
        entries = [(asset, self._known.get(asset.id)) for asset in found.assets]
        return {asset.id: entry for asset, entry in entries if entry and entry.revision == asset.revision}

    def _files_besides(self, shown: Mapping[str, Asset]) -> set[str]:
        """The files of other assets, from ledger or receipt."""
        files = [(entry.asset_id, entry.box_file_id) for entry in self._known.values()]
        files += self._folders.listed.items()
        return {file_id for asset_id, file_id in files if asset_id not in shown}

    def _queue(self, errand: Errand) -> None:
        def work() -> None:
            file, error = None, None
            try:
                file = self._copier.bring(errand)
            except BaseException as exc:  # noqa: BLE001 - passed to the campaign's thread, which raises it
                error = exc
            with self._changed:
                self._settle(errand.asset, file, error)
                self._pending -= 1
                self._changed.notify()

        size = errand.asset.size_bytes
        self._copier.pool.submit(self.campaign.id, Job(size if size <= DIRECT_UPLOAD_LIMIT else None, work))

    def _settle(self, asset: Asset, file: BoxFile | None, error: BaseException | None) -> None:
        """Record how a file ended. An error that every further file would meet empties the
        campaign's queue.
        """
        if file is not None:
            self.done[asset.id] = (asset, file)
            self._known[asset.id] = LedgerEntry(
                asset.id, asset.revision, file.id, file.name, file.size_bytes, file.sha1
            )
        elif isinstance(error, StoppedError):
            self._is_stopped = True
        elif not isinstance(error, AppError) or error.ends_run or isinstance(error, CampaignLostError):
            self._fatal = self._fatal or error
            self._drop()
        elif error.is_system_wide:
            self.failures.insert(0, error)
            self._drop()
        else:
            logger.warning("asset %s (%s) failed: %s", asset.id, asset.name, error)
            self.failures.append(error)

    def _drop(self) -> None:
        """Start nothing more; running copies finish."""
        dropped = self._copier.pool.cancel(self.campaign.id)
        self._pending -= dropped
        self._is_stopped = self._is_stopped or dropped > 0

    def _failure(self) -> AppError:
        """The failures as one: first one that does not end by itself, and whose file was not just deleted."""
        first = min(
            self.failures,
            key=lambda error: (
                not error.is_system_wide,
                error.heals_by_itself or error.status_code in (404, 410),
                error.item_id or "",
            ),
        )
        if len(self.failures) > 1 and not first.is_system_wide:
            count = len(self.failures)
            first.message = f"{count} of {len(self.found.assets)} assets failed, the first: {first.message}"
        return first

    def is_settled_by(self, again: MasterAssets) -> bool:
        """Whether a later listing shows exactly the assets that were planned, and all of them are in Box.
        Raises the failure of an asset that it shows unchanged.
        """
        shown, copied = _shape(again), _shape(self.found)
        if any(shown.get(error.item_id or "") == copied.get(error.item_id or "") for error in self.failures):
            raise self._failure()
        return shown == copied and shown.keys() == self.done.keys()

    def write_receipt(self, run_id: str, now: datetime) -> None:
        """Write the receipt, the last file in Box. Raises BoxError, StoppedError."""
        if self.root is None:
            raise RuntimeError("a transfer without a folder has no receipt")
        entries = self._entries()
        content = receipt(self.campaign, entries, run_id=run_id, now=now)
        file_ids = {entry.box_id for entry in entries}
        write_receipt(self._box, self.root, self.campaign.id, content, file_ids)

    def first_difference(self, again: MasterAssets) -> str:
        """An asset that a later listing shows differently from how it was copied."""
        shown, copied = _shape(again), _shape(self.found)
        for asset_id in sorted(shown.keys() | copied.keys()):
            if shown.get(asset_id) != copied.get(asset_id):
                asset = shown.get(asset_id) or copied[asset_id]
                return f"asset {asset.id} ({asset.name})"
        return "none; some could not be copied"

    def _entries(self) -> list[ReceiptEntry]:
        """The entries of the receipt: every asset of the last listing, by path."""
        entries = [
            ReceiptEntry(
                path=f"{self._places[asset.folder.id].path}{file.name}",
                name=asset.name,
                dam_id=asset.id,
                size=file.size_bytes,
                sha1=file.sha1,
                box_id=file.id,
            )
            for asset, file in self.done.values()
        ]
        return sorted(entries, key=lambda entry: entry.path)

    def is_ours(self, asset_id: str, file_id: str) -> bool:
        """See `Sender`. Called by workers."""
        entry = self._known.get(asset_id)
        is_its_own = entry is not None and entry.box_file_id == file_id
        return is_its_own or self._folders.listed.get(asset_id) == file_id or file_id in self._left_over


def _may_be_outdated(error: AppError) -> bool:
    """Whether an asset may have been deleted or replaced since it was listed: a later listing decides."""
    is_other = error.kind in ("size_mismatch", "checksum_mismatch")
    return isinstance(error, DamError) and (is_other or error.is_missing)


def _shape(found: MasterAssets) -> dict[str, Asset]:
    return {asset.id: asset for asset in found.assets}
