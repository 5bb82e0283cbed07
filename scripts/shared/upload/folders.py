"""Finds and makes a campaign's folders in Box: its own one below the root folder, and those below it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping

from shared.base.errors import BoxError
from shared.base.values import Asset, BoxFolderListing, Campaign, DamFolder, LedgerEntry, MasterAssets
from shared.box.client import BoxClient
from shared.box.refusals import NameTakenError
from shared.rules.names import legal_name, other_names, plan_names
from shared.upload.ledger import Ledger
from shared.upload.places import Place
from shared.upload.receipt import RECEIPT_NAME, find_receipt

logger = logging.getLogger(__name__)

NAME_REFUSALS = ("item_name_invalid", "item_name_too_long")
RECEIPT_KEY = "_manifest"
"""Stands for the receipt in the planning of names: no asset's id looks like this."""


class CampaignFolders:
    """Finds, reuses and makes folders. For one thread. Raises BoxError, DbError."""

    def __init__(self, box: BoxClient, ledger: Ledger, campaign: Campaign, root_folder_id: str) -> None:
        self._box = box
        self._ledger = ledger
        self._campaign = campaign
        self._root_folder_id = root_folder_id
        self._places: dict[str, Place] = {}
        self.listed: dict[str, str] = {}
        """{asset id: Box file id} of the receipt in a folder that is reused."""

    def own(self) -> Place:
        """The campaign's own folder: the one on record, even if moved or renamed, or a new one.

        A folder with the wanted name is reused when it is empty (a run that was killed before it could record
        it leaves it so), or when it contains our receipt for this campaign. Any other folder is not ours.
        """
        campaign, box, ledger = self._campaign, self._box, self._ledger
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
            f"no free folder name for campaign {campaign.label!r} below Box folder {self._root_folder_id}",
            kind="name_taken",
            hint=f"rename or move the item there whose name is or begins with {wanted!r};"
            " the next run then continues",
        )

    def _folder_named(self, name: str, remembered: str | None) -> Place | None:
        """A folder below the root folder, new or reused; None when the name is not available. remembered:
        the one on record; Box's answer that it is gone may have been wrong.
        """
        try:
            return Place.of(self._box.create_folder(self._root_folder_id, name), "", BoxFolderListing())
        except NameTakenError as exc:
            if exc.folder_id is None:
                return None
            if exc.folder_id == remembered:
                return Place.of(remembered, "", self._box.list_folder(remembered))
            return self._taken_over(exc.folder_id, name)
        except BoxError as exc:
            if exc.kind in NAME_REFUSALS:
                return None
            if exc.status_code not in (403, 404) or exc.is_system_wide:
                raise
            raise BoxError(
                f"Box folder {self._root_folder_id} (BOX_ROOT_FOLDER_ID) is not writable: {exc.message}",
                kind="root_unusable",
                hint=f"check BOX_ROOT_FOLDER_ID; {exc.hint}",
                status_code=exc.status_code,
            ) from exc

    def _taken_over(self, folder_id: str, name: str) -> Place | None:
        """An existing folder, unless somebody else uses it.

        A folder that we cannot see is not ours. Box is asked twice: one answer may be wrong, and the folder
        may be ours, made by a call whose answer was lost.
        """
        box, receipt = self._box, None
        for _ in range(2):
            try:
                place = Place.of(folder_id, "", box.list_folder(folder_id))
                if not place.files_by_id and not place.folders:
                    return place
                receipt = find_receipt(box, place, self._campaign.id)
                break
            except BoxError as exc:
                if exc.status_code not in (403, 404):
                    raise
        if receipt is None:
            logger.warning(
                "campaign %s (%s): Box folder %r (%s) contains items that are not ours; making another one",
                self._campaign.id, self._campaign.label, name, folder_id,
            )  # fmt: skip
            return None
        self.listed = {asset_id: str(entry.get("box_id")) for asset_id, entry in receipt.assets.items()}
        return place

    def below(self, root: Place, found: MasterAssets, known: Mapping[str, LedgerEntry]) -> dict[str, Place]:
        """The Box folder for every DAM folder on the way to an asset, with the planned names in each.

        In the campaign's own folder one name is reserved for the receipt. known: {asset id: entry} of the
        assets whose present revision is in Box; they keep their names.
        """
        folders, assets = _by_parent(found)
        waiting = [(found.folder_id or "", root)]
        while waiting:
            dam_id, place = waiting.pop()
            self._places[dam_id] = place
            below = sorted(folders[dam_id].values(), key=lambda folder: folder.id)
            here = sorted(assets[dam_id], key=lambda asset: asset.id)
            # Ordered by id, not by the DAM: earlier items choose first, so each run plans the same names.
            items = [(RECEIPT_KEY, RECEIPT_NAME)] if place is root else []
            items += [(folder.id, folder.name) for folder in below]
            items += [(asset.id, asset.name) for asset in here]
            pinned = {asset.id: known[asset.id].box_name for asset in here if asset.id in known}
            place.names.update(plan_names(items, pinned))
            for folder in below:
                made = self._places.get(folder.id)
                waiting.append(
                    (folder.id, made or self._sub_folder(place, place.names[folder.id], folder.id))
                )
        return self._places

    def _sub_folder(self, place: Place, name: str, dam_id: str) -> Place:
        """A folder below the campaign's own. One that a person made is used, and its files are
        not changed.
        """
        box = self._box
        for candidate in (name, *other_names(name, dam_id)):
            path, folder_id = f"{place.path}{candidate}/", place.folders.get(candidate)
            try:
                if folder_id is None:
                    return Place.of(box.create_folder(place.folder_id, candidate), path, BoxFolderListing())
            except NameTakenError as exc:
                if exc.folder_id is None:
                    continue
                folder_id = exc.folder_id
            except BoxError as exc:
                if exc.kind not in NAME_REFUSALS:
                    raise
                continue
            return Place.of(folder_id, path, box.list_folder(folder_id))
        raise BoxError(
            f"no free name for the folder {name!r} in the Box folder {place.path or '/'!r} of campaign"
            f" {self._campaign.label!r}",
            kind="name_taken",
            hint="rename or move the item that has this name there; the next run then continues",
        )


def _by_parent(found: MasterAssets) -> tuple[Mapping[str, dict[str, DamFolder]], Mapping[str, list[Asset]]]:
    """By parent folder in the DAM: the folders on the way to an asset ({id: folder}), and the assets."""
    folders: dict[str, dict[str, DamFolder]] = defaultdict(dict)
    assets: dict[str, list[Asset]] = defaultdict(list)
    for asset in found.assets:
        folder = asset.folder
        assets[folder.id].append(asset)
        while folder.parent is not None:
            folders[folder.parent.id][folder.id] = folder
            folder = folder.parent
    return folders, assets
