"""The outbox's way out, on a real PostgreSQL and a real mail server: what goes alone, what goes in a table,
and that every notice arrives in exactly one e-mail per recipient, whatever happens in between."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from time import sleep
from zoneinfo import ZoneInfo

import psycopg2
import pytest

import a1_retry
from sessions import end_sessions
from shared.base.commands import Commands
from shared.base.links import Links
from shared.base.values import (
    MOST_DOUBTS,
    Attempt,
    Campaign,
    DeliveryCounts,
    DeliveryResult,
    MailServer,
    Notice,
    NoticeKind,
    RetryStatus,
    UploadTotals,
)
from shared.database import Database
from shared.notices.delivery import CROWD, GIVE_UP_AFTER, deliver_due_notices, late_notices
from shared.notices.digest import DIGEST_LINES
from shared.notices.outbox import Outbox
from shared.notifier import Composer, Mailer
from shared.upkeep.migrator import Migrator
from shared.upkeep.schema import migration_files
from simulators.mail import MailSink, Received

ROME = ZoneInfo("Europe/Rome")
COMMANDS = Commands("python", "scripts")
NOW = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SUPPORT, ONCALL = "support@example.com", "oncall@example.com"
EMPTY = 'the folder "Master Assets" contains no usable files'


class KilledError(BaseException):
    """The process ends here; what it had not committed is rolled back."""


class Killing:
    """A mailer whose process is killed just before, or just after, the server takes the mail."""

    def __init__(self, mailer: Mailer, *, after: bool) -> None:
        self._mailer = mailer
        self._after = after

    def __enter__(self) -> Killing:
        return self

    def __exit__(self, *_: object) -> None:
        self._mailer.close()

    def connect(self) -> None:
        self._mailer.connect()

    def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult:
        if self._after:
            self._mailer.send(notice, before_handover=before_handover)
        raise KilledError


class Stage:
    """An outbox with a mail server behind it."""

    def __init__(self, url: str, sink: MailSink) -> None:
        self.url = url
        self.sink = sink
        self.database = Database(url, 3)
        self.composer = Composer(
            timezone=ROME,
            max_attempts=3,
            folder_name="Master Assets",
            commands=COMMANDS,
            error_recipients=(SUPPORT, ONCALL),
            success_recipients=(SUPPORT,),
        )

    def mailer(self) -> Mailer:
        server = MailServer("127.0.0.1", self.sink.port, "none", None, None, "robot@example.com")
        return Mailer(server)

    def queue(self, kind: NoticeKind, count: int, *, first: int = 1, at: datetime = NOW) -> None:
        for number in range(first, first + count):
            Outbox(self.database).queue(self.notice(kind, number, at))

    def notice(self, kind: NoticeKind, number: int, at: datetime = NOW) -> Notice:
        campaign = Campaign(f"{number:040x}", f"C-{number}", f"Launch <{number}> & Co", "A1")
        if kind is NoticeKind.RETRY:
            return self.composer.retry(
                campaign, Attempt(1, True, False), reason=EMPTY, next_run_at=at + 3 * MINUTE, now=at
            )
        if kind is NoticeKind.PERMANENT:
            return self.composer.permanent(campaign, Attempt(3, True, True), reason=EMPTY, now=at)
        if kind is NoticeKind.SUCCESS:
            made = self.composer.success(campaign, UploadTotals(3, 3000), box_folder_id="1", now=at)
            assert made is not None
            return made
        return self.composer.error(
            campaign, message=f"folder {number} is locked", hint="unlock it", kind="Box/locked", began_at=at,
            is_reminder=False, retry=RetryStatus(campaign.id), next_run_at=at, now=at,
        )  # fmt: skip

    def deliver(self, at: datetime = NOW) -> DeliveryCounts:
        return deliver_due_notices(self.database, self.mailer(), at, ROME, COMMANDS)

    def killed(self, *, after: bool, at: datetime = NOW) -> None:
        with pytest.raises(KilledError):
            deliver_due_notices(self.database, Killing(self.mailer(), after=after), at, ROME, COMMANDS)

    @property
    def inbox(self) -> list[tuple[str, tuple[str, ...]]]:
        """(subject, who got it) in order."""
        return [(str(mail.message["Subject"]), mail.envelope_to) for mail in self.sink.messages]

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        return self.database.rows(statement)

    def assert_each_notice_in_one_mail(self, *, repeated: int = 0) -> None:
        """By the database and the inbox together; repeated: mails that came once more, the very same."""
        rows = self.sql("SELECT coalesce(mail_id, notice_id), recipient, count(*),"
                        " bool_and(sent_at IS NOT NULL) FROM notice_deliveries GROUP BY 1, 2")  # fmt: skip
        assert all(mail_id is not None and is_sent for mail_id, _, _, is_sent in rows)
        arrived = Counter(
            (id_of(mail), recipient) for mail in self.sink.messages for recipient in mail.envelope_to
        )
        assert set(arrived) == {(mail_id, recipient) for mail_id, recipient, _, _ in rows}
        assert sum(arrived.values()) - len(arrived) == repeated


def id_of(mail: Received) -> str:
    return str(mail.message["Message-ID"]).strip("<>").split("@")[0]


def parts(mail: Received) -> tuple[str, str]:
    text, html = (mail.message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    return text.get_content(), html.get_content()


@pytest.fixture
def stage(database_url: str, mail: MailSink) -> Iterator[Stage]:
    made = Stage(database_url, mail)
    with closing(made.database):
        yield made


# --- what goes alone, what goes together --------------------------------------------------------------------


def test_crowd__the_limit_is_still_told_one_by_one(stage: Stage) -> None:
    stage.queue(NoticeKind.RETRY, CROWD)
    stage.queue(NoticeKind.ERROR, 2)
    assert stage.deliver() == DeliveryCounts(sent=CROWD + 2)
    assert len(stage.inbox) == CROWD + 2
    assert stage.sql("SELECT count(*) FROM notices WHERE campaign_id = ''") == [(0,)]
    stage.assert_each_notice_in_one_mail()


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (NoticeKind.RETRY, "⚠️ No Assets Found - 21 Campaigns"),
        (NoticeKind.PERMANENT, "❌ PERMANENTLY FAILED - 21 Campaigns (No Assets After 3 Attempts)"),
        (NoticeKind.ERROR, "🛑 A1→A2 Error - 21 Campaigns"),
    ],
)
def test_crowd__one_more_is_one_mail_for_each_recipient(stage: Stage, kind: NoticeKind, subject: str) -> None:
    stage.queue(kind, CROWD + 1)
    stage.queue(NoticeKind.SUCCESS, 1)
    assert stage.deliver() == DeliveryCounts(sent=CROWD + 2)
    success = "✅ Uploaded to Box - Campaign Launch <1> & Co (3 assets)"
    assert sorted(stage.inbox) == sorted([(subject, (SUPPORT,)), (subject, (ONCALL,)), (success, (SUPPORT,))])
    for mail in stage.sink.messages:
        if mail.message["Subject"] == success:
            continue
        text, html = parts(mail)
        for number in range(1, CROWD + 2):
            assert f"C-{number} | Launch <{number}> & Co" in text
            assert f"Launch &lt;{number}&gt; &amp; Co</strong>" in html
            is_own = f"reset {number:040x}" in text and f"reset {number:040x}" in html
            assert is_own == (kind is NoticeKind.PERMANENT)
        assert "Launch <" not in html
        if kind is not NoticeKind.ERROR:
            assert text.count("/3") >= CROWD + 1
            assert text.count(EMPTY) == 1, "what all have in common is said once"
        else:
            assert "folder 7 is locked (unlock it)" in text
        assert not mail.message["X-Campaign-Id"]
    stage.assert_each_notice_in_one_mail()
    assert stage.deliver(NOW + 10 * MINUTE) == DeliveryCounts()


def test_crowd__successes(stage: Stage) -> None:
    stage.queue(NoticeKind.SUCCESS, 30)
    assert stage.deliver() == DeliveryCounts(sent=30)
    assert stage.inbox == [("✅ Uploaded to Box - 30 Campaigns", (SUPPORT,))]
    text, html = parts(stage.sink.messages[0])
    assert "3 assets, 3.0 kB" in text
    assert "Attempt" not in html


def test_crowd__two_attempts_of_a_campaign_are_two_lines(stage: Stage) -> None:
    for _ in range(2):
        stage.queue(NoticeKind.RETRY, 15)
    stage.deliver()
    assert {subject for subject, _ in stage.inbox} == {"⚠️ No Assets Found - 15 Campaigns"}
    text, _ = parts(stage.sink.messages[0])
    assert text.count("C-7 | ") == 2
    assert "30 attempts or events" in text


def test_crowd__beyond_the_lines_says_how_to_list_the_rest(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = DIGEST_LINES + 50
    stage.queue(NoticeKind.PERMANENT, count)
    stage.deliver()
    assert stage.inbox[0][0] == f"❌ PERMANENTLY FAILED - {count} Campaigns (No Assets After 3 Attempts)"
    received = stage.sink.messages[0]
    text, html = parts(received)
    assert len(received.raw) < 400_000
    assert html.count("reset 0") == DIGEST_LINES
    assert f"and 50 more. All {count} are listed by:" in text
    command = re.search(r"^python scripts/a1_retry.py (told \S+)$", text, re.MULTILINE)
    assert command is not None
    monkeypatch.setenv("DATABASE_URL", stage.url)
    assert a1_retry.main([*command[1].split(), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == count


def test_old_notices__without_a_line_of_their_own_are_named_by_their_campaign(stage: Stage) -> None:
    stage.queue(NoticeKind.RETRY, CROWD + 1)
    stage.database.execute("UPDATE notices SET campaign_number = NULL, campaign_name = NULL, attempt = NULL,"
                        " max_attempts = NULL, detail = NULL")  # fmt: skip
    stage.database.increment_a1_retry(f"{5:040x}", "C-5", "Five", EMPTY)
    stage.deliver()
    assert "C-5 | Five | attempt 1/3" in parts(stage.sink.messages[0])[0]
    stage.assert_each_notice_in_one_mail()


# --- failures in between ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, CROWD + 5], ids=["single", "table"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed__the_same_mail_comes_again(stage: Stage, count: int, after: bool) -> None:
    stage.queue(NoticeKind.PERMANENT, count)
    stage.killed(after=after)
    stage.queue(NoticeKind.PERMANENT, 40, first=500, at=NOW + MINUTE)  # must not change what was begun
    stage.deliver(NOW + 3 * MINUTE)
    stage.assert_each_notice_in_one_mail(repeated=1 + (count == 1) if after else 0)
    same = [mail for mail in stage.sink.messages if id_of(mail) == id_of(stage.sink.messages[0])]
    assert len({mail.message["Subject"] for mail in same}) == 1
    assert len({parts(mail) for mail in same}) == 1
    assert len({mail.message["Date"] for mail in same}) == 1


def test_answer_lost__the_table_comes_again_under_its_message_id(stage: Stage) -> None:
    stage.queue(NoticeKind.RETRY, 30)
    stage.sink.drop_after_data = True
    assert stage.deliver() == DeliveryCounts(failed=30)
    stage.sink.drop_after_data = False
    stage.queue(NoticeKind.RETRY, 30, first=100)
    assert stage.deliver(NOW + 3 * MINUTE).failed == 0
    stage.assert_each_notice_in_one_mail(repeated=1)
    assert len(stage.sink.messages) == 4, "30 twice, 30 to one and 60 to the other"


@pytest.mark.parametrize("count", [1, 30], ids=["single", "table"])
def test_answer_lost__and_then_refused_keeps_its_message_id(stage: Stage, count: int) -> None:
    stage.queue(NoticeKind.RETRY, count)
    stage.sink.drop_after_data = True
    stage.deliver()
    stage.sink.drop_after_data = False
    stage.sink.refuse_all(451, "greylisted")
    stage.deliver(NOW + 3 * MINUTE)
    stage.sink.relent()
    stage.queue(NoticeKind.RETRY, 40, first=100, at=NOW + 5 * MINUTE)
    stage.deliver(NOW + 6 * MINUTE)
    first = stage.sink.messages[0]
    assert [id_of(mail) for mail in stage.sink.messages].count(id_of(first)) == 2
    stage.assert_each_notice_in_one_mail(repeated=1 + (count == 1))


def test_server_away__what_comes_meanwhile_goes_along(stage: Stage) -> None:
    stage.sink.stop()
    for run in range(40):
        stage.queue(NoticeKind.RETRY, 1, first=run, at=NOW + run * 3 * MINUTE)
        assert stage.deliver(NOW + run * 3 * MINUTE).sent == 0
    assert stage.sql("SELECT count(*) FROM notices WHERE campaign_id = ''") == [(0,)], (
        "nothing is settled while nothing goes"
    )
    stage.sink.start()
    assert stage.deliver(NOW + 40 * 3 * MINUTE) == DeliveryCounts(sent=40)
    assert Counter(stage.inbox) == {
        ("⚠️ No Assets Found - 40 Campaigns", (one,)): 1 for one in (SUPPORT, ONCALL)
    }
    stage.assert_each_notice_in_one_mail()


def test_refused_recipient__never_costs_the_others_a_second_mail(stage: Stage) -> None:
    stage.sink.refuse(ONCALL, 550, "no such user")
    stage.queue(NoticeKind.PERMANENT, 30)
    assert stage.deliver() == DeliveryCounts(failed=30)
    assert stage.sql("SELECT DISTINCT tries, last_error FROM notice_deliveries WHERE sent_at IS NULL") == [
        (1, "550 no such user")
    ]
    for run in range(1, 6):
        stage.queue(NoticeKind.PERMANENT, 1, first=100 + run, at=NOW + run * 60 * MINUTE)
        stage.deliver(NOW + run * 60 * MINUTE)
    assert Counter(to for _, to in stage.inbox) == {(SUPPORT,): 6}
    assert stage.sql("SELECT count(*) FROM notices WHERE campaign_id = ''") == [(1,)], "the one that arrived"
    stage.sink.reset()
    stage.deliver(NOW + timedelta(days=1))
    assert stage.inbox == [("❌ PERMANENTLY FAILED - 35 Campaigns (No Assets After 3 Attempts)", (ONCALL,))]


def test_refused_for_days__is_given_up(stage: Stage) -> None:
    stage.sink.refuse(ONCALL, 550, "no such user")
    stage.queue(NoticeKind.RETRY, 25)
    stage.queue(NoticeKind.RETRY, 1, first=90, at=NOW + 2 * MINUTE)
    stage.deliver(NOW + GIVE_UP_AFTER + MINUTE)
    assert stage.sql("SELECT count(*), count(gave_up_at) FROM notice_deliveries WHERE sent_at IS NULL") == [
        (26, 25)
    ]


def test_two_processes__send_each_table_once(stage: Stage) -> None:
    stage.queue(NoticeKind.RETRY, 30)

    class Meanwhile(Killing):
        def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult:
            with Database(stage.url, 3) as other:
                counts.append(deliver_due_notices(other, stage.mailer(), NOW, ROME, COMMANDS))
            return self._mailer.send(notice, before_handover=before_handover)

    counts: list[DeliveryCounts] = []
    deliver_due_notices(stage.database, Meanwhile(stage.mailer(), after=True), NOW, ROME, COMMANDS)
    stage.assert_each_notice_in_one_mail()
    assert len(stage.sink.messages) == 2


def test_connection_cut__before_the_handover_sends_nothing(stage: Stage) -> None:
    """The server has dropped us, and with us the locks on the e-mail: somebody else may be sending it."""
    from shared.base.errors import DbError

    stage.queue(NoticeKind.RETRY, 1)

    class Cut(Killing):
        def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult:
            assert end_sessions(stage.url, "a1_to_a2") == 1
            return self._mailer.send(notice, before_handover=before_handover)

    with pytest.raises(DbError, match=r"server closed|terminating"):
        deliver_due_notices(stage.database, Cut(stage.mailer(), after=True), NOW, ROME, COMMANDS)
    assert not stage.sink.messages
    stage.database = Database(stage.url, 3)
    assert stage.deliver().sent == 1


# --- no transaction across SMTP, and no repeat without bound ------------------------------------------------


class Slow(Killing):
    """A relay that takes its time; meanwhile the database ends whatever waits in an open transaction."""

    def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult:
        before_handover()
        sleep(1.5)
        return self._mailer.send(notice, before_handover=before_handover)


@pytest.mark.parametrize("count", [1, CROWD + 5], ids=["single", "table"])
def test_slow_relay__meets_no_open_transaction(stage: Stage, count: int) -> None:
    name = stage.sql("SELECT current_database()")[0][0]
    stage.database.execute(f"ALTER DATABASE \"{name}\" SET idle_in_transaction_session_timeout = '1s'")
    stage.queue(NoticeKind.RETRY, count)
    with Database(stage.url, 3) as own:
        assert own.row("SHOW idle_in_transaction_session_timeout")[0] in ("1s", "0")
        counts = deliver_due_notices(own, Slow(stage.mailer(), after=True), NOW, ROME, COMMANDS)
    assert counts == DeliveryCounts(sent=count)
    stage.assert_each_notice_in_one_mail()


def test_end_never_noted__goes_out_a_few_times_and_is_given_up(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever keeps a mail from being marked: its repeats have an end, and the next mail still goes."""
    stage.queue(NoticeKind.PERMANENT, 1)
    stage.database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'no' USING ERRCODE = 'check_violation'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON notice_deliveries FOR EACH ROW"
        " WHEN (NEW.sent_at IS NOT NULL AND NEW.tries < 1000) EXECUTE FUNCTION refuse()"
    )
    arrivals: list[int] = []
    for run in range(10 * 480):  # ten days, a run every three minutes
        stage.deliver(NOW + run * 3 * MINUTE)
        arrivals += [run] * (len(stage.sink.messages) - len(arrivals))
    assert len(arrivals) == MOST_DOUBTS
    assert len({id_of(mail) for mail in stage.sink.messages}) == 1
    assert arrivals[:2] == [0, 1], "a killed process's mail goes out again at once"
    pauses = [later - earlier for earlier, later in pairwise(arrivals)]
    assert pauses == sorted(pauses), "and then less and less often"
    rows = stage.sql("SELECT gave_up_at IS NOT NULL, last_error FROM notice_deliveries")
    assert all(gave_up and str(why).startswith("may have arrived") for gave_up, why in rows)
    assert "is given up: it may have arrived" in caplog.text


def test_table_gone__its_notices_are_told_anew(
    stage: Stage, caplog: pytest.LogCaptureFixture, sent_statements: list[str]
) -> None:
    stage.queue(NoticeKind.RETRY, 2)
    stage.database.execute("UPDATE notice_deliveries SET mail_id = gen_random_uuid()")
    sent_statements.clear()
    assert stage.deliver().sent == 2
    assert len(sent_statements) < 100
    assert caplog.text.count("is not on record; its 1 notices go out again") == 4
    assert stage.sql("SELECT count(*) FROM notice_deliveries WHERE sent_at IS NULL") == [(0,)]
    assert stage.deliver() == DeliveryCounts()


def test_upgrade__a_table_that_was_begun_goes_on_under_its_message_id(
    empty_database_url: str, mail: MailSink
) -> None:
    """Migration 022 on the outbox of the version before: a table that may have arrived, and one that did."""
    before, after = (
        [path for path in migration_files() if (path.name < "022") is is_before]
        for is_before in (True, False)
    )
    begun, done = "00000000-0000-0000-0000-0000000000aa", "00000000-0000-0000-0000-0000000000bb"
    with Database(empty_database_url) as database:
        for path in before:
            Migrator(database).apply(path.read_text(encoding="utf-8"), path.stem, "x")
        for number, (table, sent_at) in enumerate(((begun, None), (begun, None), (done, NOW))):
            values = {"id": f"{number:032x}", "mail": table, "at": NOW, "sent": sent_at}
            database.execute(
                "INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at)"
                " VALUES (%(id)s, 'a1_to_a2_error', 'c', 'alone', 't', 'h', %(at)s)", values,
            )  # fmt: skip
            database.execute(
                "INSERT INTO notice_deliveries (notice_id, recipient, tries, doubts, next_try_at, mail_id,"
                " sent_at) VALUES (%(id)s, 'support@example.com', 1, 1, %(at)s, %(mail)s, %(sent)s)", values,
            )  # fmt: skip
        for table in (begun, done):
            database.execute(
                "INSERT INTO notice_bundles VALUES (%(id)s, 'a1_to_a2_error', 'support@example.com', 2,"
                " 'together', 't', 'h', %(at)s)", {"id": table, "at": NOW},
            )  # fmt: skip
        for path in [*after, *after]:
            Migrator(database).apply(path.read_text(encoding="utf-8"), path.stem, "x")
    stage = Stage(empty_database_url, mail)
    with closing(stage.database):
        stage.queue(NoticeKind.ERROR, CROWD)
        assert stage.deliver() == DeliveryCounts(sent=CROWD + 2)
        assert stage.inbox[0] == ("together", (SUPPORT,))
        assert id_of(mail.messages[0]) == begun
        assert [subject for subject, _ in stage.inbox].count("together") == 1
        assert {str(row[0]) for row in stage.sql("SELECT id FROM notices WHERE subject = 'together'")} == {
            begun,
            done,
        }


def test_frozen_process__holds_its_own_mail_and_no_other(stage: Stage) -> None:
    stage.queue(NoticeKind.RETRY, 1)

    class Frozen(Killing):
        def send(self, notice: Notice, *, before_handover: Callable[[], None]) -> DeliveryResult:
            stage.queue(NoticeKind.ERROR, 1)
            with Database(stage.url, 3) as other:
                for days in range(3):
                    at = NOW + timedelta(days=days)
                    deliver_due_notices(other, stage.mailer(), at, ROME, COMMANDS)
            return self._mailer.send(notice, before_handover=before_handover)

    deliver_due_notices(stage.database, Frozen(stage.mailer(), after=True), NOW, ROME, COMMANDS)
    assert [subject[:1] for subject, _ in stage.inbox] == ["🛑", "⚠"]


def test_row_held_by_somebody__is_passed_by(stage: Stage) -> None:
    stage.queue(NoticeKind.RETRY, 3)
    with closing(psycopg2.connect(stage.url)) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM notice_deliveries WHERE recipient = %s FOR UPDATE", [ONCALL])
        assert stage.deliver().sent == 3
        assert Counter(to for _, to in stage.inbox) == {(SUPPORT,): 3}
        cursor.execute("ROLLBACK")
    stage.deliver(NOW + MINUTE)
    assert Counter(to for _, to in stage.inbox) == {(SUPPORT,): 3, (ONCALL,): 3}


# --- a channel never vouches for itself ---------------------------------------------------------------------


def test_login_refused__is_a_fault_of_every_run_and_costs_no_pause(database_url: str) -> None:
    with MailSink(username="robot", password="right") as sink:
        stage = Stage(database_url, sink)
        server = MailServer("127.0.0.1", sink.port, "none", "robot", "wrong", "robot@example.com")
        stage.queue(NoticeKind.RETRY, CROWD + 1)
        stage.queue(NoticeKind.SUCCESS, 1)
        for run in range(12):
            at = NOW + run * 3 * MINUTE
            counts = deliver_due_notices(stage.database, Mailer(server), at, ROME, COMMANDS)
            assert (counts.sent, counts.failed) == (0, CROWD + 2)
            assert ["refused the login of robot" in fault for fault in counts.faults] == [True]
        (errors,) = stage.sql("SELECT count(*) FROM notice_deliveries WHERE last_error LIKE '%535%'")
        assert errors == (2 * CROWD + 3,)
        assert stage.sql("SELECT count(*) FROM notices WHERE campaign_id = ''") == [(0,)]
        mended = Mailer(replace(server, password="right"))
        at = NOW + 36 * MINUTE
        assert deliver_due_notices(stage.database, mended, at, ROME, COMMANDS) == DeliveryCounts(
            sent=CROWD + 2
        )
        stage.assert_each_notice_in_one_mail()
        stage.database.close()


def test_late__is_told_once_for_each_notice(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.sink.refuse(ONCALL, 451, "greylisted")
    stage.queue(NoticeKind.RETRY, 1)
    stage.deliver()
    assert late_notices(stage.database, NOW + 59 * MINUTE, ROME, COMMANDS) == []
    stage.queue(NoticeKind.ERROR, 1, at=NOW + 30 * MINUTE)
    (fault,) = late_notices(stage.database, NOW + 61 * MINUTE, ROME, COMMANDS)
    for words in (
        "1 notices have waited",
        "since 2026-11-23 14:00 CET",
        "451 greylisted",
        "a1_retry.py unsent",
    ):
        assert words in fault
    assert [record.levelname for record in caplog.records if record.getMessage() == fault] == ["ERROR"]
    assert late_notices(stage.database, NOW + 62 * MINUTE, ROME, COMMANDS) == []
    assert Outbox(stage.database).is_late(NOW + 2 * MINUTE)
    (fault,) = late_notices(stage.database, NOW + 99 * MINUTE, ROME, COMMANDS)
    assert "1 notices have waited" in fault
    stage.sink.reset()
    stage.deliver(NOW + 100 * MINUTE)
    assert Outbox(stage.database).is_due(NOW + 100 * MINUTE) is None
    assert not Outbox(stage.database).is_late(NOW + 2 * MINUTE)


# --- the links that the tables show -------------------------------------------------------------------------


def test_links__of_a_table_are_to_page_and_box(stage: Stage) -> None:
    first, second = f"{1:040x}", f"{2:040x}"
    stage.database.increment_a1_retry(first, "C-1", "n", EMPTY)
    stage.database.execute("UPDATE campaign_status SET box_folder_id = '3123'")
    stage.queue(NoticeKind.SUCCESS, CROWD + 1)
    links = Links(box="https://app.box.com/folder/{folder_id}", page="https://page.example.com")
    deliver_due_notices(stage.database, stage.mailer(), NOW, ROME, COMMANDS, links)
    text, html = parts(stage.sink.messages[0])
    found = [line.strip() for line in text.splitlines() if "https://" in line]
    assert found[:3] == [
        f"https://page.example.com/campaigns/{first}",
        "https://app.box.com/folder/3123",
        f"https://page.example.com/campaigns/{second}",
    ]
    assert len(found) == CROWD + 3, "a page for each, one folder, one list"
    assert all(f'href="{address}"' in html for address in found)


# --- the commands that the tables show ----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["tool", "sql"])
def test_reset__of_a_table_resets_its_campaigns_and_no_others(
    stage: Stage, way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 26):
        for _ in range(3):
            stage.database.increment_a1_retry(f"{number:040x}", f"C-{number}", "n", EMPTY)
    stage.queue(NoticeKind.PERMANENT, CROWD + 1)
    stage.deliver()
    text, _ = parts(stage.sink.messages[0])
    monkeypatch.setenv("DATABASE_URL", stage.url)
    command = re.search(r"python scripts/a1_retry.py (reset --digest \S+)$", text, re.MULTILINE)
    statement = re.search(r"^UPDATE campaign_status .*;$", text, re.MULTILINE)
    assert command is not None
    assert statement is not None
    if way == "tool":
        assert a1_retry.main([*command[1].split(), "--by", "me"]) == 0
        assert capsys.readouterr().out.count("starts again at attempt 1") == CROWD + 1
        assert stage.sql("SELECT count(*), min(actor) FROM campaign_events WHERE kind = 'reset'") == [
            (CROWD + 1, "me")
        ]
        assert a1_retry.main(command[1].split()) == 0
        assert "none of its campaigns" in capsys.readouterr().out
        assert a1_retry.main(["reset", "--digest", "0" * 32]) == 4
    else:
        stage.database.execute(statement[0])
    assert stage.sql(
        "SELECT count(*), min(campaign_id) FROM campaign_status WHERE a1_permanently_failed"
    ) == [(4, f"{22:040x}")]


# --- a later notice of the same cycle takes the place of an earlier one ------------------------------------


class Cycle:
    """The notices of one campaign, queued as the road queues them."""

    def __init__(self, stage: Stage, number: int = 1, database: Database | None = None) -> None:
        self.stage = stage
        self.database = database or stage.database
        self.campaign = Campaign(f"{number:040x}", f"C-{number}", f"Launch {number}", "A1")

    def attempt(self, number: int, *, at: datetime = NOW, cycle: int = 1) -> str:
        """Queue attempt n of 3; returns its subject."""
        with self.database.transaction():
            return self.queue(number, at=at, cycle=cycle)

    def queue(self, number: int, *, at: datetime, cycle: int = 1) -> str:
        """In the caller's transaction."""
        attempt = Attempt(number, True, number == 3, 3, cycle)
        outbox, composer = Outbox(self.database), self.stage.composer
        kind = NoticeKind.PERMANENT if number == 3 else NoticeKind.RETRY
        overtaken = outbox.overtaken(kind, self.campaign.id, composer.error_recipients, cycle=cycle)
        if number == 3:
            notice = composer.permanent(self.campaign, attempt, reason=EMPTY, overtaken=overtaken, now=at)
        else:
            notice = composer.retry(
                self.campaign, attempt, reason=EMPTY, next_run_at=at, overtaken=overtaken, now=at
            )
        outbox.queue(notice)
        return notice.subject


def assert_each_notice_arrived_or_is_folded(stage: Stage, *, repeated: int = 0) -> None:
    """For each notice and recipient: exactly one delivery that is sent, or one event that names the notice
    which takes its place, and for which the same holds.
    """
    owed = {
        (notice, one)
        for (notice,) in stage.sql("SELECT id FROM notices WHERE campaign_id <> ''")
        for one in (SUPPORT, ONCALL)
    }
    sent = {(notice, one) for notice, one in stage.sql("SELECT notice_id, recipient FROM notice_deliveries")}
    folded = {
        (notice, one): (into, one)
        for notice, one, into in stage.sql(
            "SELECT (detail ->> 'notice_id')::uuid, detail ->> 'recipient', (detail ->> 'into')::uuid"
            " FROM campaign_events WHERE kind = 'notice_folded'"
        )
    }
    assert sent | folded.keys() == owed
    assert not sent & folded.keys()
    assert all(into in owed for into in folded.values())
    stage.assert_each_notice_in_one_mail(repeated=repeated)


def test_fold__an_outage_leaves_one_mail_a_campaign(stage: Stage) -> None:
    stage.sink.stop()
    cycle = Cycle(stage)
    for number in (1, 2, 3):
        subject = cycle.attempt(number, at=NOW + number * 3 * MINUTE)
        assert stage.deliver(NOW + number * 3 * MINUTE).failed == 1
    stage.sink.start()
    assert stage.deliver(NOW + 60 * MINUTE) == DeliveryCounts(sent=1)
    assert stage.inbox == [(subject, (ONCALL, SUPPORT))]
    for part in parts(stage.sink.messages[0]):
        said = "The e-mails about attempts 1 and 2 had not gone out; this one takes their place."
        assert part.count(said) == 1
    last = stage.sql("SELECT id FROM notices WHERE attempt = 3")[0][0]
    assert stage.sql("SELECT DISTINCT folded_into FROM notices WHERE attempt < 3") == [(last,)]
    assert stage.deliver(NOW + 70 * MINUTE) == DeliveryCounts()
    assert Outbox(stage.database).is_due(NOW + 70 * MINUTE) is None
    assert_each_notice_arrived_or_is_folded(stage)


def test_fold__what_went_out_stays_as_it_is(stage: Stage) -> None:
    cycle = Cycle(stage)
    subjects = []
    for number in (1, 2, 3):
        subjects.append(cycle.attempt(number, at=NOW + number * MINUTE))
        stage.deliver(NOW + number * MINUTE)
    assert [subject for subject, _ in stage.inbox] == subjects
    assert not any("takes" in parts(mail)[0] for mail in stage.sink.messages)
    assert stage.sql("SELECT count(*) FROM notices WHERE folded_into IS NOT NULL") == [(0,)]


def test_fold__a_recipient_who_was_refused_gets_the_later_one(stage: Stage) -> None:
    stage.sink.refuse(ONCALL, 451, "greylisted")
    cycle = Cycle(stage)
    first = cycle.attempt(1)
    stage.deliver()
    second = cycle.attempt(2, at=NOW + 3 * MINUTE)
    stage.sink.reset()
    stage.deliver(NOW + 60 * MINUTE)
    assert stage.inbox == [(second, (ONCALL, SUPPORT))], first
    (text, _) = parts(stage.sink.messages[0])
    assert (
        "The e-mail about attempt 1 had not reached everybody; where not, this one takes its place." in text
    )


def test_fold__another_cycle_another_kind_and_another_campaign_stay(stage: Stage) -> None:
    stage.queue(NoticeKind.ERROR, 1)
    stage.queue(NoticeKind.RETRY, 1, first=2)
    cycle = Cycle(stage)
    cycle.attempt(3, cycle=1)
    cycle.attempt(1, cycle=2)
    assert stage.sql("SELECT count(*) FROM notices WHERE folded_into IS NOT NULL") == [(0,)]
    assert stage.deliver(NOW + MINUTE) == DeliveryCounts(sent=4)


@pytest.mark.parametrize("count", [1, CROWD + 1], ids=["single", "table"])
def test_fold__a_mail_that_was_begun_goes_out(stage: Stage, count: int) -> None:
    """It may have arrived, alone or in a table; so it is no longer free to be folded."""
    for one in range(count):
        Cycle(stage, one).attempt(1)
    stage.killed(after=True)
    (to,) = stage.inbox[0][1:]
    Cycle(stage, 0).attempt(2, at=NOW + MINUTE)
    folded = stage.sql("SELECT detail ->> 'recipient' FROM campaign_events WHERE kind = 'notice_folded'")
    assert folded == [(one,) for one in (ONCALL, SUPPORT) if one not in to]
    stage.deliver(NOW + 5 * MINUTE)
    assert_each_notice_arrived_or_is_folded(stage, repeated=len(to))


def test_fold__leaves_what_is_being_claimed_and_waits_for_nobody(stage: Stage) -> None:
    cycle = Cycle(stage)
    cycle.attempt(1)
    with closing(psycopg2.connect(stage.url)) as other, other.cursor() as cursor:
        cursor.execute("UPDATE notice_deliveries SET doubts = doubts + 1 WHERE recipient = %s", [ONCALL])
        cycle.attempt(2, at=NOW + MINUTE)
        assert stage.sql("SELECT recipient, doubts FROM notice_deliveries ORDER BY 2 DESC, 1") == [
            (ONCALL, 0), (ONCALL, 0), (SUPPORT, 0),
        ]  # fmt: skip
        other.commit()
    stage.deliver(NOW + MINUTE)
    assert Counter(to for _, to in stage.inbox) == {(ONCALL,): 1, (ONCALL, SUPPORT): 1}
    assert_each_notice_arrived_or_is_folded(stage)


@pytest.mark.parametrize("is_kept", [True, False], ids=["committed", "rolled back"])
def test_fold__a_delivery_in_between_sends_nothing_twice_and_loses_nothing(
    stage: Stage, is_kept: bool
) -> None:
    Cycle(stage).attempt(1)
    with Database(stage.url, 3) as other:
        try:
            with other.transaction():
                Cycle(stage, database=other).queue(2, at=NOW + MINUTE)
                assert stage.deliver(NOW + MINUTE).sent == 0
                if not is_kept:
                    raise KilledError
        except KilledError:
            pass
    stage.deliver(NOW + MINUTE)
    assert [re.findall(r"\d/3", subject) for subject, _ in stage.inbox] == [["2/3" if is_kept else "1/3"]]
    assert_each_notice_arrived_or_is_folded(stage)


def test_fold__while_a_process_delivers_without_a_pause(stage: Stage) -> None:
    """Thirty campaigns run through their cycles beside a delivery that never rests."""
    is_over = threading.Event()

    def deliver() -> None:
        with Database(stage.url, 3) as own:
            while not is_over.is_set():
                deliver_due_notices(own, stage.mailer(), NOW + timedelta(hours=1), ROME, COMMANDS)

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        for number in (1, 2, 3):
            for one in range(30):
                Cycle(stage, one).attempt(number, at=NOW + number * MINUTE)
    finally:
        is_over.set()
        thread.join()
    stage.deliver(NOW + timedelta(hours=2))
    assert_each_notice_arrived_or_is_folded(stage)


def test_fold__who_waits_has_waited_since_the_first(stage: Stage) -> None:
    """A mail server that is away is late however often a later notice takes over. Each has its own five days:
    one that has just been queued is not given up for the age of another.
    """
    stage.sink.refuse_all(451, "greylisted")
    told = []
    for hours in range(20, 240, 20):
        at = NOW + timedelta(hours=hours)
        Cycle(stage).attempt(1 + hours // 20 % 2, at=at)
        stage.deliver(at)
        told += [hours for _ in late_notices(stage.database, at, ROME, COMMANDS)]
    given_up = stage.sql("SELECT count(*) FROM notice_deliveries WHERE gave_up_at IS NOT NULL")
    assert told == [40], "at the look after the first one"
    assert given_up == [(0,)]
    assert Outbox(stage.database).is_late(NOW + timedelta(hours=181))


def test_fold__is_told_in_a_table_too(stage: Stage) -> None:
    for one in range(CROWD + 1):
        for number in (1, 2, 3):
            Cycle(stage, one).attempt(number, at=NOW + number * MINUTE)
    stage.deliver(NOW + 5 * MINUTE)
    assert len(stage.inbox) == 2
    (text, _) = parts(stage.sink.messages[0])
    assert text.count("; 2 earlier e-mails had not gone out.") == 1, "what all share, once"
    assert_each_notice_arrived_or_is_folded(stage)
