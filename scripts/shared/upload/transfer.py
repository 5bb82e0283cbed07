"""The transfer of one campaign: its plan, what is on its way, and what has arrived.

Its files are moved by `Courier`, in the pool's threads.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime

from shared.base.errors import AppError, BoxError, CampaignLostError, DamError, StoppedError
from shared.base.values import (
    Asset,
    BoxFile,
    BoxFolderListing,
    Campaign,
    DamFolder,
    LedgerEntry,
    MasterAssets,
    ReceiptEntry,
)
from shared.box.session import NameTakenError
from shared.rules.names import legal_name, other_names, plan_names
from shared.upload.courier import DIRECT_UPLOAD_LIMIT, NAME_REFUSALS, Courier, Errand, Place
from shared.upload.limiter import STOP_POLL_SECONDS
from shared.upload.receipt import RECEIPT_NAME, find_receipt, receipt, write_receipt
from shared.upload.workers import Job

logger = logging.getLogger(__name__)

RECEIPT_KEY = "_manifest"
"""What stands for the receipt where names are planned: no asset's id looks like this."""


class CampaignTransfer:
    """One campaign's files, from their plan to the last one's arrival. For one thread; workers tell it how
    each file ended.
    """

    def __init__(self, courier: Courier, campaign: Campaign, root_folder_id: str) -> None:
        self.campaign = campaign
        self.found = MasterAssets(None)
        self.failures: list[AppError] = []
        self.done: dict[str, tuple[Asset, BoxFile]] = {}
        self.root: Place | None = None
        self._courier = courier
        self._root_folder_id = root_folder_id
        self._changed = threading.Condition()
        self._pending = 0
        self._is_stopped = False
        self._fatal: BaseException | None = None
        self._places: dict[str, Place] = {}
        self._known: dict[str, LedgerEntry] = {}
        self._listed: dict[str, str] = {}
        """{asset id: Box file id} of the receipt in a folder that was taken over."""
        self._left_over: set[str] = set()
        """Files in Box of assets that the DAM has no longer."""

    def copy(self, found: MasterAssets) -> None:
        """Have everything brought that Box lacks of a listing, and wait until nothing is on its way.

        Called again with a later listing, it brings what is new or has changed since. Failures of files that
        may have been deleted or replaced meanwhile are kept, for a later listing to judge. Raises AppError
        for every other failure, and StoppedError when the run is to stop and files are left.
        """
        errands = self._plan(found)
        self.failures.clear()
        if errands and self._courier.is_stopping():
            raise StoppedError
        self._pending = len(errands)
        for errand in errands:
            self._queue(errand)
        with self._changed:
            while self._pending:
                self._changed.wait(STOP_POLL_SECONDS)
                if self._courier.is_stopping():
                    self._drop()
        if self._fatal is not None:
            raise self._fatal
        if any(not _may_be_outdated(error) for error in self.failures):
            raise self._failure()
        if self._is_stopped:
            raise StoppedError

    def _plan(self, found: MasterAssets) -> list[Errand]:
        """Make the folders, plan the names, and tell what is not in Box. Raises BoxError, DbError."""
        if self.root is None:
            self._known = self._courier.ledger.uploaded_assets(self.campaign.id)
            self.root = self._campaign_folder()
        self.found = found
        self.done = {asset.id: self.done[asset.id] for asset in found.assets if self._is_done(asset)}
        shown = {asset.id for asset in found.assets}
        self._left_over = {entry.box_file_id for entry in self._known.values() if entry.asset_id not in shown}
        self._left_over |= {file_id for asset_id, file_id in self._listed.items() if asset_id not in shown}
        places = self._folders_in_box(self.root)
        waiting = [asset for asset in found.assets if asset.id not in self.done]
        errands: list[Errand] = []
        self._courier.progress.expect(waiting)
        for asset in waiting:
            place, entry = places[asset.folder.id], self._known.get(asset.id)
            file = place.files_by_id.get(entry.box_file_id) if entry else None
            if entry is not None and file is not None and _is_recorded(entry, asset, file):
                self.done[asset.id] = (asset, file)
                self._courier.progress.skip(asset)
                continue
            errands.append(Errand(self, asset, place, entry))
        return errands

    def _queue(self, errand: Errand) -> None:
        def work() -> None:
            file, error = None, None
            try:
                file = self._courier.bring(errand)
            except BaseException as exc:  # noqa: BLE001 - carried to the campaign's thread, which raises it
                error = exc
            with self._changed:
                self._settle(errand.asset, file, error)
                self._pending -= 1
                self._changed.notify()

        size = errand.asset.size_bytes
        self._courier.pool.submit(self.campaign.id, Job(size if size <= DIRECT_UPLOAD_LIMIT else None, work))

    def _settle(self, asset: Asset, file: BoxFile | None, error: BaseException | None) -> None:
        """Take note of how a file ended. What every further file would meet drops the campaign's queue."""
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
        """Begin nothing more; what is in hand comes to its end."""
        dropped = self._courier.pool.cancel(self.campaign.id)
        self._pending -= dropped
        self._is_stopped = self._is_stopped or dropped > 0

    def _failure(self) -> AppError:
        """The failures as one: first what does not heal by itself, and was not just deleted."""
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
        """Whether a later listing shows just what was worked through, and all of that has arrived. Raises the
        failure of an asset that it still shows as it was.
        """
        shown, copied = _shape(again), _shape(self.found)
        if any(shown.get(error.item_id or "") == copied.get(error.item_id or "") for error in self.failures):
            raise self._failure()
        return shown == copied and shown.keys() == self.done.keys()

    def write_receipt(self, run_id: str, now: datetime) -> None:
        """The last thing in Box: what was brought, by path. Raises BoxError, StoppedError."""
        if self.root is None:
            raise RuntimeError("a transfer without a folder has nothing to write down")
        entries = self._entries()
        content = receipt(self.campaign, entries, run_id=run_id, now=now)
        file_ids = {entry.box_id for entry in entries}
        write_receipt(self._courier.box, self.root, self.campaign.id, content, file_ids)

    def first_difference(self, again: MasterAssets) -> str:
        """An asset that a later listing shows otherwise than it was copied."""
        shown, copied = _shape(again), _shape(self.found)
        for asset_id in sorted(shown.keys() | copied.keys()):
            if shown.get(asset_id) != copied.get(asset_id):
                asset = shown.get(asset_id) or copied[asset_id]
                return f"asset {asset.id} ({asset.name})"
        return "none; some could not be copied"

    def _entries(self) -> list[ReceiptEntry]:
        """What the receipt lists: every asset of the last listing, by path."""
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

    def _is_done(self, asset: Asset) -> bool:
        return asset.id in self.done and self.done[asset.id][0] == asset

    def is_ours(self, asset_id: str, file_id: str) -> bool:
        """See `Sender`. Called by workers."""
        entry = self._known.get(asset_id)
        return (
            (entry is not None and entry.box_file_id == file_id)
            or self._listed.get(asset_id) == file_id
            or file_id in self._left_over
        )

    # Folders

    def _campaign_folder(self) -> Place:
        """The campaign's own folder: the remembered one, wherever it is and whatever its name, or a new one.

        One that has the wanted name is taken over when it is empty, as a run leaves it that was killed before
        it could remember it, or when our receipt for this campaign lies in it. Any other is somebody else's.
        """
        campaign, box, ledger = self.campaign, self._courier.box, self._courier.ledger
        remembered = ledger.box_folder_of(campaign.id)
        if remembered is not None:
            if box.folder_exists(remembered):
                return Place.of(remembered, "", box.list_folder(remembered))
            logger.warning(
                "the Box folder %s of campaign %s is gone; making a new one", remembered, campaign.id
            )
        wanted = legal_name(f"{campaign.number} - {campaign.name}" if campaign.number else campaign.name)
        for name in (wanted, *other_names(wanted, campaign.id)):
            place = self._folder_named(name, remembered)
            if place is not None and ledger.claim_box_folder(campaign.id, place.folder_id):
                return place
        raise BoxError(
            f"no folder name is free for campaign {campaign.label!r} below Box folder {self._root_folder_id}",
            kind="name_taken",
            hint=f"rename or move what is called {wanted!r}, or begins so, there; the next run then goes on",
        )

    def _folder_named(self, name: str, remembered: str | None) -> Place | None:
        """A folder below the root folder, new or taken over; None when the name is not to be had. remembered:
        the one on record; that it is gone may have been a wrong answer.
        """
        try:
            return Place.of(
                self._courier.box.create_folder(self._root_folder_id, name), "", BoxFolderListing()
            )
        except NameTakenError as exc:
            if not exc.is_folder or exc.existing_id is None:
                return None
            if exc.existing_id == remembered:
                return Place.of(remembered, "", self._courier.box.list_folder(remembered))
            return self._taken_over(exc.existing_id, name)
        except BoxError as exc:
            if exc.kind in NAME_REFUSALS:
                return None
            if exc.status_code not in (403, 404) or exc.is_system_wide:
                raise
            raise BoxError(
                f"Box folder {self._root_folder_id} (BOX_ROOT_FOLDER_ID) cannot be written to: {exc.message}",
                kind="root_unusable",
                hint=f"check BOX_ROOT_FOLDER_ID; {exc.hint}",
                status_code=exc.status_code,
            ) from exc

    def _taken_over(self, folder_id: str, name: str) -> Place | None:
        """A folder that was there before, unless somebody else uses it.

        What we may not see is not ours. Box is asked twice: one denial may be wrong, and the folder may be
        ours, made by a call whose answer was lost.
        """
        box, receipt = self._courier.box, None
        for _ in range(2):
            try:
                place = Place.of(folder_id, "", box.list_folder(folder_id))
                if not place.files_by_id and not place.folders:
                    return place
                receipt = find_receipt(box, place, self.campaign.id)
                break
            except BoxError as exc:
                if exc.status_code not in (403, 404):
                    raise
        if receipt is None:
            logger.warning(
                "campaign %s (%s): the Box folder %r (%s) holds what is not ours; making one of another name",
                self.campaign.id, self.campaign.label, name, folder_id,
            )  # fmt: skip
            return None
        self._listed = {asset_id: str(entry.get("box_id")) for asset_id, entry in receipt.assets.items()}
        return place

    def _folders_in_box(self, root: Place) -> dict[str, Place]:
        """The Box folder for every DAM folder that leads to an asset, with the names planned in each.

        In the campaign's own folder one name is kept for the receipt.
        """
        children: dict[str, dict[str, DamFolder]] = {}
        assets: dict[str, list[Asset]] = {}
        for asset in self.found.assets:
            assets.setdefault(asset.folder.id, []).append(asset)
            folder = asset.folder
            while folder.parent is not None:
                children.setdefault(folder.parent.id, {})[folder.id] = folder
                folder = folder.parent
        waiting = [(self.found.folder_id or "", root)]
        while waiting:
            dam_id, place = waiting.pop()
            self._places[dam_id] = place
            below = sorted(children.get(dam_id, {}).values(), key=lambda folder: folder.id)
            here = sorted(assets.get(dam_id, []), key=lambda asset: asset.id)
            pinned = {
                asset.id: self._known[asset.id].box_name
                for asset in here
                if asset.id in self._known and self._known[asset.id].revision == asset.revision
            }
            items = [(RECEIPT_KEY, RECEIPT_NAME)] if place is root else []
            items += [(folder.id, folder.name) for folder in below]
            items += [(asset.id, asset.name) for asset in here]
            place.names.update(plan_names(items, pinned))
            for folder in below:
                known = self._places.get(folder.id)
                waiting.append(
                    (folder.id, known or self._sub_folder(place, place.names[folder.id], folder.id))
                )
        return self._places

    def _sub_folder(self, place: Place, name: str, dam_id: str) -> Place:
        """A folder below the campaign's own. A person's one is used, and the files in it are left alone."""
        box = self._courier.box
        for candidate in (name, *other_names(name, dam_id)):
            path, folder_id = f"{place.path}{candidate}/", place.folders.get(candidate)
            try:
                if folder_id is None:
                    return Place.of(box.create_folder(place.folder_id, candidate), path, BoxFolderListing())
            except NameTakenError as exc:
                if not exc.is_folder or exc.existing_id is None:
                    continue
                folder_id = exc.existing_id
            except BoxError as exc:
                if exc.kind not in NAME_REFUSALS:
                    raise
                continue
            return Place.of(folder_id, path, box.list_folder(folder_id))
        raise BoxError(
            f"no name is free for the folder {name!r} in the Box folder {place.path or '/'!r} of campaign"
            f" {self.campaign.label!r}",
            kind="name_taken",
            hint="rename or move what has that name there; the next run then goes on",
        )


def _is_recorded(entry: LedgerEntry, asset: Asset, file: BoxFile) -> bool:
    """Whether the ledger, the DAM and Box's listing agree on an asset."""
    return entry.revision == asset.revision and (file.size_bytes, file.sha1) == (entry.size_bytes, entry.sha1)


def _may_be_outdated(error: AppError) -> bool:
    """Whether an asset may have been deleted or replaced since it was listed: a later listing tells."""
    is_other = error.kind in ("size_mismatch", "checksum_mismatch")
    return isinstance(error, DamError) and (is_other or error.is_missing)


def _shape(found: MasterAssets) -> dict[str, Asset]:
    return {asset.id: asset for asset in found.assets}
