"""Processes one campaign, from A1 to A2. Start with `travel` and read from top to bottom.

The function blocks where it waits, and raises its errors. It knows one campaign, and nothing about the run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from shared.base.errors import AppError, DamError, StoppedError
from shared.base.values import (
    GONE,
    Attempt,
    Campaign,
    MasterAssets,
    Notice,
    NoticeKind,
    Outcome,
    Overtaken,
    RetryStatus,
    Trouble,
    UploadTotals,
)
from shared.database import Database
from shared.notices.outbox import Outbox
from shared.notifier import Composer
from shared.rules.cadence import A1_TO_A2_INTERVAL_MINUTES, next_run
from shared.rules.outlook import attempts_to_come
from shared.rules.retry import (
    Action,
    auto_reset_at,
    count,
    days_until_again,
    decide,
    notice_for,
    reason_for,
    reset,
)
from shared.settings import Settings
from shared.upload.lasting_errors import LastingErrors
from shared.upload.ledger import Ledger
from shared.upload.standing import Followed, Standing

if TYPE_CHECKING:
    from shared.dam.client import DamClient
    from shared.upload.copier import Copier
    from shared.upload.transfer import CampaignTransfer
    from shared.webhooks.hooks import Hooks

logger = logging.getLogger("uploader")

Clock = Callable[[], datetime]

LISTING_PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)
"""Seconds between a copy and the listing that shows whether it is complete: longer while a campaign keeps
changing. After the last one, the campaign is left to the next run.
"""
MOST_LOOKS = 4
"""How often a campaign is started again because something in it was deleted in the meantime."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the work on a campaign needs.

    database, dam: their writes check that we still hold the campaign, so that a run that lost it does nothing
    more. began: when the run began, which is the time of its attempts. check: raises StoppedError when the
    run must stop. asking: limits how many campaigns ask the DAM at once; raises StoppedError when the run has
    ended. copier: for that database, made when the first files are copied. wait: waits for some seconds;
    raises StoppedError when the run must stop. transferring: gets the campaign's transfer while its files are
    copied. on_notice: called when a notice has been queued. hooks: None when the settings have no webhook.
    """

    settings: Settings
    database: Database
    dam: DamClient
    composer: Composer
    clock: Clock
    began: datetime
    run_id: str
    is_dry_run: bool
    check: Callable[[], None]
    wait: Callable[[float], None]
    asking: Callable[[], AbstractContextManager[None]]
    transferring: Callable[[datetime], AbstractContextManager[None]]
    copier: Callable[[Database], Copier]
    on_notice: Callable[[], None]
    hooks: Hooks | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """The outcome of a campaign in this run. max_attempts: None: the limit of all campaigns."""

    campaign: Campaign
    outcome: Outcome
    attempt: int = 0
    max_attempts: int | None = None
    assets: int = 0
    size_bytes: int = 0


def travel(context: Context, known: Campaign, retry: RetryStatus) -> Arrival:
    """Process one campaign as far as possible in this run. known: from its row, or only its id.

    An item that answers 404 may just have been deleted. The campaign is then started again, as the next run
    would do. Raises AppError with its campaign, and StoppedError as long as no file is being copied.
    """
    if retry.permanently_failed:
        retry = _begin_anew(context, retry)
    missing: set[str | None] = set()
    while True:
        try:
            return _travel(context, known, retry)
        except AppError as exc:
            if not exc.is_missing or exc.item_id in missing or len(missing) == MOST_LOOKS:
                raise
            context.check()
            missing.add(exc.item_id)
            logger.info("looking at campaign %s again: %s", known.id, exc)


def _begin_anew(context: Context, retry: RetryStatus) -> RetryStatus:
    """Begin a new cycle, after A1_AUTO_RESET_DAYS of permanent failure; returns the campaign's new state."""
    days = context.settings.retry.auto_reset_days
    with context.database.transaction():
        context.database.act_as("auto", "auto", f"A1_AUTO_RESET_DAYS={days}")
        context.database.reset_a1_retry(retry.campaign_id)
    logger.info(
        "campaign %s begins cycle %d by itself: it has been permanently failed for %d days",
        retry.campaign_id, retry.cycle + 1, days,
        extra={"action": "auto_reset", "campaign_id": retry.campaign_id},
    )  # fmt: skip
    return reset(retry, is_automatic=True)


def _travel(context: Context, known: Campaign, retry: RetryStatus) -> Arrival:
    settings, dam, database = context.settings, context.dam, context.database

    # The search is only a hint: the DAM's own record decides.
    context.check()
    with context.asking():
        campaign = dam.read_campaign(known.id)
    if campaign is None:  # `left_behind` decides whether it is gone for good
        return Arrival(known, Outcome.NOT_FOUND)
    with _about(campaign):
        if campaign.status != settings.dam.status_a1:
            return leave(context, campaign)
        if not context.is_dry_run:
            Standing(database).record_in_a1(campaign)
        context.check()
        with context.asking():
            if not context.is_dry_run:
                dam.release_lock(campaign)
            found = dam.list_master_assets(campaign.id)

        # Nothing but a proven empty or missing folder spends an attempt.
        action = decide(retry, found, settings.retry, context.began)
        if action is not Action.UPLOAD:
            return _empty(context, campaign, found, retry, action)
        if context.is_dry_run:
            would = Arrival(campaign, Outcome.WOULD_UPLOAD, retry.retry_count, settings.retry.limit(retry))
            return replace(would, assets=len(found.assets), size_bytes=found.size_bytes)

        # Once all files are in Box, a stop waits for A2.
        context.check()
        from shared.upload.transfer import CampaignTransfer  # an idle run does not need it

        began = context.clock()
        try:
            with context.transferring(began):
                transfer = CampaignTransfer(context.copier(database), campaign, settings.box.root_folder_id)
                copied = _copy_until_settled(context, transfer, found)
                action = decide(retry, copied, settings.retry, context.began)
                if action is not Action.UPLOAD:
                    return _empty(context, campaign, copied, retry, action)
                transfer.write_receipt(context.run_id, context.clock())
            after = _move_to_a2(context, campaign)
        except StoppedError:
            return Arrival(campaign, Outcome.INTERRUPTED, retry.retry_count)
        return leave(context, after or campaign, is_gone=after is None, began=began)


def _copy_until_settled(context: Context, transfer: CampaignTransfer, found: MasterAssets) -> MasterAssets:
    """Copy until the folder shows exactly what was copied, or no asset at all; returns the last listing."""
    campaign_id = transfer.campaign.id
    for pause in LISTING_PAUSES:
        transfer.copy(found)
        if pause:
            logger.info("campaign %s keeps changing; listing it again in %g s", campaign_id, pause)
            context.wait(pause)
        with context.asking():
            again = context.dam.list_master_assets(campaign_id)
        if transfer.is_settled_by(again) or not again.assets:
            return again
        logger.info("campaign %s has other assets than were copied", campaign_id)
        found = again
    raise DamError(
        f"the assets of campaign {campaign_id} changed over {len(LISTING_PAUSES)} listings, the last one that"
        f" changed: {transfer.first_difference(found)}",
        kind="keeps_changing",
        hint="it goes to A2 when two listings in a row agree",
        retryable=True,
        item_id=campaign_id,
    )


def _move_to_a2(context: Context, campaign: Campaign) -> Campaign | None:
    """Ask the DAM for A2; returns the campaign as the DAM shows it afterwards, None when it is gone."""
    dam = context.settings.dam
    # Recorded before we ask: when this run is killed in between, the next one completes the upload (`leave`).
    Standing(context.database).request_a2(campaign.id)
    with context.asking():
        after = context.dam.change_status(campaign.id, expected=dam.status_a1, new=dam.status_a2)
    if after is None or after.status != dam.status_a2:
        logger.warning("campaign %s left %s while its assets were copied", campaign.id, dam.status_a1)
    return after


@contextmanager
def _about(campaign: Campaign) -> Iterator[None]:
    """Add the campaign to an error that passes here, with the names that the DAM showed."""
    try:
        yield
    except AppError as exc:
        exc.campaign = campaign
        raise


def _empty(
    context: Context, campaign: Campaign, found: MasterAssets, retry: RetryStatus, action: Action
) -> Arrival:
    """Handle an empty or missing folder: count an attempt, unless it is too early to count, or files are
    promised.
    """
    policy = context.settings.retry
    if action is Action.COUNT_ATTEMPT:
        if not context.is_dry_run:
            return _count_attempt(context, campaign, found, retry)
        _, would_be = count(retry, policy, context.began)
        return Arrival(campaign, _empty_outcome(found), would_be.number, policy.limit(retry))
    if not context.is_dry_run:
        # The folder could be listed, so earlier errors are over.
        LastingErrors(context.database).clear(campaign.id)
    outcome = Outcome.SNOOZED if action is Action.SNOOZE else Outcome.WAITING
    return Arrival(campaign, outcome, retry.retry_count, policy.limit(retry))


def _empty_outcome(found: MasterAssets) -> Outcome:
    return Outcome.FOLDER_MISSING if found.folder_id is None else Outcome.EMPTY


def _count_attempt(context: Context, campaign: Campaign, found: MasterAssets, retry: RetryStatus) -> Arrival:
    """Count an attempt and queue its notice, in one transaction. PostgreSQL decides whether it counts: a
    person may have reset or snoozed the campaign since the run read its state.
    """
    settings, database, now = context.settings, context.database, context.clock()
    reason = reason_for(found, settings.dam.master_assets_folder)
    expected, _ = count(retry, settings.retry, context.began)
    ahead = _attempts_ahead(context, expected)  # it may take a moment, so not while the row is locked
    with database.transaction():
        attempt = database.increment_a1_retry(
            campaign.id,
            campaign.number,
            campaign.name,
            reason,
            status=campaign.status or "",
            at=context.began,
        )
        LastingErrors(database).clear(campaign.id)
        kind = notice_for(attempt)
        if kind is None:
            is_failed = attempt.permanently_failed
            outcome = Outcome.SKIPPED_PERMANENTLY_FAILED if is_failed else Outcome.SNOOZED
            return Arrival(campaign, outcome, attempt.number, attempt.max_attempts)
        notice = _empty_notice(context, campaign, kind, attempt, expected, ahead, reason=reason, now=now)
        Outbox(database).queue(notice)
        if context.hooks and attempt.permanently_failed:
            context.hooks.permanently_failed(
                database,
                campaign,
                attempt=attempt.number,
                max_attempts=attempt.max_attempts or settings.retry.limit(retry),
                cycle=attempt.cycle,
                reason=reason,
                now=now,
            )
    context.on_notice()
    outcome = Outcome.PERMANENTLY_FAILED if attempt.permanently_failed else _empty_outcome(found)
    return Arrival(campaign, outcome, attempt.number, attempt.max_attempts)


def _empty_notice(
    context: Context,
    campaign: Campaign,
    kind: NoticeKind,
    attempt: Attempt,
    expected: RetryStatus,
    ahead: Sequence[datetime],
    *,
    reason: str,
    now: datetime,
) -> Notice:
    """The notice of an attempt, in the transaction that counts it. expected: the campaign's state as the run
    thought the attempt would leave it; ahead: when its remaining attempts would then count.
    """
    settings, composer = context.settings, context.composer
    overtaken = Outbox(context.database).overtaken(
        kind, campaign.id, composer.error_recipients, cycle=attempt.cycle
    )
    if kind is NoticeKind.PERMANENT:
        again_at = auto_reset_at(replace(expected, permanently_failed=True), settings.retry)
        return composer.permanent(
            campaign, attempt, reason=reason, again_at=again_at, overtaken=overtaken, now=now
        )
    planned = next_run(A1_TO_A2_INTERVAL_MINUTES, context.began, settings.timezone, settings.off_hours)
    return composer.retry(
        campaign,
        attempt,
        reason=reason,
        next_run_at=planned.at,
        ahead=ahead if attempt.number == expected.retry_count else (),
        again_days=days_until_again(expected, settings.retry),
        overtaken=overtaken,
        now=now,
    )


def _attempts_ahead(context: Context, status: RetryStatus) -> tuple[datetime, ...]:
    """When the remaining attempts would count. It is the same for all campaigns in the same state."""
    alike = RetryStatus(
        "",
        retry_count=status.retry_count,
        last_retry_at=status.last_retry_at,
        permanently_failed=status.permanently_failed,
        max_retries=status.max_retries,
        snoozed_until=status.snoozed_until,
    )
    settings = context.settings
    return attempts_to_come(alike, settings.retry, context.began, settings.timezone, settings.off_hours)


def leave(
    context: Context, campaign: Campaign, *, is_gone: bool = False, began: datetime | None = None
) -> Arrival:
    """Handle a campaign that is not in A1: update its row, and complete an upload that had reached A2.

    An upload records that it asks the DAM for A2 before it asks, so when that run is killed, the next one
    completes the upload here. began: when this run began to upload, None when it did not.
    """
    dam, database = context.settings.dam, context.database
    left = Arrival(campaign, Outcome.NOT_FOUND if is_gone else Outcome.NOT_A1)
    if context.is_dry_run:
        return left
    # Before the row is updated: after that, no run looks at the campaign again.
    context.dam.release_lock(campaign)
    with database.transaction():
        followed = Standing(database).follow_status(campaign.id, GONE if is_gone else campaign.status)
        if followed is None:
            return left
        failing_since = LastingErrors(database).clear(campaign.id)
        if is_gone or followed.a2_requested_at is None or campaign.status != dam.status_a2:
            if context.hooks and failing_since and not followed.permanently_failed:
                status = GONE if is_gone else campaign.status or ""
                context.hooks.left(database, campaign, status, context.clock())
            return left
        troubles = Outbox(database).troubles(campaign.id)  # before this upload is on record
        database.act_as("", "upload", "its assets are in Box")
        database.reset_a1_retry(campaign.id)
        totals = Ledger(database).upload_totals(campaign.id)
        Ledger(database).record_campaign_upload(campaign.id, totals, context.run_id, began)
        told = _tell_arrival(context, campaign, followed, totals, troubles, failing_since)
        if context.hooks:
            context.hooks.recovered(database, campaign, totals, context.clock())
    for _ in range(told):
        context.on_notice()
    return Arrival(campaign, Outcome.UPLOADED, assets=totals.assets, size_bytes=totals.size_bytes)


def _tell_arrival(
    context: Context,
    campaign: Campaign,
    followed: Followed,
    totals: UploadTotals,
    troubles: Sequence[Trouble],
    failing_since: datetime | None,
) -> int:
    """Queue the notice that the campaign is in A2, for those who got a notice of its problems and for those
    who get one of each success; returns how many notices. failing_since: of the errors that are now over.
    """
    outbox, composer, now = Outbox(context.database), context.composer, context.clock()
    folder_id = followed.box_folder_id or ""
    if troubles:
        recipients = tuple(sorted({one for trouble in troubles for one in trouble.recipients}))
        recovered = composer.recovered(
            campaign,
            totals,
            troubles,
            recipients=recipients,
            since=_began(troubles, failing_since),
            box_folder_id=folder_id,
            cycle=followed.cycle,
            overtaken=outbox.overtaken(NoticeKind.RECOVERED, campaign.id, recipients, cycle=None),
            now=now,
        )
        outbox.queue(recovered)
    overtaken: tuple[Overtaken, ...] = ()
    if followed.attempts:  # without attempts no retry notice can be waiting
        overtaken = outbox.overtaken(
            NoticeKind.SUCCESS, campaign.id, composer.success_recipients, cycle=followed.cycle
        )
    success = composer.success(
        campaign, totals, box_folder_id=folder_id, cycle=followed.cycle, overtaken=overtaken, now=now
    )
    if success is not None:
        outbox.queue(success)
    return bool(troubles) + (success is not None)


def _began(troubles: Sequence[Trouble], failing_since: datetime | None) -> datetime:
    """When the first of these problems began: an error began before its first notice."""
    begins = [trouble.since for trouble in troubles]
    if failing_since and any(trouble.kind is NoticeKind.ERROR for trouble in troubles):
        begins.append(failing_since)
    return min(begins)
