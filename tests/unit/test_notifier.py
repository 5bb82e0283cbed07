"""The messages: what they say, what they never say, and what a hostile name cannot do to them."""

from __future__ import annotations

import email
import email.policy
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hostile import ATTACKS
from shared.base.commands import Commands, shell_word
from shared.base.links import NO_LINKS, NOT_IN_A_PATH, Links
from shared.base.values import (
    DIGEST_KINDS,
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
from shared.notices.delivery import GIVE_UP_AFTER, PAUSES
from shared.notices.digest import digest
from shared.notices.wording import TEMPLATES, one_line, plain_duration, reset_sql, takes_place_of
from shared.notifier import Composer, build_message, task_alert
from shared.rules.alerts import AlertNews

SCRIPTS = Path(__file__).parents[2] / "scripts"
NOW = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
HEX_ID = "5f3c9a1e7b2d4c6f8a0b1c2d3e4f5a6b7c8d9e0f"
REASON = 'the folder "Master Assets" contains no usable files'
RESET = (
    "UPDATE campaign_status SET a1_retry_count = 0, a1_last_retry_at = NULL,"
    " a1_permanently_failed = FALSE, a1_failure_reason = NULL, updated_at = now() WHERE campaign_id = "
)
ORDINARY_NAMES = [
    "Summer Launch",
    'O\'Neill "Spring" & Söhne <50% off>',
    "Größe & Übergröße",
    "🎄 Weihnachten 👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿",
    "夏のキャンペーン",
    "حملة الصيف",
    "Two  spaces",
    "C:\\new\\table {{ name }} %s",
    "=?utf-8?q?=0ABcc:_x=40example.com?=",
]
hostile_text = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from(list("\r\n\0\t\x0b\x0c\x1b\x85\u2028\u2029\u202e\u2066\ufeff\ud800<>&\"'\\:;=?-$`")),
    ),
    max_size=80,
)


COMMANDS = Commands("python", "scripts")
LINKS = Links(
    dam="https://dam.example.com/#/folder/{campaign_id}",
    box="https://box.example.com/folder/{folder_id}",
    page="https://page.example.com",
)
PAGE_URL, DAM_URL = (
    f"https://page.example.com/campaigns/{HEX_ID}",
    f"https://dam.example.com/#/folder/{HEX_ID}",
)
BOX_URL = "https://box.example.com/folder/3123"


def composer(max_attempts: int = 3, **overrides: object) -> Composer:
    given_values: dict[str, object] = {
        "timezone": ZoneInfo("Europe/Rome"),
        "max_attempts": max_attempts,
        "folder_name": "Master Assets",
        "commands": COMMANDS,
        "error_recipients": ("support@example.com", "oncall@example.com"),
        "success_recipients": ("campaigns@example.com",),
    }
    return Composer(**(given_values | overrides))  # type: ignore[arg-type]


def campaign(name: str = "Summer Launch", number: str = "C-1001", campaign_id: str = HEX_ID) -> Campaign:
    return Campaign(campaign_id, number, name, "A1")


def retry(
    about: Campaign, attempt: int = 1, max_attempts: int = 3, reason: str = REASON, links: Links = NO_LINKS
) -> Notice:
    return composer(max_attempts, links=links).retry(
        about,
        Attempt(attempt, counted=True, permanently_failed=False),
        reason=reason,
        next_run_at=NOW + timedelta(minutes=3),
        now=NOW,
    )


def permanent(
    about: Campaign, max_attempts: int = 3, reason: str = REASON, links: Links = NO_LINKS
) -> Notice:
    last = Attempt(max_attempts, counted=True, permanently_failed=True)
    return composer(max_attempts, links=links).permanent(about, last, reason=reason, now=NOW)


def success(
    about: Campaign,
    assets: int = 14,
    size: int = 73_400_320,
    folder: str = "3123",
    links: Links = NO_LINKS,
) -> Notice:
    notice = composer(links=links).success(about, UploadTotals(assets, size), box_folder_id=folder, now=NOW)
    assert notice is not None
    return notice


def error(
    about: Campaign,
    message: str = "Box refused",
    hint: str = "invite the app",
    kind: str = "forbidden",
    is_reminder: bool = False,
    folder: str | None = None,
    links: Links = NO_LINKS,
) -> Notice:
    return composer(links=links).error(
        about,
        message=message,
        hint=hint,
        kind=kind,
        began_at=NOW - timedelta(hours=25),
        is_reminder=is_reminder,
        retry=RetryStatus("c", retry_count=1),
        next_run_at=NOW + timedelta(minutes=3),
        box_folder_id=folder,
        now=NOW,
    )


def recovered(
    about: Campaign,
    text: str = REASON,
    folder: str = "3123",
    was_error: bool = True,
    links: Links = NO_LINKS,
) -> Notice:
    failed = Trouble(NoticeKind.PERMANENT, NOW - timedelta(days=3, hours=4), text, 3, ("a@example.com",))
    erring = Trouble(NoticeKind.ERROR, NOW - timedelta(hours=5), f"still: {text}", 1, ("b@example.com",))
    return composer(links=links).recovered(
        about,
        UploadTotals(14, 73_400_320),
        [failed, erring] if was_error else [failed],
        recipients=("a@example.com", "b@example.com"),
        since=NOW - timedelta(days=3, hours=4),
        box_folder_id=folder,
        cycle=2,
        now=NOW,
    )


def all_notices(about: Campaign, text: str = REASON, links: Links = NO_LINKS) -> list[Notice]:
    return [
        retry(about, reason=text, links=links),
        permanent(about, reason=text, links=links),
        success(about, folder=text, links=links),
        error(about, message=text, hint=text, kind=text, folder=text, links=links),
        recovered(about, text, folder=text, links=links),
    ]


class Page(HTMLParser):
    """What a mail client would see: tags, attributes, text without the preheader's padding."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.chunks: list[str] = []
        self.comments: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.chunks.append(data)

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.chunks).split())


def parts(notice: Notice) -> tuple[str, str]:
    """Both parts as people read them, on one line each."""
    return " ".join(notice.text.split()), Page(notice.html).text


def read_back(notice: Notice, sender: str = "A1 to A2 <a1@example.com>") -> EmailMessage:
    data = build_message(notice, sender).as_bytes()
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


# --- subjects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attempt", "max_attempts"), [(1, 3), (2, 3), (4, 7)])
def test_subject__retry(attempt: int, max_attempts: int) -> None:
    notice = retry(campaign(), attempt, max_attempts)
    assert notice.subject == f"⚠️ No Assets Found (Attempt {attempt}/{max_attempts}) - Campaign Summer Launch"
    assert notice.kind is NoticeKind.RETRY


@pytest.mark.parametrize("max_attempts", [1, 3, 5])
def test_subject__permanent(max_attempts: int) -> None:
    notice = permanent(campaign(), max_attempts)
    assert notice.subject == (
        f"❌ PERMANENTLY FAILED - Campaign Summer Launch (No Assets After {max_attempts} Attempts)"
    )
    assert notice.kind is NoticeKind.PERMANENT


def test_subject__success_and_error() -> None:
    assert success(campaign()).subject == "✅ Uploaded to Box - Campaign Summer Launch (14 assets)"
    assert success(campaign(), assets=1).subject == "✅ Uploaded to Box - Campaign Summer Launch (1 asset)"
    assert error(campaign()).subject == "🛑 A1→A2 Error - Campaign Summer Launch"


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_name__ordinary_stays_as_it_is(name: str) -> None:
    assert one_line(name) == name
    for notice in all_notices(campaign(name)):
        assert f"Campaign {name}" in notice.subject
        assert name in notice.text
        assert " ".join(name.split()) in Page(notice.html).text
        assert read_back(notice)["Subject"] == notice.subject


def test_name__missing_falls_back_to_number_then_id() -> None:
    assert error(campaign(name="\n")).subject == "🛑 A1→A2 Error - Campaign C-1001"
    assert error(campaign(name="", number="")).subject == f"🛑 A1→A2 Error - Campaign {HEX_ID}"


# --- what each says -----------------------------------------------------------------------------------------


def test_retry__says_everything_in_both_parts() -> None:
    for part in parts(retry(campaign())):
        for must in (
            "Summer Launch",
            "C-1001",
            HEX_ID,
            "1 of 3, 2 remaining",
            REASON,
            "at about 14:03 CET on Monday 23 November 2026 (Europe/Rome), when the orchestrator is running",
            "Master Assets",
            "move it out of A1",
            "Support team: please put the files into the folder",
            "Next attempt 14:03 CET on Monday 23 November 2026",
            "Deadline attempt 3",
            "still empty at the deadline, the campaign is permanently failed",
            "After attempt 3 one e-mail says that the campaign is permanently failed",
            "skip it until somebody resets it",
            "The daily report and the weekly digest name it until it is solved",
            f"python scripts/a1_retry.py explain {HEX_ID}",
        ):
            assert must in part
        for must_not in ("UPDATE campaign_status", "a1_retry.py reset", "last attempt", "None", "{{", "{%"):
            assert must_not not in part


def test_retry__the_last_but_one_says_so() -> None:
    for part in parts(retry(campaign(), attempt=2)):
        assert "2 of 3, 1 remaining" in part
        assert "That is the last attempt" in part
        assert "another e-mail like this one" not in part


def test_retry__numbers_follow_the_setting() -> None:
    for part in parts(retry(campaign(), attempt=4, max_attempts=12)):
        assert "4 of 12, 8 remaining" in part
        assert "After attempt 12 " in part
        assert "of 3" not in part


def test_retry__says_the_deadline_in_its_first_lines() -> None:
    first = Attempt(1, counted=True, permanently_failed=False)
    ahead = (NOW + timedelta(minutes=10), NOW + timedelta(minutes=40))
    notice = composer().retry(
        campaign(), first, reason=REASON, next_run_at=NOW + timedelta(minutes=3), ahead=ahead, now=NOW
    )
    lines = notice.text.splitlines()
    assert lines[4].startswith("Support team: please put")
    assert lines[6].startswith("  Next attempt  14:10 CET")
    assert lines[7].startswith("  Deadline      14:40 CET on Monday")
    for part in parts(notice):
        assert "at about 14:03 CET" in part
        assert "counts as attempt 2 from about 14:10 CET" in part


def test_automatic_reset__is_named_where_silence_is_promised() -> None:
    at = NOW + timedelta(days=30)
    last = Attempt(3, counted=True, permanently_failed=True)
    for part in parts(composer().permanent(campaign(), last, reason=REASON, again_at=at, now=NOW)):
        assert "until somebody resets it, or by itself in office hours from 14:00" in " ".join(part.split())
    first = Attempt(1, counted=True, permanently_failed=False)
    notice = composer().retry(campaign(), first, reason=REASON, next_run_at=NOW, again_days=30, now=NOW)
    for part in parts(notice):
        assert "skip it until somebody resets it, or for 30 days" in " ".join(part.split())


def test_permanent__says_everything_in_both_parts() -> None:
    for part in parts(permanent(campaign())):
        for must in (
            "Summer Launch",
            "C-1001",
            HEX_ID,
            REASON,
            "Support team: please put the files into the folder",
            "not looked at any more",
            "until somebody resets it",
            "The daily report and the weekly digest name it until it is solved",
            "Give these lines to the engineer if you cannot reset the campaign yourself",
            f"{RESET}'{HEX_ID}';",
            f"python scripts/a1_retry.py reset {HEX_ID}",
            "attempt 1 of 3",
        ):
            assert must in part
        assert "permanently failed" in part.lower()
        for must_not in ("looked at again", "retry notice", "None", "{{", "{%"):
            assert must_not not in part


def test_permanent__sql_and_command_stand_on_lines_of_their_own() -> None:
    lines = permanent(campaign()).text.splitlines()
    assert f"{RESET}'{HEX_ID}';" in lines
    assert f"python scripts/a1_retry.py reset {HEX_ID}" in lines


def test_permanent__one_attempt_is_singular_in_the_body() -> None:
    for part in parts(permanent(campaign(), max_attempts=1)):
        assert "after 1 attempt " in part.lower()


def test_permanent__command_is_that_of_the_installation() -> None:
    here = Commands("/opt/a1 to a2/bin/python", "/opt/a1 to a2/scripts", "/etc/a1/env", "robot")
    notice = composer(commands=here).permanent(
        campaign(), Attempt(3, counted=True, permanently_failed=True), reason=REASON, now=NOW
    )
    assert (
        f"\nsudo -u robot '/opt/a1 to a2/bin/python' '/opt/a1 to a2/scripts/a1_retry.py' reset {HEX_ID}"
        " --env-file /etc/a1/env\n" in notice.text
    )
    assert "leave out “sudo -u robot” when you are robot" in notice.text


def test_success__says_everything_in_both_parts() -> None:
    notice = success(campaign())
    for part in parts(notice):
        for must in ("Summer Launch", "C-1001", HEX_ID, "14", "73.4 MB (73,400,320 bytes)", "A2"):
            assert must in part
        assert "https://app.box.com/folder/3123" in part
        assert "attempt" not in part.lower()
    assert ("a", "href", "https://app.box.com/folder/3123") in Page(notice.html).attributes


def test_success__without_a_folder_there_is_no_link() -> None:
    notice = success(campaign(), folder="")
    assert "app.box.com" not in notice.text + notice.html
    assert "a" not in Page(notice.html).tags


def test_success__nobody_to_tell() -> None:
    quiet = composer(success_recipients=())
    assert quiet.success(campaign(), UploadTotals(1, 1), box_folder_id="1", now=NOW) is None


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.0 kB (1,000 bytes)"),
        (999_949, "999.9 kB (999,949 bytes)"),
        (999_960, "1.0 MB (999,960 bytes)"),
        (5_000_000_000, "5.0 GB (5,000,000,000 bytes)"),
        (10**18, "1,000.0 PB (1,000,000,000,000,000,000 bytes)"),
    ],
)
def test_success__size_in_human_units(size: int, words: str) -> None:
    assert re.search(rf"^  Size +{re.escape(words)}$", success(campaign(), size=size).text, re.MULTILINE)


def test_error__says_everything_in_both_parts() -> None:
    for part in parts(error(campaign())):
        for must in (
            "Summer Launch",
            "C-1001",
            HEX_ID,
            "Box refused",
            "Support team: Invite the app.",
            "Next try 14:03 CET",
            "What failed Box refused",
            "Kind forbidden",
            "13:00 CET on Sunday 22 November 2026 (Europe/Rome)",
            "1 of 3 spent; this failure did not spend an attempt",
            "at most once a day",
            "tries again by itself",
        ):
            assert must in part
        for must_not in ("reminder:", "None", "UPDATE campaign_status", "give this e-mail"):
            assert must_not not in part


@pytest.mark.parametrize(
    ("hint", "remedy"),
    [
        ("", "None is known for this kind of failure."),
        ("check BOX_ROOT_FOLDER_ID", "Check BOX_ROOT_FOLDER_ID."),
        (
            "widen the column: ALTER TABLE c ALTER COLUMN n TYPE text",
            "Widen the column: ALTER TABLE c ALTER COLUMN n TYPE text ",
        ),
    ],
)
def test_error__what_takes_an_engineer_says_so(hint: str, remedy: str) -> None:
    for part in parts(error(campaign(), hint=hint)):
        assert "Support team: please give this e-mail to the engineer" in part
        assert f"Remedy {remedy}" in part


def test_error__reminder_and_unknown_cure() -> None:
    for part in parts(error(campaign(), hint="", is_reminder=True)):
        assert "reminder: it is still going on" in part.lower()
        assert "None is known" in part


def test_recovered__says_everything_in_both_parts() -> None:
    notice = recovered(campaign())
    assert notice.subject == "✅ Solved - Campaign Summer Launch (3 days 4 hours)"
    assert notice.recipients == ("a@example.com", "b@example.com")
    for part in parts(notice):
        for must in (
            "Summer Launch",
            "C-1001",
            HEX_ID,
            "after 3 days 4 hours of trouble",
            f"permanently failed after 3 attempts: {REASON}",
            "10:00 CET on Friday 20 November 2026 (Europe/Rome)",
            "73.4 MB (73,400,320 bytes)",
            "https://app.box.com/folder/3123",
            "Nothing to do",
        ):
            assert must in part
        assert part.count(REASON) == 2, "what failed, and what was an error"
        for must_not in ("still:", "reset", "None", "{{", "{%"):
            assert must_not not in part
    assert "app.box.com" not in recovered(campaign(), folder="").html


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(seconds=-5), "less than a minute"),
        (timedelta(seconds=59), "less than a minute"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(minutes=12, seconds=59), "12 minutes"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(hours=2, minutes=5), "2 hours 5 minutes"),
        (timedelta(days=1, minutes=50), "1 day"),
        (timedelta(days=3, hours=4), "3 days 4 hours"),
        (timedelta(days=400, hours=1), "400 days 1 hour"),
    ],
)
def test_duration__in_plain_words(span: timedelta, words: str) -> None:
    assert plain_duration(span) == words


def old(kind: NoticeKind, *attempts: int, is_partial: bool = False) -> Overtaken:
    return Overtaken("x", kind, attempts, ("a@example.com",), is_partial)


@pytest.mark.parametrize(
    ("overtaken", "said"),
    [
        ([], ""),
        (
            [old(NoticeKind.RETRY, 2)],
            "The e-mail about attempt 2 had not gone out; this one takes its place.",
        ),
        (
            [old(NoticeKind.RETRY, 1, 2)],
            "The e-mails about attempts 1 and 2 had not gone out; this one takes their place.",
        ),
        (
            [old(NoticeKind.RETRY, *range(1, 40))],
            "The e-mails about 39 attempts had not gone out; this one takes their place.",
        ),
        (
            [old(NoticeKind.RETRY, 1, is_partial=True)],
            "The e-mail about attempt 1 had not reached everybody; where not, this one takes its place.",
        ),
        (
            [old(NoticeKind.PERMANENT, 1, 2), old(NoticeKind.ERROR)],
            "The e-mails about attempts 1 and 2, the permanent failure and the error had not gone out;"
            " this one takes their place.",
        ),
        (
            [old(NoticeKind.ERROR), old(NoticeKind.ERROR)],
            "The e-mails about 2 errors had not gone out; this one takes their place.",
        ),
    ],
)
def test_overtaken__is_one_sentence(overtaken: list[Overtaken], said: str) -> None:
    assert takes_place_of(overtaken) == said


def test_overtaken__is_said_in_both_parts() -> None:
    last = Attempt(3, counted=True, permanently_failed=True)
    before = (old(NoticeKind.RETRY, 2),)
    notice = composer().permanent(campaign(), last, reason=REASON, overtaken=before, now=NOW)
    for part in parts(notice):
        assert part.count("The e-mail about attempt 2 had not gone out; this one takes its place.") == 1
    assert notice.overtaken == before


def test_notice__carries_its_data() -> None:
    notice, again = retry(campaign()), retry(campaign())
    assert notice.recipients == ("support@example.com", "oncall@example.com")
    assert success(campaign()).recipients == ("campaigns@example.com",)
    assert (notice.campaign_id, notice.created_at) == (HEX_ID, NOW)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", notice.id)
    assert notice.id != again.id


def test_small_print__names_host_and_run() -> None:
    made = composer(origin=Origin("dam-1<b>", "0123456789ab"))
    notice = made.success(campaign(), UploadTotals(1, 1), box_folder_id="1", now=NOW)
    assert notice is not None
    assert notice.text.endswith("\nHost dam-1<b>, run 0123456789ab.\n")
    for part in parts(notice):
        assert part.endswith("Host dam-1<b>, run 0123456789ab.")
    assert "Host" not in success(campaign()).text


@pytest.mark.parametrize(
    ("at", "zone", "words"),
    [
        # the same wall time twice, in autumn
        (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Rome", "02:30 CEST on Sunday 25 October 2026"),
        (datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Rome", "02:30 CET on Sunday 25 October 2026"),
        # a zone without an abbreviation
        (NOW, "America/Sao_Paulo", "10:00 UTC-03 on Monday 23 November 2026 (America/Sao_Paulo)"),
    ],
)
def test_time__is_local_and_unmistakable(at: datetime, zone: str, words: str) -> None:
    notice = composer(timezone=ZoneInfo(zone)).retry(
        campaign(),
        Attempt(1, counted=True, permanently_failed=False),
        reason=REASON,
        next_run_at=at,
        now=NOW,
    )
    assert words in notice.text


def test_time__naive_is_refused() -> None:
    with pytest.raises(ValueError, match="aware"):
        composer().permanent(
            campaign(),
            Attempt(3, counted=True, permanently_failed=True),
            reason=REASON,
            now=NOW.replace(tzinfo=None),
        )


def test_html__fetches_nothing_and_is_small() -> None:
    for notice in all_notices(campaign()):
        page = Page(notice.html)
        assert not {"img", "link", "script", "iframe", "form"} & set(page.tags)
        assert not {name for _, name, _ in page.attributes} & {"src", "background", "srcset"}
        assert "url(" not in notice.html
        assert "@import" not in notice.html
        assert ("html", "lang", "en") in page.attributes
        assert len(notice.html.encode()) < 40_000  # Gmail cuts at 102 kB


def test_templates__three_files_with_true_extensions_each() -> None:
    expected = {f"{kind}.{end}.j2" for kind in NoticeKind for end in ("subject.txt", "txt", "html")}
    assert expected <= {path.name for path in TEMPLATES.iterdir()}


def test_import__stays_cheap() -> None:
    code = (
        "import sys, shared.notifier;"
        "sys.exit(str({'jinja2', 'smtplib', 'ssl', 'email.message', 'socket'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", code],
        cwd=SCRIPTS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.strip() == ""


# --- a limit of the campaign's own --------------------------------------------------------------------------


def test_limit__is_this_campaigns_own() -> None:
    attempt = Attempt(2, True, False, 7)
    notice = composer(3).retry(campaign(), attempt, reason=REASON, next_run_at=NOW, now=NOW)
    assert "(Attempt 2/7)" in notice.subject
    for part in parts(notice):
        assert "2 of 7, 5 remaining" in part
        assert "After attempt 7 " in part
        assert "of 3" not in part
    last = composer(3).permanent(campaign(), Attempt(7, True, True, 7), reason=REASON, now=NOW)
    assert "(No Assets After 7 Attempts)" in last.subject
    failing = RetryStatus("c", retry_count=1, max_retries=7)
    told = composer(3).error(
        campaign(), message="m", hint="", kind="k", began_at=NOW, is_reminder=False, retry=failing,
        next_run_at=NOW, now=NOW,
    )  # fmt: skip
    for part in (*parts(last), *parts(told)):
        assert "of 7" in part
        assert "of 3" not in part


def table(kind: NoticeKind, *limits: int) -> Notice:
    lines = [NoticeLine(f"c{n}", f"C-{n}", "n", limit, limit, REASON) for n, limit in enumerate(limits)]
    return digest(kind, "a@example.com", lines, ZoneInfo("Europe/Rome"), COMMANDS, NO_LINKS, NOW)


def test_limits__of_a_table_that_differ() -> None:
    one, some = table(NoticeKind.PERMANENT, 3, 3), table(NoticeKind.PERMANENT, 5, 2, 3)
    assert one.subject == "❌ PERMANENTLY FAILED - 2 Campaigns (No Assets After 3 Attempts)"
    assert some.subject == "❌ PERMANENTLY FAILED - 3 Campaigns (No Assets After 2 to 5 Attempts)"
    for part in parts(some):
        assert "after 2 to 5 attempts" in part.lower()
    for part in parts(table(NoticeKind.RETRY, 3, 3)):
        assert "After attempt 3 one e-mail says that" in part
    for part in parts(table(NoticeKind.RETRY, 5, 3)):
        assert "After its last attempt, one of 3 to 5, one e-mail says that" in part


def test_table__of_the_solved() -> None:
    lines = [NoticeLine(f"c{n}", f"C-{n}", "n", 0, 3, "1 asset, 3 bytes; solved after 1 day") for n in (1, 2)]
    notice = digest(
        NoticeKind.RECOVERED, "a@example.com", lines, ZoneInfo("Europe/Rome"), COMMANDS, NO_LINKS, NOW
    )
    assert notice.subject == "✅ Solved - 2 Campaigns"
    for part in parts(notice):
        assert part.count("solved after 1 day") == 2
        assert "Nothing to do" in part
        assert "attempt" not in part.lower()


# --- links --------------------------------------------------------------------------------------------------


def hrefs(notice: Notice) -> list[str | None]:
    return [value for tag, name, value in Page(notice.html).attributes if (tag, name) == ("a", "href")]


def assert_links(notice: Notice, *wanted: str) -> None:
    """Both parts have these links and no other, in this order; each on a line of its own."""
    lines = [line.strip() for line in notice.text.splitlines()]
    assert [line for line in lines if "https://" in line] == list(wanted)
    assert hrefs(notice) == list(wanted)


def test_links__each_notice_has_those_that_help() -> None:
    assert_links(retry(campaign(), links=LINKS), DAM_URL, PAGE_URL)
    assert_links(permanent(campaign(), links=LINKS), DAM_URL, PAGE_URL)
    assert_links(error(campaign(), folder="3123", links=LINKS), PAGE_URL, DAM_URL, BOX_URL)
    assert_links(error(campaign(), links=LINKS), PAGE_URL, DAM_URL)
    assert_links(success(campaign(), links=LINKS), BOX_URL, PAGE_URL)
    assert_links(recovered(campaign(), links=LINKS), BOX_URL, PAGE_URL)


def test_links__of_the_page_come_before_command_and_sql() -> None:
    for part in parts(permanent(campaign(), links=LINKS)):
        assert part.index("Reset the campaign on its page") < part.index("Open on the operator")
        assert part.index("Open on the operator") < part.index("with the tool") < part.index("UPDATE ")
    for part in parts(retry(campaign(), links=LINKS)):
        assert "One of the three is enough" in part
        assert "snooze the campaign on its page, or give it a limit of its own there" in part


@pytest.mark.parametrize("place", ["page", "dam", "box"])
def test_links__each_address_is_used_alone(place: str) -> None:
    links = replace(NO_LINKS, **{place: getattr(LINKS, place)})
    assert_links(retry(campaign(), links=links), *{"page": [PAGE_URL], "dam": [DAM_URL]}.get(place, []))
    own = {"page": PAGE_URL, "dam": DAM_URL, "box": BOX_URL}[place]
    assert_links(error(campaign(), folder="3123", links=links), own)


def test_links__without_addresses_only_box_has_one() -> None:
    """As it was before there were settings for them."""
    usual = "https://app.box.com/folder/3123"
    for notice in (retry(campaign()), permanent(campaign()), error(campaign(), folder="3123")):
        assert_links(notice)
    assert_links(success(campaign()), usual)
    assert_links(recovered(campaign()), usual)
    for kind in DIGEST_KINDS:
        lines = [NoticeLine("c1", "C-1", "n", 1, 3, REASON, box_folder_id="3123")]
        assert_links(digest(kind, "a@example.com", lines, ZoneInfo("Europe/Rome"), COMMANDS, NO_LINKS, NOW))
    for notice in all_notices(campaign()):
        for part in parts(notice):
            assert "its page" not in part
            assert "operator" not in part
            assert "three" not in part


@pytest.mark.parametrize(
    ("kind", "state", "places"),
    [
        (NoticeKind.RETRY, "in_retry", [PAGE_URL, DAM_URL]),
        (NoticeKind.PERMANENT, "failed", [PAGE_URL, DAM_URL]),
        (NoticeKind.ERROR, "erring", [PAGE_URL, DAM_URL, BOX_URL]),
        (NoticeKind.SUCCESS, "uploaded", [PAGE_URL, BOX_URL]),
        (NoticeKind.RECOVERED, "uploaded", [PAGE_URL, BOX_URL]),
    ],
)
def test_links__of_a_table(kind: NoticeKind, state: str, places: list[str]) -> None:
    lines = [NoticeLine(HEX_ID, "C-1", "n", 1, 3, REASON, box_folder_id="3123")]
    notice = digest(kind, "a@example.com", lines, ZoneInfo("Europe/Rome"), COMMANDS, LINKS, NOW)
    whole = f"https://page.example.com/campaigns?state={state}"
    assert_links(notice, *([whole, *places] if kind is NoticeKind.PERMANENT else [*places, whole]))


@pytest.mark.parametrize("kind", ["began", "reminder", "silent", "over"])
def test_links__of_a_task_are_its_runs(kind: Literal["began", "reminder", "silent", "over"]) -> None:
    def told(links: Links) -> Notice:
        return task_alert(
            AlertNews(kind, "t", ("exit code 4",), 3, NOW),
            tail=[], origin=Origin("h"), commands=COMMANDS, recipients=("a@example.com",),
            timezone=ZoneInfo("UTC"), links=links, now=NOW,
        )  # fmt: skip

    assert_links(told(LINKS), "https://page.example.com/runs")
    assert_links(told(NO_LINKS))


@pytest.mark.parametrize("attack", ATTACKS)
def test_links__of_a_hostile_id_stay_ours(attack: str) -> None:
    lines = [NoticeLine(attack, attack, attack, 1, 3, attack, box_folder_id=attack)]
    tables = [
        digest(kind, "a@example.com", lines, ZoneInfo("Europe/Rome"), COMMANDS, LINKS, NOW)
        for kind in DIGEST_KINDS
    ]
    ours = (
        "https://page.example.com/campaigns",
        "https://dam.example.com/#/folder/",
        "https://box.example.com/",
    )
    for notice in [*all_notices(campaign(attack, attack, attack), attack, LINKS), *tables]:
        for address in hrefs(notice):
            assert address is not None
            assert address.startswith(ours)
            assert re.fullmatch("[A-Za-z0-9:/#?=._~%-]+", address)
            assert address in [line.strip() for line in notice.text.splitlines()]


# --- a task that keeps failing ------------------------------------------------------------------------------


def alert(kind: Literal["began", "reminder", "silent", "over"], ending: str, *tail: str) -> Notice:
    return task_alert(
        AlertNews(kind, "a1_to_a2", (ending,), 3, NOW),
        tail=tail, origin=Origin("dam-1", "0123456789ab"), commands=COMMANDS,
        recipients=("engineer@example.com",), timezone=ZoneInfo("Europe/Rome"), now=NOW,
    )  # fmt: skip


AT = "2026-11-23T12:59:58.123Z"


@pytest.mark.parametrize(
    ("ending", "tail", "system"),
    [
        ("exit code 75", [f"{AT} ERROR run=1 script: search: the DAM at x is out of reach"], "the DAM"),
        ("exit code 75", [f"{AT} ERROR run=1 script: PostgreSQL: no connection"], "PostgreSQL"),
        ("exit code 2", [f"{AT} ERROR run=1 uploader: Box refused the credentials"], "Box"),
        (
            "exit code 2",
            [
                f"{AT} WARNING run=1 uploader: campaign c (Box Office) failed",
                f"{AT} ERROR run=1 delivery: 2 notices stay in the outbox: mail server m refused a login",
                f"{AT} INFO run=1 uploader: done in 1.00 s",
            ],
            "the mail server",
        ),
        ("exit code 2", [f"{AT} ERROR run=1 uploader: DAM_BASE_URL: missing"], "the settings"),
        ("exit code 2", ["SMTP_HOST: missing"], "the settings"),
        (
            "exit code 3",
            [f"{AT} ERROR run=1 script: a bug ended the run", "  | BoxError"],
            "the program itself",
        ),
        ("exit code 3", ["OSError: [Errno 28] No space left on device"], "the disk"),
        ("exit code 75", [f"{AT} ERROR run=1 script: PostgreSQL: could not extend: disk full"], "the disk"),
        (
            "exit code 75",
            [f"{AT} WARNING run=1 uploader: another run holds the lock: 42 on dam-1"],
            "another run",
        ),
        ("killed by SIGKILL", [f"{AT} INFO run=1 uploader: 14 files in Box"], "the host"),
        ("exit code 75", [f"{AT[:-5]}Z ERROR script: PostgreSQL: no connection"], "PostgreSQL"),
    ],
)
def test_alert__says_which_system_and_what_to_do(ending: str, tail: list[str], system: str) -> None:
    for part in parts(alert("began", ending, *tail)):
        assert f"has not succeeded since: {system} is the problem." in part
        assert "Engineer: " in part
        assert f"System {system}" in part
        assert "python scripts/orchestrator-prod.py --check --online" in part
        assert part.endswith("Host dam-1, run 0123456789ab.")


def test_alert__a_system_that_is_not_known_is_not_guessed() -> None:
    for part in parts(alert("began", "exit code 75", f"{AT} INFO run=1 uploader: Box has 14 files")):
        assert "failed 3 times and has not succeeded since. " in part
        assert "System not known" in part


def test_alert__commands_stand_on_lines_of_their_own() -> None:
    check = "python scripts/orchestrator-prod.py --check --online"
    assert check in alert("reminder", "exit code 75", "x").text.splitlines()
    assert "systemctl restart a1-to-a2" in alert("silent", "nothing written for an hour").text.splitlines()
    assert "Nothing to do" in alert("over", "exit code 75").text


# --- hostile text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\r\nBcc: x@y", "a Bcc: x@y"),
        ("a\0b", "a b"),
        ("a \n\t \u2028 b", "a b"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        ("\ufeffname", "name"),
        ("bad \ud800 half", "bad \ufffd half"),
        ("a\x1b[31mb\x85c", "a [31mb c"),
        (" \n ", ""),
        ("x" * 501, "x" * 499 + "…"),
        ("x" * 500, "x" * 500),
    ],
)
def test_one_line__cleans(text: str, line: str) -> None:
    assert one_line(text) == line


@given(hostile_text)
def test_one_line__is_one_safe_line(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", line)
    assert one_line(line) == line
    assert line.encode().decode() == line


def test_one_line__long_text_is_no_trap() -> None:
    assert one_line(" " * 2_000_000 + "x\n" * 100_000, limit=5) == "x x…"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(name=hostile_text, text=hostile_text, campaign_id=hostile_text.filter(bool))
@example("x\r\nBcc: evil@example.com", "\r\n.\r\nMAIL FROM:<x@y>", "a\r\nX-Evil: 1")
@example("=?utf-8?q?a=0D=0ABcc:_evil=40example.com?=", "</title><script>", "=?utf-8?b?Cg==?=")
@example("a" * 3000, "b" * 3000, "'; DROP TABLE campaign_status; --")
@example("x --><script>alert(1)</script>", '" onmouseover="x', "-rf")
def test_hostile__cannot_break_header_or_html(name: str, text: str, campaign_id: str) -> None:
    # What no address can name has no link: the test below tells of it.
    text = "x" if one_line(text) in NOT_IN_A_PATH or text in NOT_IN_A_PATH else text
    links = NO_LINKS if campaign_id in NOT_IN_A_PATH else LINKS
    for notice, model in [
        *zip(all_notices(campaign(name, text, campaign_id), text), all_notices(campaign()), strict=True),
        *zip(
            all_notices(campaign(name, text, campaign_id), text, links),
            all_notices(campaign(), REASON, links),
            strict=True,
        ),
    ]:
        data = build_message(notice, "a1@example.com").as_bytes()
        assert max(map(len, data.split(b"\r\n"))) <= 998
        assert b"\n" not in data.replace(b"\r\n", b"")
        assert data.isascii()
        message = email.message_from_bytes(data, policy=email.policy.default)
        headers = [key for key in read_back(model) if campaign_id or key != "X-Campaign-Id"]
        assert message.keys() == headers
        assert message["Subject"] == notice.subject
        assert not message.defects
        page, calm_page = Page(notice.html), Page(model.html)
        assert page.tags == calm_page.tags
        assert page.comments == calm_page.comments
        assert [(tag, key) for tag, key, _ in page.attributes] == [
            (tag, key) for tag, key, _ in calm_page.attributes
        ]
        # as many lines as ever: none was forged
        assert len(notice.text.splitlines()) == len(model.text.splitlines())


def sql_literal(statement: str) -> str:
    """The value of the only literal, read as PostgreSQL does; fails when anything but `;` follows it."""
    assert statement.startswith(RESET)
    rest = statement.removeprefix(RESET)
    has_escapes = rest.startswith("E'")
    position, value = (2 if has_escapes else 1), ""
    assert rest[position - 1] == "'"
    while True:
        char = rest[position]
        if rest.startswith("''", position):
            value, position = value + "'", position + 2
        elif char == "'":
            break
        elif char == "\\":
            # outside E'' a backslash means one thing or another, as standard_conforming_strings has it
            assert has_escapes
            if rest[position + 1] == "\\":
                value, position = value + "\\", position + 2
            else:
                digits = {"u": 4, "U": 8}[rest[position + 1]]
                value += chr(int(rest[position + 2 : position + 2 + digits], 16))
                position += 2 + digits
        else:
            value, position = value + char, position + 1
    assert rest[position:] == "';"
    return value


@given(hostile_text)
@example("'; DROP TABLE campaign_status; --")
@example("\\'; DROP TABLE campaign_status; --")
@example("\\")
@example("it''s")
@example("a\n\\! rm -rf /")
@example("😀\u202e")
def test_reset_sql__literal_round_trip(campaign_id: str) -> None:
    statement = reset_sql(campaign_id)
    assert sql_literal(statement) == campaign_id
    assert statement.isprintable()


def test_reset_sql__ordinary_id_is_a_plain_literal() -> None:
    assert reset_sql(HEX_ID) == f"{RESET}'{HEX_ID}';"
    assert reset_sql("it's") == f"{RESET}'it''s';"
    assert reset_sql("a\\b") == f"{RESET}E'a\\\\b';"


def test_reset_command__quotes_for_the_shell() -> None:
    assert COMMANDS.reset(HEX_ID) == f"python scripts/a1_retry.py reset {HEX_ID}"
    assert COMMANDS.reset("-x") == "python scripts/a1_retry.py reset -- -x"
    assert COMMANDS.reset("a b'; rm -rf ~") == "python scripts/a1_retry.py reset 'a b'\"'\"'; rm -rf ~'"
    assert COMMANDS.reset("") == "python scripts/a1_retry.py reset ''"


@settings(max_examples=40, deadline=None)
@given(hostile_text.filter(lambda text: "\0" not in text and not re.search("[\ud800-\udfff]", text)))
@example("a\n$(touch /tmp/x)`id`")
@example("é\u202e0f\n9")
def test_reset_command__round_trip_in_bash(campaign_id: str) -> None:
    command = f"printf '%s\\0' reset {shell_word(campaign_id)}"
    assert command.isprintable()
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    words = [word.decode() for word in done.stdout.split(b"\0")[:-1]]
    assert words == ["reset", campaign_id]


def test_reset_command__nul_does_not_name_another_campaign() -> None:
    assert HEX_ID not in shlex.split(COMMANDS.reset(f"{HEX_ID}\0x"))
    assert "\\x00" not in COMMANDS.reset(f"{HEX_ID}\0x")


# --- the message on the wire --------------------------------------------------------------------------------


def test_message__headers() -> None:
    notice = retry(campaign())
    message = read_back(notice, "Kampagnen, Büro <a1@mail.example.com>".replace("Kampagnen,", "Kampagnen"))
    assert message["From"].addresses[0].addr_spec == "a1@mail.example.com"
    assert message["From"].addresses[0].display_name == "Kampagnen Büro"
    assert message["To"] == "support@example.com, oncall@example.com"
    assert message["Date"].datetime == NOW
    assert message["Message-ID"] == f"<{notice.id}@mail.example.com>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["X-Campaign-Id"] == HEX_ID
    assert message.get_content_type() == "multipart/alternative"
    text, html = message.iter_parts()
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert text.get_content_charset() == html.get_content_charset() == "utf-8"
    assert text.get_content().replace("\r\n", "\n") == notice.text
    assert html.get_content().replace("\r\n", "\n") == notice.html


def test_message__long_subject_folds_and_reads_back() -> None:
    for name in ("Läuft " * 80, "夏" * 300, "x" * 499, "👩‍👩‍👧" * 60):
        notice = retry(campaign(name.strip()))
        data = build_message(notice, "a1@example.com").as_bytes()
        assert max(map(len, data.split(b"\r\n"))) <= 100
        assert read_back(notice)["Subject"] == notice.subject


def in_cycle(cycle: int | None, campaign_id: str = HEX_ID) -> Notice:
    attempt = Attempt(1, True, False, 3, cycle or 1)
    about = campaign(campaign_id=campaign_id)
    notice = composer().retry(about, attempt, reason=REASON, next_run_at=NOW, now=NOW)
    return replace(notice, cycle=cycle)


def test_thread__is_that_of_the_cycle() -> None:
    one, again = read_back(in_cycle(1)), read_back(in_cycle(1))
    assert one["References"] == again["References"]
    assert one["Message-ID"] != again["Message-ID"]
    assert one["References"] != one["Message-ID"]
    assert re.fullmatch(r"<[0-9a-f]{32}\.1@example\.com>", one["References"])
    assert read_back(in_cycle(2))["References"] != one["References"]
    assert read_back(in_cycle(1, "a" * 40))["References"] != one["References"]
    assert read_back(in_cycle(None))["References"] is None
    every = [retry(campaign()), permanent(campaign()), success(campaign()), error(campaign())]
    assert {read_back(notice)["References"] for notice in every} == {one["References"]}
    assert read_back(recovered(campaign()))["References"] == read_back(in_cycle(2))["References"]


@given(hostile_text.filter(bool))
@example("a\r\nBcc: evil@example.com")
@example("><x@y>\r\n\r\nbody")
@example("\ud800")
@example("x" * 5000)
def test_thread__a_hostile_id_is_no_header(campaign_id: str) -> None:
    notice = in_cycle(3, campaign_id)
    data = build_message(notice, "a1@example.com").as_bytes()
    (line,) = [line for line in data.split(b"\r\n") if line.startswith(b"References:")]
    assert re.fullmatch(rb"References: <[0-9a-f]{32}\.3@example\.com>", line)
    assert len(line) <= 78


def test_message__many_recipients_all_show() -> None:
    everybody = tuple(f"person{n}@example.com" for n in range(40))
    notice = composer(error_recipients=everybody).permanent(
        campaign(), Attempt(3, counted=True, permanently_failed=True), reason=REASON, now=NOW
    )
    assert [address.addr_spec for address in read_back(notice)["To"].addresses] == list(everybody)


# --- pauses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tries", "minutes"),
    [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 2),
        (5, 4),
        (6, 8),
        (7, 16),
        (8, 32),
        (9, 60),
        (10, 60),
        (10**9, 60),
    ],
)
def test_pauses__table(tries: int, minutes: int) -> None:
    assert PAUSES[min(tries, len(PAUSES)) - 1] == timedelta(minutes=minutes)


def test_give_up_after__is_five_days() -> None:
    assert timedelta(days=5) == GIVE_UP_AFTER
