"""Calls the DAM: the parts of OpenText Media Management's REST API v6 that the A1→A2 job needs.

MARKDOWN_DOCS/DAM_AND_BOX.md says which facts about the API are confirmed, inferred or unknown. Facts that are
not confirmed are settings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from copy import copy
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any

from shared.base.errors import DamError
from shared.base.values import Campaign, DamFolder, DamSettings, MasterAssets, SearchHit
from shared.dam import download, lock
from shared.dam.answers import (
    Page,
    all_pages,
    asset_of,
    clean_text,
    compact,
    field_code,
    field_ids,
    in_path,
    is_folder,
    is_gone,
    items_of,
    mapping,
    search_page,
    size_of,
)
from shared.dam.calls import Calls
from shared.dam.download import AssetBody
from shared.dam.session import DamSession
from shared.dam.tree import Child, Listings, assets_below
from shared.http.ahead import Ahead, PagesAhead

logger = logging.getLogger(__name__)


class DamClient:
    """The DAM's client. Raises DamError for failures of the DAM, ConfigError for wrong settings; DamSession
    repeats calls and renews sessions. now, wait: see `Calls`.
    """

    def __init__(
        self,
        settings: DamSettings,
        *,
        now: datetime,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._session = DamSession(Calls(settings, now, wait))
        self._settings = settings

    def guarded(self, ensure_held: Callable[[], None]) -> DamClient:
        """The same client. ensure_held is called before each try of a write; if it raises, the try is not
        made.
        """
        twin = copy(self)
        twin._session = self._session.guarded(ensure_held)
        return twin

    def close(self) -> None:
        """Log out and drop the connections."""
        self._session.close()

    def connect(self) -> None:
        """Open a connection ahead of a call. May be called by any thread."""
        self._session.calls.connect()

    def log_in(self) -> None:
        """Log in ahead of a call. Raises DamError, ConfigError."""
        self._session.login.ensure()

    # Campaigns

    def find_campaigns(self, *, is_anywhere: bool = False) -> list[SearchHit]:
        """The folders below the campaigns folder, or anywhere, whose status matches A1 in the search index,
        each once.

        The index lags, and CONTAINS also finds A10, so a hit is only a hint: `read_campaign` decides.
        """
        settings = self._settings
        condition = {
            "type": "com.artesia.search.SearchScalarCondition",
            "metadata_field_id": settings.status_field_id,
            "relational_operator_id": settings.search_operator_id,
            "value": settings.status_a1,
        }
        form = {
            "keyword_query": "*",
            "search_config_id": settings.search_config_id,
            "load_type": "metadata",
            "level_of_detail": "slim",
            "metadata_to_return": f"{settings.status_field_id},{settings.number_field_id}",
            "search_condition_list": compact({"search_condition_list": {"search_condition": [condition]}}),
        }
        if not is_anywhere:
            form |= {"folder_filter": settings.campaigns_folder_id, "folder_filter_type": "all"}
        what = f"searching for campaigns in {settings.status_a1}"

        total: object = None

        def hit_of(item: dict[str, Any]) -> SearchHit | None:
            is_file = not is_folder(item) and size_of(item) is not None
            status = field_code(item, settings.status_field_id)
            is_hit = not is_file and status in (None, settings.status_a1)
            return SearchHit(item["asset_id"], status) if is_hit else None

        def fetch(after: int) -> Page[SearchHit]:
            nonlocal total
            page = {**form, "after": str(after), "limit": str(settings.page_size)}
            answer = self._session.read_json("POST", "/search/text", what=what, data=page)
            found, total = search_page(mapping(answer, "search_result_resource", what), what)
            return [(item["asset_id"], hit_of(item)) for item in found]

        # OpenText's own client pages by this count.
        return list(all_pages(fetch, what, None, lambda after, _: after == total))

    def read_campaign(self, campaign_id: str) -> Campaign | None:
        """The campaign's present record in the DAM; None when it is gone or no longer visible (both 404)."""
        what = f"reading campaign {campaign_id}"
        try:
            folder = self._read_folder(campaign_id, what)
        except DamError as exc:
            if exc.status_code == 404:
                return None
            raise
        if folder.get("asset_id") not in (None, campaign_id):
            raise DamError(
                f"{what}: the DAM answered with {folder['asset_id']!r:.80}",
                kind="bad_answer",
                retryable=True,
                item_id=campaign_id,
            )
        if is_gone(folder):
            return None
        is_locked = folder.get("locked") is True
        return Campaign(
            id=campaign_id,
            number=clean_text(field_code(folder, self._settings.number_field_id) or ""),
            name=clean_text(folder.get("name")) or campaign_id,
            status=field_code(folder, self._settings.status_field_id),
            locked_by=clean_text(folder.get("metadata_lock_state_user_name")) if is_locked else None,
        )

    def _read_folder(self, folder_id: str, what: str) -> dict[str, Any]:
        answer = self._session.read_json(
            "GET", f"/folders/{in_path(folder_id)}", what=what, item_id=folder_id,
            params={"load_type": "metadata", "level_of_detail": "slim"},
        )  # fmt: skip
        return mapping(mapping(answer, "folder_resource", what), "folder", what)

    def fields_of(self, folder_id: str) -> set[str]:
        """The ids of the metadata fields of a folder, including empty ones."""
        return field_ids(self._read_folder(folder_id, f"reading the fields of folder {folder_id}"))

    def folders_below(self, folder_id: str, count: int) -> Iterator[str]:
        """At most this many folders of each of the first two levels below a folder."""
        above = [folder_id]
        for _level in range(2):
            below: list[str] = []
            for parent_id in above:
                children = self._list_children(DamFolder(parent_id, "", None), is_campaign=True)
                with closing(children):
                    below += [child.id for child in islice(children, count - len(below))]
            yield from below
            above = below

    def change_status(self, campaign_id: str, *, expected: str, new: str) -> Campaign | None:
        """Set the status under a metadata lock, if it is still `expected`; return the campaign, read again.

        1. lock, 2. read again, 3. PATCH, 4. unlock (always), 5. read again. We ignore the answer to the
        PATCH: the DAM answers 404 to a save after which the folder is no longer visible, and a lost answer
        may have been a success. Raises DamError when the status did not become `new`.
        """
        lock.take(self._session, campaign_id, self.read_campaign)
        refusal: DamError | None = None
        try:
            before = self.read_campaign(campaign_id)
            if before is None or before.status != expected:
                return before
            try:
                self._patch_status(campaign_id, new)
            except DamError as exc:
                refusal = exc
        finally:
            lock.give_back(self._session, campaign_id)
        after = self.read_campaign(campaign_id)
        if after is not None and after.status == new:
            return after
        if refusal is not None:
            raise refusal
        shown = "no longer visible" if after is None else f"still {after.status!r}"
        raise DamError(
            f"campaign {campaign_id}: the DAM accepted status {new} but shows the campaign as {shown}",
            kind="status_not_kept",
            hint="check the status field's workflow and the permissions of the DAM user",
            item_id=campaign_id,
        )

    def release_lock(self, campaign: Campaign) -> None:
        """Unlock a campaign that an earlier run of ours, which was killed, left locked; keep the locks of
        others.

        Raises DamError when the lock is ours and cannot be removed: a later run must look again.
        """
        lock.release(self._session, campaign)

    # Master Assets

    def list_master_assets(self, campaign_id: str) -> MasterAssets:
        """Every live file below the campaign's Master Assets folder, including sub-folders, each once.

        Lists until an empty last page, on a valid session: only this proves that a folder is empty. An item
        in several folders is taken from the first one found. Raises DamError when anything could not be read,
        when two folders have the name, and when an asset has no content yet.
        """
        name = self._settings.master_assets_folder
        found = self._list_children(DamFolder(campaign_id, "", None), is_campaign=True)
        roots = [child.id for child in found if isinstance(child, DamFolder) and child.name == name]
        if len(roots) > 1:
            raise DamError(
                f'campaign {campaign_id} has {len(roots)} folders named "{name}"',
                kind="ambiguous_folder",
                hint="merge or rename them in the DAM",
                item_id=campaign_id,
            )
        if not roots:
            return MasterAssets(folder_id=None)
        root = DamFolder(roots[0], name, None)
        children: Listings = Ahead(lambda folder: list(self._list_children(folder)))
        with closing(children):
            return MasterAssets(root.id, assets_below(root, campaign_id, children))

    def open_asset(
        self, asset_id: str, start: int = 0, *, size_bytes: int | None = None
    ) -> AbstractContextManager[AssetBody]:
        """The bytes of an asset's master file from `start` on, as a stream. May be called by any thread.

        size_bytes: of the whole file, as the DAM declares it; an answer with another size is checked again.
        """
        return download.open_asset(self._session, asset_id, start, size_bytes)

    def _list_children(self, folder: DamFolder, *, is_campaign: bool = False) -> Generator[Child]:
        """The live children of a folder, each once; of a campaign's folder, only its sub-folders."""
        page_size = self._settings.page_size
        what = f"listing folder {folder.id}"
        path = f"/folders/{in_path(folder.id)}/children"
        load = {"data_load_request": {"load_asset_content_info": True}}
        live_only = {"asset_filter_request_param": {"asset_filter_request": {"exclude_deleted_assets": True}}}

        def child_of(item: dict[str, Any]) -> Child | None:
            if is_gone(item):
                return None
            if is_folder(item):
                return DamFolder(item["asset_id"], clean_text(item.get("name")) or item["asset_id"], folder)
            if is_campaign:
                return None
            asset = asset_of(item, folder)
            return asset if self._settings.compares_checksums else replace(asset, md5=None)

        def fetch(after: int) -> Page[Child]:
            params = {
                "load_type": "custom",
                "level_of_detail": "full",
                "data_load_request": compact(load),
                "asset_filter_request": compact(live_only),
                "after": str(after),
                "limit": str(page_size),
            }
            answer = self._session.read_json("GET", path, what=what, item_id=folder.id, params=params)
            items = items_of(mapping(answer, "folder_children", what).get("asset_list"), what)
            return [(item["asset_id"], child_of(item)) for item in items]

        with closing(PagesAhead(fetch, page_size)) as pages:
            found: Iterator[Child] = all_pages(pages, what, folder.id)
            yield from found

    # Writing

    def _patch_status(self, campaign_id: str, new: str) -> None:
        is_folder = self._settings.patch_resource == "folders"
        field = {
            "id": self._settings.status_field_id,
            "type": "com.artesia.metadata.MetadataField",
            "value": {"value": {"type": "string", "value": new}},
        }
        self._session.write(
            "PATCH",
            f"/{self._settings.patch_resource}/{in_path(campaign_id)}",
            what=f"setting campaign {campaign_id} to {new}",
            item_id=campaign_id,
            json_body={"edited_folder" if is_folder else "edited_asset": {"data": {"metadata": [field]}}},
        )
