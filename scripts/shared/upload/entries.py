"""Records the outcome of each campaign: one entry in the run's report, one line in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from shared.base.values import Campaign, CampaignResult, Outcome, RetryStatus
from shared.settings import Settings
from shared.upload.road import Arrival
from shared.upload.run_report import Report

logger = logging.getLogger("uploader")


@dataclass(slots=True)
class Entries:
    """Records campaigns as they end. Any thread may call it.

    is_chosen: these campaigns were named on the command line, so silence would look like success.
    has_mistyped: the DAM does not show one of them.
    """

    settings: Settings
    report: Report
    is_chosen: bool = False
    has_mistyped: bool = False

    def note(self, arrival: Arrival, *, error: str | None = None) -> None:
        """Record a campaign's outcome in the report and the log."""
        campaign, outcome = arrival.campaign, arrival.outcome
        most = arrival.max_attempts or self.settings.retry.max_retries
        self.report.campaigns.append(
            CampaignResult(
                campaign_id=campaign.id,
                campaign_number=campaign.number,
                campaign_name=campaign.name,
                outcome=outcome,
                attempt=arrival.attempt,
                max_attempts=most,
                assets=arrival.assets,
                bytes=arrival.size_bytes,
                error=error,
            )
        )
        cure = self._cure(campaign, outcome) if self.is_chosen else ""
        of_attempts = f", attempt {arrival.attempt} of {most}" if arrival.attempt else ""
        of_assets = f", {arrival.assets} assets, {arrival.size_bytes} bytes" if arrival.assets else ""
        is_news = outcome is not Outcome.SKIPPED_PERMANENTLY_FAILED
        logger.log(
            logging.WARNING if cure else logging.INFO if is_news else logging.DEBUG,
            "campaign %s (%s): %s%s%s%s",
            campaign.id, campaign.label, outcome, of_attempts, of_assets, cure,
            extra={"action": "campaign_done", "campaign_id": campaign.id, "outcome": outcome.value},
        )  # fmt: skip

    def skip(self, campaign: Campaign, retry: RetryStatus) -> None:
        """Record a permanently failed campaign, which the run skips."""
        limit = self.settings.retry.limit(retry)
        self.note(Arrival(campaign, Outcome.SKIPPED_PERMANENTLY_FAILED, retry.retry_count, limit))
        if not self.is_chosen:
            return
        since = retry.last_retry_at
        logger.warning(
            "skipped campaign %s (%s): it is permanently failed since %s (%s); reset it with: %s",
            campaign.id, campaign.label,
            f"{since.astimezone(self.settings.timezone):%Y-%m-%d %H:%M %Z}" if since else "an unknown time",
            retry.failure_reason or "no reason on record", self.settings.commands.reset(campaign.id),
            extra={"action": "campaign_skipped", "campaign_id": campaign.id},
        )  # fmt: skip

    def _cure(self, campaign: Campaign, outcome: Outcome) -> str:
        """What to say about a chosen campaign for which nothing could be done."""
        if outcome is Outcome.NOT_FOUND:
            self.has_mistyped = True
            return (
                "; our DAM user sees no campaign with this id. Check it: the id is not the campaign's number"
            )
        if outcome is Outcome.NOT_A1:
            return f"; it is in {campaign.status}, so there is nothing to do"
        return ""
