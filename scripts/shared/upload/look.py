"""Reads one campaign in the DAM, outside a run; writes nothing anywhere."""

from __future__ import annotations

from contextlib import closing
from datetime import datetime

from shared.base.values import Campaign, DamSettings, MasterAssets
from shared.dam.client import DamClient


def look(
    settings: DamSettings, campaign_id: str, now: datetime
) -> tuple[Campaign | None, MasterAssets | None]:
    """The campaign and its master assets as the DAM has them now; both None when it does not show the
    campaign.

    Raises DamError, ConfigError.
    """
    with closing(DamClient(settings, now=now)) as dam:
        campaign = dam.read_campaign(campaign_id)
        return campaign, None if campaign is None else dam.list_master_assets(campaign_id)
