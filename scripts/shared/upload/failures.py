"""Handles the campaigns that failed in a run: decides which make a notice, and the exit code."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta

from shared.base.errors import AppError, DbError, ExitCode
from shared.base.values import Campaign, Outcome, RetryStatus
from shared.notices.outbox import Outbox
from shared.rules.alerts import HEALING_PATIENCE
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, next_run
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.road import Context

logger = logging.getLogger("uploader")


@dataclass(frozen=True, slots=True)
class Failure:
    """A campaign that failed. context: the one it was processed with."""

    context: Context
    campaign: Campaign
    error: AppError
    retry: RetryStatus


@dataclass(slots=True)
class Failures:
    """The failures of a run, or of some time of a worker, from all threads.

    A failure of a whole system waits for the end: only then is it clear whether the system answered for
    other campaigns.
    """

    waiting: list[Failure] = field(default_factory=list)
    systemic: list[AppError] = field(default_factory=list)
    """After the end: those of a whole system."""
    has_failed: bool = False
    has_bug: bool = False

    def note(self, failure: Failure) -> Outcome:
        """Record a failure; returns its outcome for the report. Raises DbError when the database is away."""
        campaign, error = failure.campaign, failure.error
        logger.warning(
            "campaign %s (%s) %s: %s", campaign.id, campaign.label,
            "is left for the next run" if error.heals_by_itself else "failed", error,
            extra={"action": "campaign_failed", "campaign_id": campaign.id, "kind": error.kind},
        )  # fmt: skip
        if error.is_system_wide:
            self.waiting.append(failure)
            return Outcome.FAILED
        return self._report(failure)

    def raise_if_box_is_down(self, *, has_brought: bool) -> None:
        """Raise Box's error if Box has answered no campaign: the next one would wait just as long for it."""
        for failure in self.waiting:
            if failure.error.system == "Box" and not has_brought:
                raise failure.error

    def conclude(self, *, is_interrupted: bool, answered: Collection[str]) -> ExitCode:
        """The exit code of the run. answered: the systems that have answered for some campaign.

        A DAM or Box that failed for every campaign is not a campaign's fault, so no campaign gets an e-mail.
        The exit code reports it, and the loop sends an e-mail when it continues.
        """
        while self.waiting:
            failure = self.waiting.pop(0)
            error = failure.error
            if error.is_out_of_reach and error.system in answered:
                self._report(failure)
            else:
                self.systemic.append(error)
        if self.has_bug:
            return ExitCode.BUG
        if self.has_failed:
            return ExitCode.SOME_FAILED
        if self.systemic:
            return max(
                (error.exit_code for error in self.systemic), key=lambda code: code is ExitCode.BAD_CONFIG
            )
        return ExitCode.TRY_LATER if is_interrupted else ExitCode.OK

    def _report(self, failure: Failure) -> Outcome:
        """An error notice when this kind of failure begins, and at most once a day while it continues.

        A failure that usually ends by itself leaves the campaign to the next run. It counts as a failure, and
        makes a notice, when it has continued for longer than HEALING_PATIENCE.
        """
        is_young = failure.error.heals_by_itself
        if not failure.context.is_dry_run:
            try:
                is_young = _remember(failure)
            except DbError as exc:
                if exc.ends_run:
                    raise
                logger.error(
                    "campaign %s: no error notice can be stored; this line is the only notice: %s",
                    failure.campaign.id, exc,
                    extra={"action": "notice_not_stored", "campaign_id": failure.campaign.id},
                )  # fmt: skip
        if is_young:
            return Outcome.POSTPONED
        self.has_failed = True
        return Outcome.FAILED


def _remember(failure: Failure) -> bool:
    """Store a failure, and queue its notice if one is due; returns whether it may still end by itself."""
    context, campaign, error = failure.context, failure.campaign, failure.error
    kind = f"{error.system}/{error.kind}"
    patience = HEALING_PATIENCE if error.heals_by_itself else timedelta(0)
    with context.database.transaction():
        lasting = LastingErrors(context.database).note(campaign.id, kind, str(error), patience)
        if lasting.is_notice_due:
            notice = context.composer.error(
                campaign,
                message=error.message,
                hint=error.hint,
                kind=kind,
                began_at=lasting.began_at,
                is_reminder=lasting.is_reminder,
                retry=failure.retry,
                next_run_at=next_run(
                    A1_TO_A2_INTERVAL_MINUTES,
                    context.began,
                    context.settings.timezone,
                    context.settings.off_hours,
                ).at,
                box_folder_id=Ledger(context.database).box_folder_of(campaign.id),
                now=context.clock(),
            )
            Outbox(context.database).queue(notice)
            if context.hooks:
                context.hooks.erring(
                    context.database,
                    campaign,
                    cycle=failure.retry.cycle,
                    attempt=failure.retry.retry_count,
                    kind=kind,
                    message=error.message,
                    hint=error.hint,
                    began_at=lasting.began_at,
                    is_reminder=lasting.is_reminder,
                    now=context.clock(),
                )
    if lasting.is_notice_due:
        context.on_notice()
    return lasting.is_young
