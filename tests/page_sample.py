"""A plausible installation of some weeks for the operator's page: campaigns in each state, with mails, runs
and acts. `fill` writes it into a migrated, empty database; the times count back from `now`.

The rows are written as they would be found, without the triggers: a trigger would date every event today.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from random import Random
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg2
from psycopg2.extras import execute_values

from shared.base.commands import Commands
from shared.base.values import Attempt, Campaign, Notice, NoticeKind, RetryStatus, Trouble, UploadTotals
from shared.notifier import Composer
from shared.rules.cadence import Interval, OffHours, timeline

ZONE = ZoneInfo("Europe/Rome")
WINDOW = OffHours(True, time(22), time(5), frozenset({5, 6}), 30, frozenset({0, 30}))
EMPTY = 'the folder "Master Assets" contains no usable files'
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SUPPORT, TEAM = "support@example.com", "campaigns@example.com"
HOSTILE = ("C-666", '<script>alert("1")</script> \' OR 1=1; -- & "Söhne" \u202etxt.exe')
NAMES = (
    "Easter 2027 Kinder eggs", "Summer launch", "Back to school", "Nutella breakfast", "Rocher golden gifts",
    "Advent calendar", "Mother's Day", "Raffaello beach", "Tic Tac fresh mint", "World Cup stickers",
    "Valentine's hearts", "Halloween treats", "Carnival", "Singles' Day (双十一)", "Ramadan رمضان",
    "Dolce vita",
)  # fmt: skip
COMMANDS = Commands(
    "/opt/a1-to-a2/.venv/bin/python", "/opt/a1-to-a2/scripts", "/etc/a1-to-a2/env", "a1-to-a2"
)

_TRIGGERS = ("campaign_status", "campaign_errors", "campaign_uploads", "notices", "notice_deliveries")


@dataclass
class Sample:
    """The rows by table, and what else they are made of. now: an aware time."""

    now: datetime
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - a seeded play
    count: int = 0

    def __post_init__(self) -> None:
        self.composer = Composer(
            timezone=ZONE,
            max_attempts=3,
            folder_name="Master Assets",
            commands=COMMANDS,
            error_recipients=(SUPPORT,),
            success_recipients=(TEAM,),
        )

    def add(self, table: str, **values: Any) -> None:
        self.rows.setdefault(table, []).append(values)

    def id_of(self, word: str) -> str:
        return hashlib.sha1(word.encode(), usedforsecurity=False).hexdigest()

    def campaign(self, name: str = "", number: str = "", **columns: Any) -> Campaign:
        """A campaign with its row. columns: those in which it is not at rest in A1."""
        self.count += 1
        number = number or f"C-{1000 + self.count}"
        made = Campaign(
            self.id_of(number), number, name or NAMES[self.count % len(NAMES)], columns.get("status", "A1")
        )
        row = {"status": "A1", "created_at": self.now - 40 * DAY, "updated_at": self.now - HOUR, **columns}
        self.add(
            "campaign_status", campaign_id=made.id, campaign_number=number, campaign_name=made.name, **row
        )
        return made

    def event(self, campaign: Campaign, at: datetime, what: str, reason: str = "", **more: Any) -> None:
        """A line of the history. more: cycle, actor and source; everything else is its detail."""
        known = {name: more.pop(name) for name in ("cycle", "actor", "source") if name in more}
        who = {"cycle": 1, "actor": "a1_to_a2", "source": "a1_to_a2", **known}
        self.add(
            "campaign_events",
            campaign_id=campaign.id,
            at=at,
            kind=what,
            reason=reason,
            detail=json.dumps(more),
            **who,
        )

    def mail(
        self, notice: Notice | None, *, cycle: int = 1, attempt: int | None = None, **delivery: Any
    ) -> UUID:
        """A message, delivered ten seconds later unless `delivery` says otherwise."""
        assert notice is not None
        self.count += 1
        made = UUID(int=self.random.getrandbits(128), version=4)
        campaign = next(
            (row for row in self.rows["campaign_status"] if row["campaign_id"] == notice.campaign_id), None
        )
        self.add(
            "notices", id=str(made), kind=notice.kind.value, campaign_id=notice.campaign_id,
            subject=notice.subject, body_text=notice.text, body_html=notice.html,
            created_at=notice.created_at, cycle=cycle, attempt=attempt,
            campaign_number=campaign and campaign["campaign_number"],
            campaign_name=campaign and campaign["campaign_name"],
            folded_into=delivery.pop("folded_into", None),
        )  # fmt: skip
        told = {"notice_id": str(made), "kind": notice.kind.value}
        events = [("notice", notice.created_at, {"subject": notice.subject})]
        for recipient in delivery.pop("recipients", notice.recipients):
            sent = {
                "sent_at": notice.created_at + timedelta(seconds=10),
                "tries": 1,
                "next_try_at": notice.created_at,
            }
            self.add("notice_deliveries", notice_id=str(made), recipient=recipient, **{**sent, **delivery})
            if not delivery:
                events.append(("notice_sent", sent["sent_at"], {"recipient": recipient}))
        if campaign is not None:
            by = Campaign(notice.campaign_id, "", "", None)
            for kind, at, detail in events:
                self.event(by, at, kind, cycle=cycle, **told, **detail)
        return made

    def attempts(
        self, campaign: Campaign, first_at: datetime, number: int, *, limit: int = 3, **delivery: Any
    ) -> datetime:
        """So many attempts, each with its mail; when the last one was. delivery: of the last one's mail."""
        at = first_at
        self.event(campaign, first_at - 3 * MINUTE, "status", status="A1")
        for attempt in range(1, number + 1):
            at = first_at + (attempt - 1) * 3 * MINUTE
            is_last = attempt == limit
            self.event(campaign, at, "attempt", EMPTY, attempt=attempt, permanently_failed=is_last)
            counted = Attempt(attempt, counted=True, permanently_failed=is_last, max_attempts=limit)
            notice = (
                self.composer.permanent(campaign, counted, reason=EMPTY, now=at)
                if is_last
                else self.composer.retry(campaign, counted, reason=EMPTY, next_run_at=at + 3 * MINUTE, now=at)
            )
            self.mail(notice, attempt=attempt, **(delivery if attempt == number else {}))
        return at

    def uploaded(self, at: datetime, name: str = "", number: str = "", *, files: int = 0) -> Campaign:
        """A campaign that reached A2, with its files."""
        campaign = self.campaign(
            name, number, status="A2", updated_at=at, box_folder_id=str(312_000_000_000 + self.count)
        )
        files = files or self.random.randint(3, 24)
        sizes = [self.random.randint(40_000, 90_000_000) for _ in range(files)]
        for place, size in enumerate(sizes):
            name = f"{campaign.number}_key-visual_{place + 1:02d}.{'jpg' if place % 3 else 'psd'}"
            self.add(
                "campaign_assets", campaign_id=campaign.id, asset_id=self.id_of(f"{campaign.id}/{place}"),
                asset_name=name if place else f"../{name}", revision="1", size_bytes=size,
                sha1=self.id_of(name), box_file_id=str(900_000 + self.count * 100 + place), box_name=name,
                verified_at=at - MINUTE, run_id="sample",
            )  # fmt: skip
        self.add(
            "campaign_uploads", campaign_id=campaign.id, started_at=at - 9 * MINUTE, completed_at=at,
            assets=files,
            bytes=sum(sizes), run_id="sample",
        )  # fmt: skip
        self.event(campaign, at - 12 * MINUTE, "status", status="A1")
        self.event(campaign, at, "upload", assets=files, bytes=sum(sizes))
        self.event(campaign, at, "status", status="A2", before="A1")
        totals = UploadTotals(files, sum(sizes))
        self.mail(self.composer.success(campaign, totals, box_folder_id="312345678901", now=at))
        return campaign

    def erring(self, kind: str, message: str, began_at: datetime, *, is_told: bool = True) -> Campaign:
        """A campaign that fails with an error since then."""
        campaign = self.campaign(updated_at=began_at)
        self.add(
            "campaign_errors", campaign_id=campaign.id, kind=kind, message=message, began_at=began_at,
            last_seen_at=self.now - 2 * MINUTE, last_notice_at=began_at if is_told else "-infinity",
        )  # fmt: skip
        self.event(campaign, began_at - 3 * MINUTE, "status", status="A1")
        self.event(campaign, began_at, "error", message, kind=kind)
        if is_told:
            self.mail(
                self.composer.error(
                    campaign, message=message, hint="", kind=kind.partition("/")[2], began_at=began_at,
                    is_reminder=False, retry=RetryStatus(campaign.id), next_run_at=began_at, now=began_at,
                )
            )  # fmt: skip
        return campaign


def fill(
    database_url: str,
    now: datetime,
    *,
    is_calm: bool = False,
    last_run: timedelta = 2 * MINUTE,
    has_workers: bool = True,
) -> Sample:
    """Write the sample; returns what was written. is_calm: nothing is stuck and all mails went out. last_run:
    how long ago the loop last ran the upload.
    """
    sample = Sample(now)
    _uploads(sample)
    if not is_calm:
        _stuck(sample)
        _in_retry(sample)
        _acts(sample)
        if has_workers:
            _workers(sample)
    _runs(sample, last_run)
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        for table in _TRIGGERS:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for table, rows in sample.rows.items():
            for columns, values in _by_columns(rows):
                names = ", ".join(columns)
                execute_values(cursor, f"INSERT INTO {table} ({names}) VALUES %s", values)  # noqa: S608
        for table in _TRIGGERS:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        cursor.execute("ANALYZE")
    return sample


def _by_columns(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[Sequence[str], list[tuple[Any, ...]]]]:
    """Rows of a table, those with the same columns together. Events come in the order of time."""
    groups: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
    for row in sorted(rows, key=lambda row: (row.get("at") is not None, str(row.get("at")))):
        names = sorted(row)
        groups.setdefault(tuple(names), []).append(tuple(row[name] for name in names))
    yield from groups.items()


def _uploads(sample: Sample) -> None:
    """A month of uploads; some weekends without any."""
    for back in range(30):
        day = (sample.now - back * DAY).astimezone(ZONE)
        most = 1 if day.weekday() >= 5 else 6
        for _ in range(sample.random.randint(0 if most == 1 else 1, most)):
            at = day.replace(hour=9, minute=0) + sample.random.randint(0, 540) * MINUTE
            if at < sample.now:
                sample.uploaded(at)
    sample.uploaded(sample.now - 25 * MINUTE, "Autumn hazelnut", files=14)
    sample.uploaded(sample.now - 70 * MINUTE, "Winter sports", files=230)


def _stuck(sample: Sample) -> None:
    """What needs somebody, and the messages that tell of it."""
    now = sample.now
    failed = {"a1_retry_count": 3, "a1_permanently_failed": True, "a1_failure_reason": EMPTY}
    for name, back in (
        ("", 19 * HOUR),
        ("", 3 * DAY),
        ("Pocket Coffee Sicily", 12 * DAY),
        ("Estathé estate", 5 * DAY),
    ):
        at = now - back
        campaign = sample.campaign(
            name, a1_last_retry_at=at + 6 * MINUTE, updated_at=at + 6 * MINUTE, **failed
        )
        sample.attempts(campaign, at, 3)
    number, name = HOSTILE
    at = now - 50 * HOUR
    hostile = sample.campaign(
        name, number, a1_last_retry_at=at + 6 * MINUTE, updated_at=at + 6 * MINUTE, **failed
    )
    given_up = {"sent_at": None, "gave_up_at": now - 40 * HOUR, "tries": 12}
    sample.attempts(
        hostile, at, 3, last_error="550 5.1.1 <support@example.com>: mailbox unavailable", **given_up
    )
    for back in (8 * DAY, 17 * DAY, 23 * DAY, 26 * DAY):  # those that were solved
        campaign = sample.uploaded(now - back + 5 * HOUR)
        sample.attempts(campaign, now - back, 3)
        sample.event(
            campaign, now - back + 4 * HOUR, "reset", "files are in", actor="anna", source="a1_retry.py",
            attempts=3, permanently_failed=True, next_cycle=2,
        )  # fmt: skip
        sample.mail(
            sample.composer.recovered(
                campaign, UploadTotals(7, 81_000_000),
                [Trouble(NoticeKind.PERMANENT, now - back, EMPTY, 3, (SUPPORT,))], recipients=(SUPPORT,),
                since=now - back, box_folder_id="312345678901", cycle=2, now=now - back + 5 * HOUR,
            ),
            cycle=2,
        )  # fmt: skip
    sample.erring(
        "box/forbidden",
        "Box refused to create the campaign's folder: 403 access_denied_insufficient_permissions; invite the"
        " app's service account as an editor of the folder BOX_ROOT_FOLDER_ID points at",
        now - 31 * HOUR,
    )
    sample.erring(
        "dam/checksum_differs",
        "the DAM's copy of “hero_4k.psd” is not what it declares (MD5)",
        now - 5 * HOUR,
    )
    sample.erring("box/rate_limited", "Box answered 429 for ten minutes", now - 20 * MINUTE, is_told=False)
    for back, ahead, who, reason in (
        (2 * DAY, 3 * DAY, "ben", "agency promised the files for Thursday"),
        (6 * HOUR, 26 * HOUR, "anna", "retouching is not finished"),
    ):
        campaign = sample.campaign(
            a1_retry_count=1, a1_last_retry_at=now - back - HOUR, a1_failure_reason=EMPTY,
            a1_snoozed_until=now + ahead, updated_at=now - back,
        )  # fmt: skip
        sample.attempts(campaign, now - back - HOUR, 1)
        until = (now + ahead).isoformat()
        sample.event(campaign, now - back, "snooze", reason, actor=who, source="a1_retry.py", until=until)


def _in_retry(sample: Sample) -> None:
    """Campaigns on their way, and messages that wait."""
    now = sample.now
    counted = {
        "a1_failure_reason": EMPTY,
        "updated_at": now - 2 * MINUTE,
        "a1_last_retry_at": now - 2 * MINUTE,
    }
    for number in (2, 2, 1):
        campaign = sample.campaign(a1_retry_count=number, **counted)
        waiting: dict[str, Any] = {"sent_at": None, "tries": 2, "next_try_at": now + 4 * MINUTE}
        delivery = {"last_error": "421 4.3.2 service not available", **waiting} if number == 1 else {}
        sample.attempts(campaign, now - 2 * MINUTE - (number - 1) * 3 * MINUTE, number, **delivery)
    limited = sample.campaign(a1_retry_count=4, a1_max_retries=6, **counted)
    sample.attempts(limited, now - 11 * MINUTE, 4, limit=6)
    sample.event(
        limited, now - 12 * MINUTE, "limit", "large shoot", actor="anna", source="a1_retry.py", max_retries=6
    )
    under_way = sample.campaign()
    sample.event(under_way, now - 9 * MINUTE, "status", status="A1")
    for place in range(4):
        name = f"{under_way.number}_{place}.tif"
        sample.add(
            "campaign_assets", campaign_id=under_way.id, asset_id=sample.id_of(name), asset_name=name,
            revision="1",
            size_bytes=48_000_000, sha1=sample.id_of(name), box_file_id=f"7{place}", box_name=name,
            verified_at=now - MINUTE, run_id="sample",
        )  # fmt: skip
    sample.campaign()
    sample.campaign(status="B7", updated_at=now - 6 * DAY)
    sample.campaign(status="GONE", updated_at=now - 9 * DAY)


def _acts(sample: Sample) -> None:
    """What people did: on the page, by the tool, by psql; and the product by itself."""
    now, failed = (
        sample.now,
        [row for row in sample.rows["campaign_status"] if row.get("a1_permanently_failed")],
    )
    acts: tuple[tuple[timedelta, str, str, str, dict[str, str], str, int, dict[str, int]], ...] = (
        (26 * HOUR, "anna", "reset", "files came on Monday", {"state": "failed", "older": "2"}, "", 12,
         {"changed since the page was drawn": 2}),
        (27 * HOUR, "ben", "snooze", "agency is closed", {"chosen": "3"}, (now + 2 * DAY).isoformat(), 3, {}),
        (3 * DAY, "anna", "limit", "", {"chosen": "1"}, "6", 1, {}),
        (4 * DAY, "ben", "resend", "mail server is back", {"notices": "given up"}, "", 4, {}),
    )  # fmt: skip
    for back, who, act, reason, targets, value, done, skipped in acts:
        undone = {
            "undone_at": now - back + 4 * MINUTE, "undone_by": who, "undo_reason": "wrong filter",
            "undo_done": 11, "undo_skipped": json.dumps({"a run has looked at it since": 1}),
        } if act == "reset" else {}  # fmt: skip
        sample.add(
            "page_acts", id=str(UUID(int=sample.random.getrandbits(128), version=4)), at=now - back,
            person=who,
            peer="10.1.2.3", act=act, reason=reason, filter=json.dumps(targets), value=value,
            drawn_at=now - back - MINUTE, asked="", done=done, skipped=json.dumps(skipped), **undone,
        )  # fmt: skip
    by_hand = Campaign(failed[0]["campaign_id"], "", "", None)
    sample.event(
        by_hand,
        now - 6 * DAY,
        "reset",
        actor="dba_paul",
        source="psql",
        attempts=3,
        permanently_failed=True,
        next_cycle=2,
    )
    sample.event(
        by_hand,
        now - 7 * DAY,
        "reset",
        "30 days have passed",
        actor="auto",
        source="auto",
        attempts=3,
        next_cycle=2,
    )


def _workers(sample: Sample) -> None:
    """The workers of three hosts: one works, one is asked to stop, one is lost."""
    now = sample.now
    free = [row["campaign_id"] for row in sample.rows["campaign_status"] if row["status"] == "A1"][-3:]
    for number, (seen, asked) in enumerate(((0, False), (0, True), (9, False)), 1):
        host = f"dam-loader-{number}"
        worker = f"a1_to_a2 worker {number:012x} {host}:41{number}"
        by = {"drain_asked_at": now - MINUTE, "drain_asked_by": "olga@admin-1"} if asked else {}
        if number == 1:
            by = {"trouble": "the DAM refused the login", "trouble_at": now - 7 * MINUTE}
        sample.add(
            "workers", worker=worker, host=host, started_at=now - number * DAY, seen_at=now - seen * MINUTE,
            campaigns_at_once=16, **by,
        )  # fmt: skip
        if not asked:
            sample.add(
                "worker_campaigns", worker=worker, campaign_id=free[number - 1], since=now - 20 * MINUTE
            )


def _runs(sample: Sample, last_run: timedelta) -> None:
    """The loop's runs of three days, and its reports of a month."""
    end = sample.now - last_run
    planned = [run.at for _, run in timeline({"a1_to_a2": Interval(3)}, end - 3 * DAY, end, ZONE, WINDOW)]
    for number, at in enumerate([*planned, end] if not planned or planned[-1] < end - MINUTE else planned):
        started = at + timedelta(seconds=1)
        code = 75 if number % 211 == 17 else 4 if number % 97 == 5 else 0
        sample.add(
            "orchestrator_task_runs", run_id=f"a{number}", task="a1_to_a2",
            planned_at=at.replace(second=0, microsecond=0),
            started_at=started, finished_at=started + timedelta(seconds=4 + number % 40), exit_code=code,
            ending=f"exit code {code}", host="dam-loader-1",
        )  # fmt: skip
    for back in range(1, 30):
        at = (sample.now - back * DAY).astimezone(ZONE).replace(hour=19, minute=0, second=0, microsecond=0)
        sample.add(
            "orchestrator_task_runs", run_id=f"d{back}", task="daily_report", planned_at=at, started_at=at,
            finished_at=at + timedelta(seconds=2), exit_code=0, ending="exit code 0", host="dam-loader-1",
        )  # fmt: skip
