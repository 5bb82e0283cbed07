"""Every page on a real PostgreSQL: what it shows, escapes, links to, and leaves alone."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit
from uuid import uuid4

import psycopg2
import pytest

from hostile import ATTACKS
from page import OPERATOR, READER, Browser, Page, open_page
from page_sample import Sample, fill
from shared.page.app_context import EXTENSION
from shared.page.drawing import way_back
from shared.page.filters import STATES
from shared.page.pictures import week_of

LISTS = ("/", "/campaigns", "/runs", "/notices", "/audit", "/counters")
TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname = 'public' ORDER BY 1
"""
NOBODY = "8c5a51c4-6e0a-4f0e-9a5c-6a1f0f4b7f11"
"""The id of no notice."""
MOST_OF_A_KIND = 12
"""Of paths that differ only in an id or a filter."""


@dataclass
class Installation:
    """The page on a sample, and a way past it into the database."""

    page: Page
    url: str
    sample: Sample

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table."""
        names = [name for (name,) in self.sql(TABLES)]
        return {
            name: sorted(self.sql(f"SELECT t::text FROM {name} t"))  # noqa: S608 - of the catalogue
            for name in names
        }

    def failed(self) -> list[str]:
        return [
            row["campaign_id"]
            for row in self.sample.rows["campaign_status"]
            if row.get("a1_permanently_failed")
        ]


@pytest.fixture
def installed(database_url: str, tmp_path: Path) -> Iterator[Installation]:
    with open_page(database_url, tmp_path) as page:
        yield Installation(page, database_url, fill(database_url, page.clock.at))


class Parsed(HTMLParser):
    """What a page links to, its forms, and all elements by name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.forms: list[dict[str, Any]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self.addresses += [
            value for name in ("href", "src", "action", "hx-get") if (value := found.get(name))
        ]
        if tag == "form":
            self.forms.append({**found, "fields": {}})
        elif tag == "input" and self.forms and found.get("type") == "hidden":
            fields, name, value = self.forms[-1]["fields"], found["name"], found.get("value") or ""
            fields.setdefault(name, []).append(value)

    def form(self, **fields: str) -> dict[str, Any]:
        """The form that has these hidden fields."""
        wanted = {name: [value] for name, value in fields.items()}
        return next(one for one in self.forms if wanted.items() <= one["fields"].items())


def words(page: str) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]+>", "", page).split())


def get(browser: Browser, path: str) -> str:
    answer = browser.get(path)
    assert answer.status_code == 200, f"{path}: {answer.status_code}\n{answer.text[:2000]}"
    return answer.text


def send(browser: Browser, form: dict[str, Any], **fields: Any) -> str:
    """Press the button of a form; where the browser is sent to."""
    answer = browser.send(
        "POST", form["action"], data={**form["fields"], **fields}, headers={"Origin": browser.origin}
    )
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


# Nothing changes by looking


def test_get__of_every_link_and_form_changes_nothing(installed: Installation) -> None:
    browser = installed.page.browser(OPERATOR)
    before, seen, waiting = installed.dump(), set(), ["/"]
    kinds: Counter[str] = Counter()
    while waiting:
        path = waiting.pop(0)
        kind = re.sub(r"[0-9a-f-]{36,40}", "ID", path.partition("?")[0])
        if path in seen or kinds[kind] == MOST_OF_A_KIND:
            continue
        seen.add(path)
        kinds[kind] += 1
        answer = browser.get(path)
        assert answer.status_code in (200, 302, 303, 404, 405), f"{path}: {answer.status_code}"
        if answer.mimetype == "text/html" and not path.endswith("/html"):
            found = [urljoin(path, one) for one in Parsed(answer.text).addresses]
            waiting += [one.partition("#")[0] for one in found if urlsplit(one).netloc == ""]
    assert {"/", "/campaigns", "/campaigns/ID", "/act", "/runs", "/notices", "/resend"} <= kinds.keys()
    assert {"/notices/ID", "/notices/ID/html", "/audit", "/counters"} <= kinds.keys()
    assert installed.dump() == before


# What comes from outside


def test_hostile_text__is_escaped_on_every_page(installed: Installation) -> None:
    texts = [text for text in ATTACKS if "\0" not in text and "\ud800" not in text]
    texts += [
        "a/b/../c",
        "//x",
        "50%/§ 1?x=1#y",
        "\\\\host",
        "<img src=x onerror=alert(1)>",
        "</pre></script><b id=p>",
    ]
    notices = []
    for number, text in enumerate(texts):
        campaign_id = text or "unnamed"
        installed.sql(
            "INSERT INTO campaign_status (campaign_id, campaign_number, campaign_name, status,"
            " a1_retry_count, a1_permanently_failed, a1_failure_reason, a1_last_retry_at, box_folder_id)"
            " VALUES (%s, %s, %s, %s, 3, %s, %s, now(), %s)",
            *(
                campaign_id,
                text,
                text,
                text if number % 3 == 0 else "A1",
                number % 2 == 0,
                text,
                f"{number} {text}",
            ),
        )
        installed.sql(
            "INSERT INTO campaign_errors (campaign_id, kind, message) VALUES (%s, %s, %s)",
            campaign_id,
            text,
            text,
        )
        installed.sql(
            "INSERT INTO campaign_assets (campaign_id, asset_id, asset_name, revision, size_bytes, sha1,"
            " box_file_id, box_name, run_id) VALUES (%s, '1', %s, '1', 1, '', '', %s, '')",
            *(campaign_id, text, text + "x"),
        )
        notices.append(str(uuid4()))
        installed.sql(
            "INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at)"
            " VALUES (%s, %s, %s, %s, %s, '', now())",
            *(notices[-1], text, campaign_id, text, text),
        )
        installed.sql(
            "INSERT INTO notice_deliveries (notice_id, recipient, next_try_at, gave_up_at, last_error)"
            " VALUES (%s, %s, now(), now(), %s)",
            *(notices[-1], text, text),
        )
        installed.sql(
            "INSERT INTO orchestrator_task_runs VALUES (%s, 'a1_to_a2', now(), now(), now(), 1, %s, %s)",
            *(f"x{number}", text, text),
        )
        installed.sql(
            "INSERT INTO workers VALUES (%s, %s, now(), now(), 1, now(), %s, %s, 75, now())",
            *(f"{number} {text}", text, text, text),
        )
        installed.sql("INSERT INTO worker_campaigns VALUES (%s, %s, now())", campaign_id, f"{number} {text}")
        installed.sql(
            "INSERT INTO campaign_events (campaign_id, kind, actor, source, reason, detail)"
            " VALUES (%s, 'reset', %s, %s, %s, jsonb_build_object('notice_id', %s::text))",
            *(campaign_id, text, text, text, text),
        )
    browser = installed.page.browser(OPERATOR)
    paths = [
        *LISTS,
        "/campaigns?page=2",
        "/campaigns?state=failed",
        "/campaigns?state=erring",
        "/notices?page=2",
    ]
    paths += ["/audit?page=2", "/act?scope=all&state=failed"]
    paths += [f"/campaigns?q={quote(text[:200])}" for text in texts]
    paths += [f"/campaign?id={quote(text or 'unnamed')}" for text in texts]
    paths += [f"/act?id={quote(text or 'unnamed')}&back={quote(text)}" for text in texts]
    paths += [f"/notices?q={quote(text)}" for text in texts] + [f"/notices/{one}" for one in notices]
    for path in paths:
        parsed = Parsed(get(browser, path))
        for tag, attributes in parsed.tags:
            assert tag not in ("img", "b id=p"), path
            assert not (tag == "script" and not (attributes.get("src") or "").startswith("/static/")), path
            assert not any(name.startswith("on") or name == "style" for name in attributes), (
                path,
                attributes,
            )
        for address in parsed.addresses:
            assert re.match(r"/(?!/)|#", address), (path, address)
    for text in texts:  # the link of each leads to its own page
        label = get(browser, f"/campaigns?q={quote(text[:200])}") if text.strip() else ""
        ids = {urlsplit(one).path + "?" + urlsplit(one).query for one in Parsed(label).addresses}
        for address in (one for one in ids if re.match(r"/campaigns/.|/campaign\?", one)):
            get(browser, address)


def test_webhooks__are_shown_with_their_incident_and_apart_from_mails(installed: Installation) -> None:
    ((campaign, cycle),) = installed.sql(
        "SELECT campaign_id, coalesce(a1_cycle, 1) FROM campaign_status LIMIT 1"
    )
    browser = installed.page.browser(OPERATOR)
    mails = words(get(browser, "/"))
    ids = [str(uuid4()), str(uuid4())]
    for number, one in enumerate(ids):
        installed.sql(
            "INSERT INTO notices (id, kind, campaign_id, subject, body_text, body_html, created_at, cycle)"
            " VALUES (%s, 'campaign.permanently_failed', %s, %s, '{}', '', now(), %s)",
            *(one, campaign, f"hook {number}", cycle),
        )
    installed.sql(
        "INSERT INTO notice_deliveries (notice_id, recipient, channel, next_try_at, sent_at, ticket)"
        " VALUES (%s, 'sn', 'webhook', now(), now(), 'INC0000042')",
        ids[0],
    )
    installed.sql(
        "INSERT INTO notice_deliveries (notice_id, recipient, channel, next_try_at, gave_up_at, last_error)"
        " VALUES (%s, 'ops', 'webhook', now(), now(), 'HTTP 400')",
        ids[1],
    )
    installed.sql("INSERT INTO webhook_targets (name, begun_at, off_at) VALUES ('old', now(), now())")
    assert "incident INC0000042" in words(get(browser, f"/campaigns/{campaign}"))
    assert "incident INC0000042" in words(get(browser, f"/notices/{ids[0]}"))
    dead = words(get(browser, "/notices?state=webhooks_dead"))
    assert "hook 1" in dead
    assert "hook 0" not in dead
    assert "hook 1" not in words(get(browser, "/notices?state=given_up"))
    start = words(get(browser, "/"))
    assert "Webhooks: 1 given up" in start
    assert "turned off, because they answered 410: old" in start
    tile = "Do mails go out?"
    assert start.partition(tile)[2][:40] == mails.partition(tile)[2][:40], "e-mails count as before"


def test_message_html__is_shut_in(installed: Installation) -> None:
    browser = installed.page.browser(READER)
    notice = installed.sample.rows["notices"][0]["id"]
    answer = browser.get(f"/notices/{notice}/html")
    policy = answer.headers["Content-Security-Policy"]
    assert "sandbox;" in policy
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    frames = [
        attributes for tag, attributes in Parsed(get(browser, f"/notices/{notice}")).tags if tag == "iframe"
    ]
    assert [(frame["sandbox"], frame["src"]) for frame in frames] == [(None, f"/notices/{notice}/html")]


@pytest.mark.parametrize(
    "path",
    [
        *("/campaigns/nobody", "/campaigns/a/b%20c", "/campaigns/%00", "/campaign?id=", "/campaign"),
        *(
            f"/notices/{NOBODY}",
            f"/notices/{NOBODY}/html",
            "/notices/x",
            "/notices?state=x",
            "/runs?task=x",
        ),
    ],
)
def test_unknown__is_told_in_plain_words(installed: Installation, path: str) -> None:
    answer = installed.page.browser(READER).get(path)
    assert answer.status_code == 404
    assert "<h1>" in answer.text


# What is told


def test_states__agree_wherever_they_are_told(installed: Installation) -> None:
    browser = installed.page.browser(READER)
    start, counters = get(browser, "/"), get(browser, "/counters")
    for state, text in STATES.items():
        listed = get(browser, f"/campaigns?state={state}")
        counted = re.search(r'<h2 id="found">([\d,]+) campaign', listed)
        assert counted is not None
        chip = re.search(rf"{re.escape(html.escape(text))} <b>([\d,]+)</b>", listed)
        assert chip is not None, state
        assert chip[1] == counted[1], state
        if state in ("failed", "erring", "snoozed", "near_failure"):
            assert f'id="counter-{state}"' in counters
            assert re.search(rf'id="counter-{state}".*?<b>{counted[1]}</b>', counters), state
            assert re.search(rf'id="head-{state}">[^<]*: {counted[1]}<', start), state
        if state == "stuck":
            assert re.search(
                rf'<h1><a href="/campaigns\?state=stuck">{counted[1]} campaigns</a> are stuck', start
            )
    (campaign_id, *_) = installed.failed()
    page = get(browser, f"/campaigns/{campaign_id}")
    assert '<span class="code">permanently_failed</span>' in page
    assert "runs skip it, without e-mails, until somebody resets it" in page


def test_calm__says_so_in_one_line(database_url: str, tmp_path: Path) -> None:
    with open_page(database_url, tmp_path) as page:
        fill(database_url, page.clock.at, is_calm=True)
        text = get(page.browser(READER), "/")
    assert "Nothing is stuck</h1>" in text
    assert 'class="card red"' not in text
    assert "None is waiting" in text


def test_overdue_loop__is_told_in_red_words(database_url: str, tmp_path: Path) -> None:
    with open_page(database_url, tmp_path) as page:
        page.clock.at = datetime(2026, 11, 24, 11, 0, tzinfo=UTC)
        fill(database_url, page.clock.at, last_run=timedelta(minutes=40))
        text = get(page.browser(READER), "/")
    assert '<p class="big red">Overdue since 11:2' in text
    assert "Loop overdue" in text


def test_empty_database__has_every_page(database_url: str, tmp_path: Path) -> None:
    with open_page(database_url, tmp_path) as page:
        browser = page.browser(OPERATOR)
        for path in LISTS:
            get(browser, path)
        assert "No run is on record" in get(browser, "/")


def test_filter__is_told_in_words_and_counts(installed: Installation) -> None:
    text = get(installed.page.browser(READER), "/campaigns?state=failed&q=Estath%C3%A9&older=1")
    assert (
        "permanently failed, with &#34;Estathé&#34; as id, or in number or name,"
        " unchanged for more than 1 day" in text
    )
    assert '<h2 id="found">1 campaign</h2>' in text
    refused = installed.page.browser(READER).get("/campaigns?state=everything")
    assert refused.status_code == 400
    assert "near_failure" in refused.text


def test_number_or_name__leads_to_the_campaign(installed: Installation) -> None:
    row = installed.sample.rows["campaign_status"][-1]
    answer = installed.page.browser(READER).get(f"/campaigns/{row['campaign_number']}")
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/campaigns/{row['campaign_id']}"


def test_counters__cost_nothing_while_nothing_changes(installed: Installation) -> None:
    browser = installed.page.browser(READER)
    first = browser.get("/counters")
    etag = first.headers["ETag"]
    shown = dict(
        next(
            attributes
            for tag, attributes in Parsed(get(browser, "/")).tags
            if attributes.get("id") == "counters"
        )
    )
    assert shown["data-etag"] == etag
    again = browser.get("/counters", If_None_Match=etag)
    assert (again.status_code, again.data) == (304, b"")
    installed.sql(
        "UPDATE campaign_status SET a1_permanently_failed = FALSE WHERE campaign_id = %s",
        installed.failed()[0],
    )
    assert browser.get("/counters", If_None_Match=etag).status_code == 200


def test_start__asks_few_questions(installed: Installation, sent_statements: list[str]) -> None:
    browser = installed.page.browser(READER)
    sent_statements.clear()
    get(browser, "/")
    asked = [one for one in sent_statements if "page_sessions" not in one and one != "SELECT 1"]
    assert len(asked) <= 6, asked


def test_week__is_that_of_the_loop(installed: Installation) -> None:
    cadence = installed.page.app.extensions[EXTENSION].settings.cadence
    week = week_of(datetime(2026, 11, 23, tzinfo=UTC).date(), cadence.timezone, cadence.off_hours)
    assert (week.in_hours, week.off_hours) == (1700, 83)
    assert [day.spans for day in week.days] == [((300, 1320),)] * 5 + [()] * 2
    assert week.days[0].slots_in_words == "00:30, 01:30, 02:30, 03:30, 04:30, 22:30, 23:30"


# Acts


def test_reset__keeps_the_filter_tells_and_can_be_undone(installed: Installation) -> None:
    browser, (campaign_id, *_) = installed.page.browser(OPERATOR), installed.failed()
    listed = "/campaigns?state=failed&older=0"
    chosen = f"/act?id={campaign_id}&id=nobody&back={quote(listed)}"
    form = Parsed(get(browser, chosen)).form(act="reset")
    sent_to = send(browser, form, reason="files are <b>in</b>")
    assert sent_to.startswith(f"{listed}&done=")
    banner = get(browser, sent_to)
    assert "Reset: 1 campaign." in banner
    assert "1 campaign skipped:" in banner
    assert "unknown campaign" in banner
    assert "files are &lt;b&gt;in&lt;/b&gt;" in banner
    assert installed.sql(
        "SELECT a1_permanently_failed FROM campaign_status WHERE campaign_id = %s", campaign_id
    ) == [(False,)]
    undo = next(one for one in Parsed(banner).forms if one["action"].startswith("/undo/"))
    undone = send(browser, undo)
    assert undone == sent_to
    assert "Undone for 1 campaign." in get(browser, undone)
    assert installed.sql(
        "SELECT a1_permanently_failed FROM campaign_status WHERE campaign_id = %s", campaign_id
    ) == [(True,)]
    audit = get(browser, "/audit")
    assert "undone for 1" in audit
    assert "2 selected campaigns" in audit or campaign_id in audit


def test_all_that_match__are_done_with_one_button(installed: Installation) -> None:
    browser = installed.page.browser(OPERATOR)
    page = Parsed(get(browser, "/campaigns?state=failed"))
    forms = [one for one in page.forms if one["action"] == "/act"]
    assert [one["fields"].get("scope") for one in forms] == [None, ["all"]]
    confirm = Parsed(get(browser, "/act?scope=all&state=failed&back=/campaigns"))
    sent_to = send(browser, confirm.form(act="reset"))
    assert f"Reset: {len(installed.failed())} campaigns." in get(browser, sent_to)


def test_snooze__that_cannot_be_says_why_and_keeps_what_was_typed(installed: Installation) -> None:
    browser, (campaign_id, *_) = installed.page.browser(OPERATOR), installed.failed()
    form = Parsed(get(browser, f"/campaigns/{campaign_id}")).form(act="snooze")
    fields = {**form["fields"], "until": "2020-01-01T08:00", "reason": "promised"}
    refused = browser.send("POST", form["action"], data=fields, headers={"Origin": browser.origin})
    assert refused.status_code == 400
    assert "is in the past" in refused.text
    assert 'value="promised"' in refused.text


def test_reader__sees_no_button_and_why(installed: Installation) -> None:
    browser, (campaign_id, *_) = installed.page.browser(READER), installed.failed()
    for path in (
        "/campaigns",
        f"/campaigns/{campaign_id}",
        f"/act?id={campaign_id}",
        "/notices?state=given_up",
    ):
        parsed = Parsed(text := get(browser, path))
        assert {one["action"] for one in parsed.forms} <= {"/logout", "/campaigns", "/notices"}, path
        assert "ADMIN_OPERATORS" in text or path.startswith("/notices")
    refused = browser.post(
        "/act", act="reset", id=campaign_id, request=str(uuid4()), drawn=datetime.now(UTC).isoformat()
    )
    assert refused.status_code == 403


def test_given_up__are_sent_again_by_one_button(installed: Installation) -> None:
    browser = installed.page.browser(OPERATOR)
    form = Parsed(get(browser, "/notices?state=given_up")).form(notice="given_up")
    text = get(browser, send(browser, form))
    assert "To be sent again: 1 notice." in text
    assert "There are none." in text


# Workers


def test_workers__are_shown_with_what_each_has(installed: Installation) -> None:
    browser = installed.page.browser(READER)
    assert "3 workers with 2 campaigns in hand, 1 draining, 1 lost." in words(get(browser, "/"))
    text = get(browser, "/runs")
    shown = words(text)
    assert "dam-loader-1 working No campaign could be worked on" in shown
    assert ": the DAM refused the login" in shown
    assert "dam-loader-2 draining asked by olga@admin-1" in shown
    assert "dam-loader-3 lost last seen" in shown
    assert [one["action"] for one in Parsed(text).forms] == ["/logout"]
    for held in installed.sample.rows["worker_campaigns"]:
        assert f"worker {held['worker']} on host dam-loader" in words(
            get(browser, f"/campaigns/{held['campaign_id']}")
        )
    installed.sql("DELETE FROM workers")
    assert "worker" not in words(get(browser, "/"))
    assert "orker" not in words(get(browser, "/runs"))


def test_drain__asks_a_worker_once_and_is_on_record(installed: Installation) -> None:
    browser = installed.page.browser(OPERATOR)
    forms = [one for one in Parsed(get(browser, "/runs")).forms if one["action"] == "/drain"]
    (worker,) = [one["fields"]["worker"][0] for one in forms]
    text = get(browser, send(browser, forms[0]))
    assert "Asked to stop: 1 worker." in text
    assert f"asked by {OPERATOR}" in words(text)
    assert 'action="/undo/' not in text
    assert "Asked to stop: 1 worker." in get(browser, send(browser, forms[0])), "the same request"
    assert "/drain" not in text, "it has been asked"
    audit = words(get(browser, "/audit"))
    assert f"Asked to stop: 1 worker drain Outcome and undo the worker {worker}" in audit
    again = {**forms[0]["fields"], "request": [str(uuid4())]}
    skipped = get(browser, send(browser, {**forms[0], "fields": again}))
    assert "1: it has ended, or was asked before" in words(skipped)
    reader = installed.page.browser(READER)
    drawn = {"request": str(uuid4()), "drawn": datetime.now(UTC).isoformat()}
    assert reader.post("/drain", worker=worker, **drawn).status_code == 403


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/campaigns?state=failed&q=a%26b&done=x", "/campaigns?state=failed&q=a%26b"),
        *(
            (bad, "/")
            for bad in ("", "//evil.example", "/\\evil.example", "https://evil.example", "/a\nb", "x")
        ),
        ("/" + "a" * 3000, "/"),
    ],
)
def test_way_back__stays_on_this_page(address: str, expected: str) -> None:
    assert way_back(address) == expected
