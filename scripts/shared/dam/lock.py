"""Locks and unlocks the metadata of a campaign in the DAM, to change its status."""

from __future__ import annotations

import logging
from collections.abc import Callable

from shared.base.errors import DamError
from shared.base.values import Campaign
from shared.dam.answers import as_list, compact, in_path
from shared.dam.session import DamSession
from shared.http.guards import within

logger = logging.getLogger(__name__)


def take(session: DamSession, campaign_id: str, read_campaign: Callable[[str], Campaign | None]) -> None:
    """Lock a campaign; one that an earlier run of ours left locked is already ours. Raises DamError."""
    try:
        _set_state(session, campaign_id, "lock")
    except DamError as exc:
        # The DAM reports by a status or in a list that it cannot lock, and names only the owner's login.
        campaign = read_campaign(campaign_id)
        if campaign is None or not campaign.locked_by:
            raise
        if campaign.locked_by == session.own_login():
            logger.info("an earlier run of ours left campaign %s locked", campaign_id)
            return
        raise DamError(
            f"campaign {campaign_id} is locked in the DAM by {campaign.locked_by}",
            kind="locked",
            hint="a run sets its status as soon as the lock is gone",
            retryable=True,
            item_id=campaign_id,
        ) from exc


def give_back(session: DamSession, campaign_id: str) -> None:
    """Unlock a campaign; a failure is logged, and the next run unlocks it."""
    try:
        _set_state(session, campaign_id, "unlock")
    except DamError as exc:
        logger.warning("could not unlock campaign %s: %s", campaign_id, exc)


def release(session: DamSession, campaign: Campaign) -> None:
    """Unlock a campaign that an earlier run of ours, which was killed, left locked; keep the locks of others.

    Raises DamError when the lock is ours and cannot be removed.
    """
    if campaign.locked_by and campaign.locked_by == session.own_login():
        logger.info("an earlier run of ours left campaign %s locked; unlocking it", campaign.id)
        _set_state(session, campaign.id, "unlock")


def _set_state(session: DamSession, campaign_id: str, action: str) -> None:
    """Lock or unlock a folder in the way of DAM_LOCK_STYLE: through the asset service, with the folder's id,
    as OpenText's UI does.
    """
    style = session.settings.lock_style
    if style == "none":
        return
    what = f"{action}ing campaign {campaign_id}"
    if style == "single":
        path = f"/assets/{in_path(campaign_id)}/state"
        session.write("PUT", path, what=what, item_id=campaign_id, data={"action": action})
        return
    context = {
        "asset_ids": [campaign_id],
        "type": "com.artesia.asset.selection.AssetIdsSelectionContext",
        "include_descendants": "NONE",
        "child_type": "ASSETS",
    }
    selection = compact({"selection_context_param": {"selection_context": context}})
    answer = session.write(
        "PUT",
        "/assets/state",
        what=what,
        item_id=campaign_id,
        data={"action": action, "selection_context": selection},
    )
    # A 200 may contain a failure (MARKDOWN_DOCS/DAM_AND_BOX.md).
    result = within(answer, "bulk_asset_result_representation", "bulk_asset_result")
    if not isinstance(result, dict):
        return
    failed = as_list(result.get("failed_object_list"))
    if failed or campaign_id not in as_list(result.get("successful_object_list")):
        raise DamError(
            f"{what}: the DAM refused: {compact(failed):.200}",
            kind="locked",
            retryable=True,
            item_id=campaign_id,
        )
