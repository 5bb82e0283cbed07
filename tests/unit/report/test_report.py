"""The daily report: which time it covers, what it says, and what a hostile name cannot do to it."""

from __future__ import annotations

import email
import email.policy
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.base.commands import Commands
from shared.base.links import NO_LINKS, NOT_IN_A_PATH, Links
from shared.base.values import Campaign, Notice, NoticeKind
from shared.notifier import Composer, build_message
from shared.report.day import ReportDay, local_day, report_day
from shared.report.figures import (
    SHOWN_ROWS,
    Backlog,
    DayReport,
    EmptyCampaign,
    LastingFailure,
    Reset,
    Section,
    TaskRuns,
    Upload,
    UploadSection,
)
from shared.report.week import (
    ErringCampaign,
    FailedCampaign,
    SnoozedCampaign,
    UntoldNotice,
    WeekReport,
    shares,
)
from shared.report.wording import LINKED_ROWS
from shared.rules.alerts import TaskAlert

ROME = ZoneInfo("Europe/Rome")
COMMANDS = Commands("python", "scripts")
TODAY = date(2026, 11, 23)
NOW = datetime(2026, 11, 23, 18, 0, 4, tzinfo=UTC)
YESTERDAYS = (date(2026, 11, 22), datetime(2026, 11, 22, 18, 0, 3, tzinfo=UTC))
HOUR = timedelta(hours=1)
HEX_ID = "5f3c9a1e7b2d4c6f8a0b1c2d3e4f5a6b7c8d9e0f"
EMPTY = 'the folder "Master Assets" contains no usable files'
CAMPAIGN = Campaign(HEX_ID, "C-1001", "Summer Launch", "A1")
DAY = report_day(TODAY, NOW, ROME, YESTERDAYS)
RUNS = (TaskRuns("a1_to_a2", done=281), TaskRuns("daily_report", done=1))


def quiet(day: ReportDay = DAY) -> DayReport:
    return DayReport(day=day, next_run_at=NOW + timedelta(minutes=3), runs=RUNS)


def upload(campaign: Campaign = CAMPAIGN, *, seconds: int = 723, hours_ago: int = 6) -> Upload:
    done_at = NOW - hours_ago * HOUR
    return Upload(campaign, 14, 73_400_320, done_at - timedelta(seconds=seconds), done_at)


def busy(campaign: Campaign = CAMPAIGN, text: str = EMPTY, task: str = "a1_to_a2") -> DayReport:
    """Something in every section, all of it about this campaign."""
    return replace(
        quiet(),
        uploads=UploadSection((upload(campaign),), 1, 14, 73_400_320),
        uploads_before=UploadSection((upload(campaign, seconds=8, hours_ago=22),), 1, 14, 73_400_320),
        in_retry=Section((EmptyCampaign(campaign, 2, NOW - HOUR / 20, text),), 1),
        failed=Section((EmptyCampaign(campaign, 3, NOW - 76 * HOUR, text),), 1),
        failures=Section((LastingFailure(campaign, text, text, NOW - 25 * HOUR),), 1),
        failures_over=Section((campaign,), 1),
        alerts=(TaskAlert(task, text, 4, NOW - HOUR / 5),),
        runs=(TaskRuns(task, done=270, failing=12, late=2, failed=1, again=9, lost=3),),
        runs_before=(TaskRuns(task, done=61),),
        newly_failed=2,
        resets=Section(
            (
                Reset(
                    campaign, "ann", "page", NOW - 2 * HOUR, text.replace(EMPTY, "the files are there"), False
                ),
                Reset(campaign, "a1_to_a2", "auto", NOW - HOUR, text, True),
            ),
            2,
        ),
        backlog=Backlog(waiting=2, oldest_at=NOW - HOUR / 2, given_up=1),
    )


COMPOSER = Composer(
    timezone=ROME,
    max_attempts=3,
    folder_name="Master Assets",
    commands=COMMANDS,
    error_recipients=("support@example.com",),
    success_recipients=(),
    report_recipients=("managers@example.com",),
)


LINKS = Links(page="https://page.example.com")


def compose(report: DayReport, links: Links = NO_LINKS) -> Notice:
    return replace(COMPOSER, links=links).daily_report(report, notice_id="the-id", now=NOW)


class Page(HTMLParser):
    """The tags and the text that a mail client would see."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.chunks: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name) for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.chunks.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.chunks).split())


def parts(report: DayReport) -> tuple[str, str]:
    notice = compose(report)
    return " ".join(notice.text.split()), Page(notice.html).text


# --- which time it covers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("day", "zone", "start", "hours"),
    [
        pytest.param(date(2026, 11, 23), "Europe/Rome", "2026-11-22T23:00", 24, id="ordinary"),
        pytest.param(date(2026, 3, 29), "Europe/Rome", "2026-03-28T23:00", 23, id="spring"),
        pytest.param(date(2026, 10, 25), "Europe/Rome", "2026-10-24T22:00", 25, id="autumn"),
        pytest.param(date(2026, 4, 24), "Africa/Cairo", "2026-04-23T22:00", 23, id="no midnight"),
        pytest.param(date(2026, 10, 25), "Atlantic/Azores", "2026-10-25T00:00", 25, id="two midnights"),
    ],
)
def test_local_day__table(day: date, zone: str, start: str, hours: int) -> None:
    found_start, found_end = local_day(day, ZoneInfo(zone))
    assert found_start == datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert found_end - found_start == timedelta(hours=hours)


@given(
    st.dates(date(2025, 1, 1), date(2037, 12, 30)), st.sampled_from(["Europe/Rome", "Africa/Cairo", "UTC"])
)
def test_local_day__days_join_without_gap(day: date, zone: str) -> None:
    end = local_day(day, ZoneInfo(zone))[1]
    assert end == local_day(day + timedelta(days=1), ZoneInfo(zone))[0]
    assert end.astimezone(ZoneInfo(zone)).date() == day + timedelta(days=1)


@pytest.mark.parametrize(
    ("previous", "since"),
    [
        pytest.param(None, "2026-11-22T23:00:00", id="none: the day's own midnight"),
        pytest.param(YESTERDAYS, "2026-11-22T18:00:03", id="yesterday's, 19:00 in Rome"),
        pytest.param((date(2026, 11, 20), datetime(2026, 11, 20, 18, tzinfo=UTC)), "2026-11-20T18:00:00",
                     id="days without a report"),
        pytest.param((date(2026, 11, 22), datetime(2026, 11, 23, 9, tzinfo=UTC)), "2026-11-22T23:00:00",
                     id="yesterday's, made today: it told of yesterday to its end"),
        pytest.param((date(2026, 11, 20), datetime(2026, 11, 23, 9, tzinfo=UTC)), "2026-11-20T23:00:00",
                     id="an older day's, made today: it told of that day alone"),
        pytest.param((date(2026, 11, 10), datetime(2026, 11, 10, 18, tzinfo=UTC)), "2026-11-22T23:00:00",
                     id="too long ago"),
    ],
)  # fmt: skip
def test_report_day__goes_on_where_the_last_one_ended(
    previous: tuple[date, datetime] | None, since: str
) -> None:
    day = report_day(TODAY, NOW, ROME, previous)
    assert (day.start, day.until) == (datetime(2026, 11, 22, 23, tzinfo=UTC), NOW)
    assert day.since == datetime.fromisoformat(since).replace(tzinfo=UTC)
    assert not day.is_over


def test_report_day__of_the_past_is_whole() -> None:
    day = report_day(date(2026, 11, 22), NOW, ROME, None)
    assert (day.until, day.is_over) == (datetime(2026, 11, 22, 23, tzinfo=UTC), True)


def test_report_day__refuses_the_future_and_naive_times() -> None:
    with pytest.raises(ValueError, match="has not begun"):
        report_day(date(2026, 11, 24), NOW, ROME, None)
    with pytest.raises(ValueError, match="aware"):
        report_day(TODAY, NOW.replace(tzinfo=None), ROME, None)


# --- what it says -------------------------------------------------------------------------------------------


def test_busy__says_everything_in_both_parts() -> None:
    for part in parts(busy()):
        for must in (
            "Monday 23 November 2026",
            "rom 00:00 to 19:00 CET (Europe/Rome)",
            "1 campaign, 14 assets, 73.4 MB (73,400,320 bytes)",
            "14 assets, 73.4 MB, in 12 min 3 s, done 23 Nov 13:00 CET",
            "14 assets, 73.4 MB, in 8 s, done 22 Nov 21:00 CET",
            "C-1001 Summer Launch",
            "for 3 d 4 h, since 20 Nov 15:00 CET",
            f"python scripts/a1_retry.py reset {HEX_ID}",
            "python scripts/a1_retry.py reset --all-failed",
            "attempt 2 of 3, the last one 23 Nov 18:57 CET",
            "19:03 CET",
            "since 22 Nov 18:00 CET (1 d 1 h)",
            "4 times since 23 Nov 18:48 CET (12 min)",
            "an error e-mail was sent about these",
            "2 not accepted by the mail server so far, the oldest from 23 Nov 18:30 CET",
            "1 given up",
            "permanently failed 1 now; 2 given up since the last report",
            "support team: 1 permanently failed campaign needs files and a reset; 1 error of a campaign must",
            "engineer: 1 task keeps failing; 1 e-mail was given up",
            "23 Nov 17:00 CET, by ann; the files are there",
            "23 Nov 18:00 CET, by itself",
            "(undone)",
            "since the report of 22 Nov 19:00 CET",
        ):
            assert must.lower() in part.replace(" ,", ",").lower(), must
        for must_not in ("Nothing happened", "None", "{{", "{%", "as of now", "0 more"):
            assert must_not not in part


def test_busy__runs_by_task() -> None:
    text, html = parts(busy())
    assert "Runs 283 done 258 done, with failing campaigns 12 failed 1 to be tried again 9 lost 3" in text
    assert "283: 258 done, 12 done with failing campaigns, 1 failed, 9 to be tried again, 3 lost;" in html
    row = "a1_to_a2: 258 done, 12 done with failing campaigns, 1 failed, 9 to be tried again, 3 lost;"
    assert f"{row} 2 started late" in text
    assert "a1_to_a2: 61 done, 0 done with failing campaigns, 0 failed" in text
    assert "a1_to_a2 258 12 1 9 3 2" in html
    assert "a1_to_a2 61 0 0 0 0 0" in html


def test_busy__commands_stand_on_lines_of_their_own() -> None:
    assert f"  python scripts/a1_retry.py reset {HEX_ID}" in compose(busy()).text.splitlines()


def test_busy__names_only_the_sections_it_has() -> None:
    for part in parts(replace(quiet(), uploads=UploadSection((upload(),), 1, 14, 73_400_320))):
        assert "14 assets, 73.4 MB, in 12 min 3 s" in part
        for absent in ("a1_retry.py", "errors that are over", "not delivered", "the next run", "earlier"):
            assert absent not in part.lower()


def test_busy__new_failures_are_marked() -> None:
    fresh = EmptyCampaign(CAMPAIGN, 3, NOW - HOUR, EMPTY)
    for part in parts(replace(busy(), failed=Section((fresh,), 1))):
        assert "for 1 h 0 min, since 23 Nov 18:00 CET, now in A1, new" in part
    assert ", new" not in " ".join(parts(busy()))


def test_failed__by_hand_has_no_age() -> None:
    by_hand = EmptyCampaign(CAMPAIGN, 3, None, "")
    for part in parts(replace(quiet(), failed=Section((by_hand,), 1))):
        assert "since an unknown time, now in A1" in part


def test_long_sections__are_cut_and_say_so() -> None:
    many = tuple(
        Campaign(f"{n:040x}", f"C-{n}", f"Campaign {n} " + "x" * 60, "A1") for n in range(SHOWN_ROWS)
    )
    report = replace(
        busy(),
        uploads=UploadSection(tuple(map(upload, many)), 1234, 9, 9),
        uploads_before=UploadSection(tuple(map(upload, many)), 99, 9, 9),
        failed=Section(tuple(EmptyCampaign(one, 3, NOW, EMPTY) for one in many), 151),
        in_retry=Section(tuple(EmptyCampaign(one, 1, NOW, EMPTY) for one in many), 60),
        failures=Section(tuple(LastingFailure(one, "Box/x", "y" * 120, NOW) for one in many), 70),
        failures_over=Section(many, 80),
        resets=Section(tuple(Reset(one, "ann", "page", NOW, "y" * 60, False) for one in many[:20]), 70),
    )
    for part in parts(report):
        for more in (1194, 59, 111, 20, 30, 40, 50):
            assert f"and {more} more" in part
    for links in (NO_LINKS, LINKS):
        assert len(compose(report, links).html.encode()) < 100_000, "Gmail cuts at 102 kB"
    assert f"and {70 - LINKED_ROWS} more" in compose(report, LINKS).text


def test_past__says_what_is_told_as_of_now() -> None:
    day = report_day(date(2026, 11, 22), NOW, ROME, None)
    for part in parts(replace(busy(), day=day)):
        assert "from 00:00 to 24:00 (Europe/Rome)" in part.replace("From", "from")
        assert "are shown as of now" in part
        assert "in no report so far" in part.lower()


def test_quiet__is_one_line() -> None:
    assert quiet().is_quiet
    text, html = parts(quiet())
    told = "no campaign was uploaded, none is in retry or has failed, and none of the 282 runs had trouble."
    assert text == (
        "DAILY REPORT - 2026-11-23"
        " Nothing happened on Monday 23 November 2026 up to 19:00 CET (Europe/Rome):"
        f" {told}"
        " -- Sent automatically by the A1→A2 upload, 19:00 CET on Monday 23 November 2026 (Europe/Rome)."
    )
    assert f"Nothing happened up to 19:00 CET (Europe/Rome): {told}" in html
    assert "a1_to_a2" not in html
    for part in parts(replace(quiet(), runs=())):
        assert "and no runs were recorded." in part


@pytest.mark.parametrize(
    "section",
    [
        "uploads",
        "uploads_before",
        "in_retry",
        "failed",
        "failures",
        "failures_over",
        "resets",
        "newly_failed",
        "alerts",
        "runs",
        "backlog",
    ],
)
def test_quiet__nothing_may_stand(section: str) -> None:
    report = replace(quiet(), **{section: getattr(busy(), section)})
    assert not report.is_quiet
    for part in parts(report):
        assert "Nothing happened" not in part


@pytest.mark.parametrize("backlog", [Backlog(1, NOW - HOUR, 0), Backlog(0, None, 1)])
def test_quiet__nothing_may_be_owed(backlog: Backlog) -> None:
    report = replace(quiet(), backlog=backlog)
    assert not report.is_quiet
    for part in parts(report):
        assert ("1 not accepted by the mail server" in part) is bool(backlog.waiting)
        assert ("1 given up" in part) is bool(backlog.given_up)


@pytest.mark.parametrize(
    "runs",
    [
        TaskRuns("t", 1, late=1),
        TaskRuns("t", 1, failed=1),
        TaskRuns("t", 1, again=1),
        TaskRuns("t", 1, lost=1),
    ],
)
def test_quiet__no_run_may_have_had_trouble(runs: TaskRuns) -> None:
    assert not replace(quiet(), runs=(runs,)).is_quiet
    assert not replace(quiet(), runs_before=(runs,)).is_quiet
    assert replace(quiet(), runs_before=(TaskRuns("t", 1),)).is_quiet


@pytest.mark.parametrize(
    ("section", "colour"),
    [("failed", "#dc2626"), ("alerts", "#dc2626"), ("in_retry", "#d97706"), ("uploads", "#16a34a")],
)
def test_colour__follows_what_stands(section: str, colour: str) -> None:
    html = compose(replace(quiet(), **{section: getattr(busy(), section)})).html
    assert f"border-top:5px solid {colour}" in html


def test_notice__carries_its_data_and_no_campaign() -> None:
    notice = compose(quiet())
    assert notice.subject == "📊 Daily Report - 2026-11-23"
    assert (notice.kind, notice.campaign_id, notice.id) == (NoticeKind.DAILY_REPORT, "", "the-id")
    assert (notice.recipients, notice.created_at) == (("managers@example.com",), NOW)
    message = email.message_from_bytes(
        build_message(notice, "a1@example.com").as_bytes(), policy=email.policy.default
    )
    assert message["Subject"] == notice.subject
    assert message["X-Campaign-Id"] is None


# --- hostile text -------------------------------------------------------------------------------------------

hostile_text = st.text(
    st.one_of(st.characters(), st.sampled_from(list("\r\n\0\t\x85\u2028\u202e\ufeff\ud800<>&\"'\\{}%:-"))),
    max_size=60,
)


@settings(max_examples=40, deadline=None)
@given(name=hostile_text, text=hostile_text, campaign_id=hostile_text)
@example("x\r\n- forged line", "</p><script>alert(1)</script>", "a\r\nX-Evil: 1")
@example('" onmouseover="x', "{{ name }} {% if %}", "'; DROP TABLE campaign_status; --")
def test_hostile__cannot_break_lines_or_html(name: str, text: str, campaign_id: str) -> None:
    text = f"x{text}"  # an empty one is left out
    report = busy(Campaign(campaign_id, "C-1", name, text), text, task=text)
    links = NO_LINKS if campaign_id in NOT_IN_A_PATH else LINKS
    notice, calm = compose(report, links), compose(busy(), links)
    assert len(notice.text.splitlines()) == len(calm.text.splitlines())
    page, calm_page = Page(notice.html), Page(calm.html)
    assert page.tags == calm_page.tags
    assert page.attributes == calm_page.attributes
    assert notice.subject == calm.subject
    build_message(notice, "a1@example.com").as_bytes()


# --- the weekly digest --------------------------------------------------------------------------------------


def week(campaign: Campaign = CAMPAIGN, text: str = EMPTY) -> WeekReport:
    return WeekReport(
        date=date(2026, 11, 23),
        stuck=3,
        failed=Section((FailedCampaign(campaign, NOW - 76 * HOUR, 2, text, text, NOW - 90 * HOUR),), 1),
        erring=Section((ErringCampaign(campaign, f"Box/{text}", text, NOW - 30 * HOUR),), 1),
        snoozed=Section((SnoozedCampaign(campaign, NOW + 30 * HOUR, text, text),), 1),
        untold=Section((UntoldNotice(text, NOW - 30 * HOUR, True, text),), 1),
    )


def digest_of(report: WeekReport, links: Links = NO_LINKS) -> Notice:
    return replace(COMPOSER, links=links).weekly_digest(report, notice_id="the-id", now=NOW)


@settings(max_examples=30, deadline=None)
@given(name=hostile_text, text=hostile_text, campaign_id=hostile_text)
@example("x\r\n- forged line", "</p><script>alert(1)</script>", "a\r\nX-Evil: 1")
@example('" onmouseover="x', "{{ name }} {% if %}", "'; DROP TABLE campaign_status; --")
def test_hostile__cannot_break_a_digest(name: str, text: str, campaign_id: str) -> None:
    links = NO_LINKS if campaign_id in NOT_IN_A_PATH else LINKS
    hostile = week(Campaign(campaign_id, "C-1", name, "A1"), f"x{text}")
    notice, calm = digest_of(hostile, links), digest_of(week(), links)
    assert len(notice.text.splitlines()) == len(calm.text.splitlines())
    page, calm_page = Page(notice.html), Page(calm.html)
    assert page.tags == calm_page.tags
    assert page.attributes == calm_page.attributes
    assert notice.subject == calm.subject == "🗓️ Stuck Campaigns - 3 (2026-11-23)"
    build_message(notice, "a1@example.com").as_bytes()


def addresses(notice: Notice) -> tuple[list[str], list[str]]:
    """Of the links in the HTML, and of the lines of the text that are one; less the page's own."""
    found = re.findall(r'<a href="([^"]*)"', notice.html)
    lines = [line.strip() for line in notice.text.splitlines() if "https://" in line]
    ours = f"{LINKS.page}/"
    assert all(one.startswith(ours) for one in [*found, *lines])
    return [one.removeprefix(ours) for one in found], [one.removeprefix(ours) for one in lines]


def test_links__rows_and_lists_of_a_day() -> None:
    html, text = addresses(compose(busy(), LINKS))
    row = f"campaigns/{HEX_ID}"
    assert text == [
        *(row, "campaigns?state=failed"),
        *(row, row),
        *(row, "campaigns?state=erring"),
        row,
        "notices?state=given_up",
        *(row, "campaigns?state=in_retry"),
        *(row, "campaigns?state=uploaded"),
        *(row, "runs"),
    ]
    assert html == [*text[:4], "runs", *text[4:]], "the task that fails links to the runs, too"
    waiting = replace(busy(), backlog=Backlog(waiting=2, oldest_at=NOW))
    assert all("notices" in found for found in addresses(compose(waiting, LINKS)))
    assert addresses(compose(quiet(), LINKS)) == ([], [])


def test_links__rows_and_lists_of_a_week() -> None:
    html, text = addresses(digest_of(week(), LINKS))
    row = f"campaigns/{HEX_ID}"
    lists = ["campaigns?state=failed", "campaigns?state=erring", "campaigns?state=snoozed"]
    assert html == text == [*(one for each in lists for one in (row, each)), "notices"]
    given_up = replace(week(), untold=Section((UntoldNotice("s", NOW, False, "e"),), 1))
    assert addresses(digest_of(given_up, LINKS))[1][-1] == "notices?state=given_up"


def test_links__without_the_page_there_are_none() -> None:
    for notice in (compose(busy()), digest_of(week())):
        assert addresses(notice) == ([], [])
        assert "page" not in notice.text
        assert "operator" not in notice.html


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=4, max_size=4))
@example([10_000, 0, 0, 0])
@example([10_000, 10_000, 10_000, 10_000])
@example([49, 51, 10_000, 3])
def test_shares__fill_the_lines_and_leave_none_out(totals: list[int]) -> None:
    found = shares(totals)
    assert sum(found) == min(200, sum(totals))
    assert all(min(total, 50) <= share <= total for share, total in zip(found, totals, strict=True))


def test_in_retry__tells_the_campaigns_own_limit() -> None:
    own = EmptyCampaign(CAMPAIGN, 2, NOW, EMPTY, 7)
    for part in parts(replace(quiet(), in_retry=Section((own, replace(own, max_attempts=None)), 2))):
        assert "attempt 2 of 7" in part
        assert "attempt 2 of 3" in part
