"""Makes notices from facts. Pure: it uses only its arguments and the templates; time is an argument.

notices.wording has the parts of the e-mails; notices.mailer and notices.delivery send them. `Mailer` and
`build_message` can be imported from here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from shared.base.commands import Commands
from shared.base.links import FOLDER_ID, NO_LINKS, Links
from shared.base.values import (
    NO_ORIGIN,
    Attempt,
    Campaign,
    Notice,
    NoticeKind,
    NoticeLine,
    Origin,
    Overtaken,
    RetryStatus,
    Trouble,
    UploadTotals,
)
from shared.notices.mailer import Mailer
from shared.notices.message import build_message
from shared.notices.systems import system_of
from shared.notices.wording import (
    assets_and_size,
    human_size,
    is_for_engineer,
    local_time,
    one_line,
    plain_duration,
    rendered,
    reset_sql,
    sentence,
    small_print,
    takes_place_of,
)
from shared.rules.alerts import AlertNews

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from shared.report.figures import DayReport
    from shared.report.week import WeekReport

__all__ = ["EXIT_CODE_MEANINGS", "Composer", "Mailer", "build_message", "task_alert", "webhook_off"]


USUAL_BOX: Final = Links(box=f"https://app.box.com/folder/{FOLDER_ID}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composer:
    """Turns facts into notices. Has the values that all notices share; time is an argument.

    timezone: the zone people read times in. max_attempts: of a campaign without a limit of its own.
    folder_name: the folder for the files. commands, links: of this installation, for people to paste and to
    open. origin: for the small print.
    """

    timezone: ZoneInfo
    max_attempts: int
    folder_name: str
    commands: Commands
    links: Links = NO_LINKS
    origin: Origin = NO_ORIGIN
    error_recipients: tuple[str, ...]
    success_recipients: tuple[str, ...]
    report_recipients: tuple[str, ...] = ()

    def retry(
        self,
        campaign: Campaign,
        attempt: Attempt,
        *,
        reason: str,
        next_run_at: datetime,
        again_days: int = 0,
        ahead: Sequence[datetime] = (),
        overtaken: Sequence[Overtaken] = (),
        now: datetime,
    ) -> Notice:
        """The retry notice: an empty folder that runs will look at again. next_run_at: when, by the cadence.

        ahead: when the remaining attempts would count, as far as known. again_days: after this many days a
        permanently failed campaign is reset by itself; 0: never.
        """
        remaining = max(0, (attempt.max_attempts or self.max_attempts) - attempt.number)
        next_attempt_at = ahead[0] if ahead else next_run_at
        is_known = bool(ahead) and len(ahead) == remaining
        give_up_at = ahead[-1] if is_known else next_attempt_at if remaining <= 1 else None
        return self._notice(
            NoticeKind.RETRY,
            campaign,
            self.error_recipients,
            now,
            attempt=attempt.number,
            max_attempts=attempt.max_attempts,
            cycle=attempt.cycle,
            overtaken=overtaken,
            remaining=remaining,
            reason=one_line(reason),
            detail=one_line(reason),
            next_run=local_time(next_run_at, self.timezone),
            next_attempt=local_time(next_attempt_at, self.timezone),
            is_every_look_counted=next_attempt_at == next_run_at,
            again_days=again_days,
            give_up=local_time(give_up_at, self.timezone) if give_up_at else "",
        )

    def permanent(
        self,
        campaign: Campaign,
        attempt: Attempt,
        *,
        reason: str,
        again_at: datetime | None = None,
        overtaken: Sequence[Overtaken] = (),
        now: datetime,
    ) -> Notice:
        """The permanent-failure notice: the last attempt is spent. again_at: when it is reset by itself."""
        return self._notice(
            NoticeKind.PERMANENT,
            campaign,
            self.error_recipients,
            now,
            attempt=attempt.number,
            max_attempts=attempt.max_attempts,
            cycle=attempt.cycle,
            overtaken=overtaken,
            reason=one_line(reason),
            detail=one_line(reason),
            again=local_time(again_at, self.timezone) if again_at else "",
            reset_sql=reset_sql(campaign.id),
            reset_command=self.commands.reset(campaign.id),
        )

    def success(
        self,
        campaign: Campaign,
        totals: UploadTotals,
        *,
        box_folder_id: str,
        cycle: int = 1,
        overtaken: Sequence[Overtaken] = (),
        now: datetime,
    ) -> Notice | None:
        """The success notice: a campaign reached A2. None without recipients. Without a folder id there is no
        link.
        """
        if not self.success_recipients:
            return None
        return self._notice(
            NoticeKind.SUCCESS,
            campaign,
            self.success_recipients,
            now,
            assets=totals.assets,
            size=human_size(totals.size_bytes),
            attempt=0,
            cycle=cycle,
            overtaken=overtaken,
            detail=assets_and_size(totals),
            box_url=self._box_url(box_folder_id),
        )

    def recovered(
        self,
        campaign: Campaign,
        totals: UploadTotals,
        troubles: Sequence[Trouble],
        *,
        recipients: tuple[str, ...],
        since: datetime,
        box_folder_id: str,
        cycle: int,
        overtaken: Sequence[Overtaken] = (),
        now: datetime,
    ) -> Notice:
        """The recovery notice: a campaign reached A2 after e-mails had reported a problem.

        troubles: at least one. since: when the first of them began. recipients: those who got these e-mails.
        """
        lasted = plain_duration(now - since)
        was = [_was(trouble) for trouble in troubles]
        return self._notice(
            NoticeKind.RECOVERED,
            campaign,
            recipients,
            now,
            assets=totals.assets,
            size=human_size(totals.size_bytes),
            attempt=0,
            cycle=cycle,
            overtaken=overtaken,
            was=was,
            began=local_time(since, self.timezone),
            duration=lasted,
            detail=f"{assets_and_size(totals)}; solved after {lasted}. Was: {'; '.join(was)}",
            box_url=self._box_url(box_folder_id),
        )

    def error(
        self,
        campaign: Campaign,
        *,
        message: str,
        hint: str,
        kind: str,
        began_at: datetime,
        is_reminder: bool,
        retry: RetryStatus,
        next_run_at: datetime,
        box_folder_id: str | None = None,
        now: datetime,
    ) -> Notice:
        """The error notice: a failure that a person must look at. hint: the remedy, "" if none is known.

        began_at: when this kind of failure began. retry: the retry state; this failure spent no attempt.
        next_run_at: when the upload tries again.
        """
        return self._notice(
            NoticeKind.ERROR,
            campaign,
            self.error_recipients,
            now,
            message=one_line(message).rstrip("."),
            hint=sentence(one_line(hint)),
            is_for_engineer=is_for_engineer(hint),
            next_run=local_time(next_run_at, self.timezone),
            error_kind=one_line(kind),
            began=local_time(began_at, self.timezone),
            is_reminder=is_reminder,
            attempt=retry.retry_count,
            max_attempts=retry.max_retries,
            cycle=retry.cycle,
            box_url=self.links.box_folder(box_folder_id),
            detail=("still: " if is_reminder else "") + one_line(f"{message} ({hint})" if hint else message),
        )

    def daily_report(self, report: DayReport, *, notice_id: str, now: datetime) -> Notice:
        """The daily report of a local day. notice_id: the id under which the day is already
        marked as done.
        """
        from shared.report.wording import report_values  # other runs do not need it

        values = report_values(report, self.timezone, self.commands, self.links, now) | {
            "folder": one_line(self.folder_name),
            "max_attempts": self.max_attempts,
            **small_print(self.origin, self.timezone, now),
        }
        return rendered(NoticeKind.DAILY_REPORT, "", self.report_recipients, values, now, notice_id)

    def weekly_digest(self, report: WeekReport, *, notice_id: str, now: datetime) -> Notice:
        """The weekly digest. notice_id: the one of its week."""
        from shared.report.wording import digest_values  # other runs do not need it

        values = digest_values(report, self.timezone, self.commands, self.links, now) | {
            "folder": one_line(self.folder_name),
            **small_print(self.origin, self.timezone, now),
        }
        return rendered(NoticeKind.WEEKLY_DIGEST, "", self.report_recipients, values, now, notice_id)

    def _notice(
        self,
        kind: NoticeKind,
        campaign: Campaign,
        recipients: tuple[str, ...],
        now: datetime,
        *,
        attempt: int,
        max_attempts: int | None = None,
        cycle: int,
        detail: str,
        overtaken: Sequence[Overtaken] = (),
        **facts: str | int | list[str],
    ) -> Notice:
        number, campaign_id = one_line(campaign.number), one_line(campaign.id)
        most = max_attempts or self.max_attempts
        values: dict[str, Any] = {
            "name": one_line(campaign.name) or number or campaign_id,
            "number": number or "(none)",
            "campaign_id": campaign_id,
            "folder": one_line(self.folder_name),
            "attempt": attempt,
            "max_attempts": most,
            "overtaken": takes_place_of(overtaken),
            "page_url": self.links.campaign(campaign.id),
            "dam_url": self.links.dam_folder(campaign.id),
            "explain_command": self.commands.explain(campaign.id),
            "where": self.commands.where,
            **small_print(self.origin, self.timezone, now),
            **facts,
        }
        line = NoticeLine(campaign.id, number, values["name"], attempt, most, detail)
        notice = rendered(kind, campaign.id, recipients, values, now)
        return replace(notice, line=line, cycle=cycle, overtaken=tuple(overtaken))

    def _box_url(self, folder_id: str) -> str:
        """The address of a folder in Box: without BOX_WEB_URL, Box's usual address; "" without a folder."""
        links = self.links if self.links.box else USUAL_BOX
        return links.box_folder(one_line(folder_id))


def _was(trouble: Trouble) -> str:
    """`permanently failed after 3 attempts: the folder … contains no usable files`, or an error and its
    hint.
    """
    detail = one_line(trouble.detail).removeprefix("still: ")
    if trouble.kind is NoticeKind.ERROR:
        return detail or "an error"
    attempts = (
        f" after {trouble.attempt} attempt{'' if trouble.attempt == 1 else 's'}" if trouble.attempt else ""
    )
    return f"permanently failed{attempts}" + (f": {detail}" if detail else "")


EXIT_CODE_MEANINGS: Final = {
    "exit code 2": "Its settings or credentials are wrong. The lines below name them.",
    "exit code 3": "A bug ended it. The traceback is in the log.",
    "exit code 4": "A part of its work failed.",
    "exit code 75": "It could not work: a system is out of reach, or another run holds the lock.",
}


def task_alert(
    news: AlertNews,
    *,
    tail: Sequence[str],
    origin: Origin,
    commands: Commands,
    recipients: tuple[str, ...],
    timezone: ZoneInfo,
    links: Links = NO_LINKS,
    now: datetime,
) -> Notice:
    """The alert about a task of the orchestrator that keeps failing, or no longer does.

    tail: its last lines, without secrets. origin: of the run that failed last.
    """
    system = system_of(news.endings, tail)
    meanings = [EXIT_CODE_MEANINGS[ending] for ending in news.endings if ending in EXIT_CODE_MEANINGS]
    values: dict[str, Any] = {
        "news": news.kind,
        "task": one_line(news.task),
        "endings": one_line(", ".join(news.endings)),
        "meaning": " ".join(meanings) or "Something outside the task ended it.",
        "system": system.name,
        "todo": system.todo,
        "failures": news.failures,
        "began": local_time(news.began_at, timezone),
        "tail": [one_line(line, 300) for line in tail],
        "runs_url": links.on_page("/runs"),
        "check_command": commands.run("orchestrator-prod.py", "--check", "--online"),
        "test_command": commands.run("a1_retry.py", "webhook", "test", news.task),
        "where": commands.where,
        **small_print(origin, timezone, now),
    }
    return rendered(NoticeKind.TASK_ALERT, "", recipients, values, now)


def webhook_off(
    target: str,
    *,
    origin: Origin,
    commands: Commands,
    recipients: tuple[str, ...],
    timezone: ZoneInfo,
    links: Links = NO_LINKS,
    now: datetime,
) -> Notice:
    """A webhook's target that answered 410, and gets nothing any more."""
    news = AlertNews("off", target, ("HTTP 410",), 1, now)
    return task_alert(
        news,
        tail=(),
        origin=origin,
        commands=commands,
        recipients=recipients,
        timezone=timezone,
        links=links,
        now=now,
    )
