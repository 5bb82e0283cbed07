"""Tells the demo's story: what happens to its campaigns, with a check of every claim."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import requests

from demo_parts.operators_page import OperatorsPage, banner
from demo_parts.page import Act, Line, Mail, Snapshot, StoredFile, human_size
from simulators.installation import QUERIES, SCRIPTS, Installation, Source
from simulators.mail import Received
from simulators.samples import SampleFile, campaign_files, few_files

UPLOADER = "a1_to_a2_box_uploader.py"
RETRY_TOOL = "a1_retry.py"
ORCHESTRATOR = "orchestrator-prod.py"
REPORT = "daily_report.py"
WIDTH = 100
GUTTER = 12
SHOWN_QUERIES = ("dashboard", "near_failure", "failed", "status_all", "outbox")
ALL_ROWS = (
    "SELECT campaign_number, campaign_name, status, a1_retry_count, a1_permanently_failed, a1_failure_reason"
    " FROM campaign_status ORDER BY campaign_number"
)


class UnexpectedError(Exception):
    """The product did not do what it promises; the text says what was expected and what happened."""


@dataclass(frozen=True)
class Campaign:
    """A campaign of the story."""

    id: str
    number: str
    name: str

    def __str__(self) -> str:
        return f"{self.number} “{self.name}”"


@dataclass
class Narrator:
    """Tells the story on standard output, and keeps it for the page."""

    is_colourful: bool
    acts: list[Act] = field(default_factory=list)

    def act(self, title: str) -> None:
        """Begin a new part."""
        self.acts.append(Act(title))
        _put("\n" + self._paint("1", title))

    def say(self, label: str, text: str, link: str = "") -> None:
        """One event: where, and what happened. link: see `Line`."""
        self.acts[-1].lines.append(Line(label, text, link))
        colour = {"✓": "32", "✗": "31;1"}.get(label, "36")
        start = f"  {self._paint(colour, label)}" + " " * (GUTTER - 2 - len(label))
        for line in textwrap.wrap(text, WIDTH - GUTTER, break_on_hyphens=False) or [""]:
            _put(start + line)
            start = " " * GUTTER

    def quote(self, text: str) -> None:
        """What people type or copy, word for word."""
        self.acts[-1].lines.append(Line("code", text))
        self.show(textwrap.wrap(text, WIDTH - GUTTER, break_on_hyphens=False))

    def show(self, lines: Sequence[str]) -> None:
        """Lines that keep their form; the page shows them elsewhere."""
        for line in lines:
            _put(" " * GUTTER + (line if len(line) <= WIDTH - GUTTER else line[: WIDTH - GUTTER - 1] + "…"))

    def print(self, lines: Sequence[str]) -> None:
        """What a tool printed, from the first column on; what is too long continues in the next line."""
        self.acts[-1].lines.append(Line("answer", "\n".join(lines)))
        for line in lines:
            indent = " " * (len(line) - len(line.lstrip()))
            wrapped = textwrap.wrap(line, WIDTH, subsequent_indent=f"{indent}  ", break_on_hyphens=False)
            for piece in wrapped or [""]:
                _put(piece)

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_colourful else text


class Demo:
    """The story. Each claim is checked as it is made."""

    def __init__(self, world: Installation, narrator: Narrator, resources: ExitStack) -> None:
        """resources: closed at the end, before the world is."""
        self.world = world
        self.resources = resources
        self.tell = narrator
        self.checks = 0
        self.runs = 0
        self.mails: list[Mail] = []
        self.files: list[StoredFile] = []
        self.snapshots: list[Snapshot] = []
        self.pictures: list[Path] = []

    def play(self) -> None:
        """All of it. Raises UnexpectedError at the first claim that does not hold."""
        self.set_up()
        self.files_come_late()
        self.files_never_come()
        self.status_was_wrong()
        self.a_weekend()
        self.files_are_promised()
        self.somebody_opens_the_page()
        self.look_back()

    # --- the acts ---

    def set_up(self) -> None:
        world = self.world
        self.tell.act("SETTING UP: everything runs on this machine, and nothing leaves it")
        version = world.sql("SHOW server_version")[0]["server_version"].split()[0]
        self.tell.say("database", f"PostgreSQL {version} on 127.0.0.1, port {world.postgres.port}.")
        migrations = world.migrations()
        for again in (False, True):
            for path in migrations:
                done = world.postgres.psql("-q", "-v", "ON_ERROR_STOP=1", "-f", path)
                what = f"psql -f {path.name}{', the second time,' if again else ''}"
                self.expect(f"{what} ends well {done.stderr.strip()}".strip(), 0, done.returncode)
        self.expect(
            "migrate.py --status: nothing pending", 0, world.run_script("migrate.py", "--status").exit_code
        )
        self.tell.say(
            "database",
            f"{len(migrations)} migrations, each applied by:"
            " psql -v ON_ERROR_STOP=1 -f database/migrations/NAME.sql",
        )
        self.tell.say(
            "dam", "A stand-in for the DAM, with TLS. It accepts only clients with a certificate, such as the"
            " one in the PFX file that was just made for --auth-pfx-v2."
        )  # fmt: skip
        self.tell.say("box", f"A stand-in for Box. Its files are in {shown(world.output)}/box/.")
        self.tell.say(
            "inbox",
            "A local mail server. It keeps each e-mail to support@example.com and campaigns@example.com.",
        )
        self.page = self.resources.enter_context(OperatorsPage(world))
        self.tell.say("page", f"The operator's page answers at {self.page.url}; e-mails link to it.")
        self.expect("the DAM turns a client without certificate away", True, self._is_turned_away())
        self.bystander = self.campaign("C-1900", "Last Winter", status="A10")
        self.tell.say(
            "✓", "Applying the migrations twice is harmless. The DAM refuses a client without a certificate."
        )

    def files_come_late(self) -> None:
        self.tell.act("ACT 1, TEMPORARY: the files come late")
        campaign = self.campaign("C-1001", "Spring Launch")
        self.tell.say("dam", f"{campaign} is set to A1. Its Master Assets folder is empty.")
        self.run({campaign: ("empty", 1)}, [retry_subject(campaign, 1)])
        self.row(campaign, "A1", 1, is_failed=False)

        files = campaign_files()
        size = human_size(sum(file.size for file in files))
        sources = self.world.deliver(campaign.id, files)
        self.tell.say(
            "dam", f"{len(files)} files arrive, {size} in all: pictures, a PDF, a text, an empty file and a"
            " 60 MB film. Some are in subfolders, some have names in other scripts, and two names differ only"
            " in case."
        )  # fmt: skip
        self.run({campaign: ("uploaded", 0)}, [success_subject(campaign, len(files))])
        self.in_box(campaign, sources)
        self.tell.show(textwrap.dedent(self.world.box.tree().partition("\n")[2]).splitlines())
        parts = self.world.box.calls("PUT", "/api/2.0/files/upload_sessions/")
        self.expect("the film was sent in parts", True, len(parts) > 1)
        self.tell.say(
            "✓", f"All {len(files)} files in Box have the size and the SHA-1 of their source. The film was"
            f" sent in {len(parts)} parts. Box refuses two names that differ only in case, and slashes in a"
            " name, so a logo and the brief were renamed."
        )  # fmt: skip
        self.row(campaign, "A2", 0, is_failed=False)
        self.in_dam(campaign, "A2")
        self.run({}, [])
        self.tell.say(
            "✓", f"{campaign.number} is in A2, its counter is back at 0, and the next run has nothing to do."
        )

    def files_never_come(self) -> None:
        self.tell.act("ACT 2, PERSISTENT: the files never come")
        cafe = self.campaign("C-2001", "Café Crème & Friends")
        magic = self.campaign("C-2002", "Winter <Magic> 冬", has_folder=False)
        self.tell.say("dam", f"{cafe} is set to A1; its Master Assets folder is empty.")
        self.tell.say("dam", f"{magic} is set to A1; it has no Master Assets folder.")
        for attempt in (1, 2):
            self.run(
                {cafe: ("empty", attempt), magic: ("folder_missing", attempt)},
                [retry_subject(cafe, attempt), retry_subject(magic, attempt)],
            )
        self.snapshot("In the middle of act 2: one attempt left")
        self.run(
            {cafe: ("permanently_failed", 3), magic: ("permanently_failed", 3)},
            [permanent_subject(cafe), permanent_subject(magic)],
        )
        self.row(cafe, "A1", 3, is_failed=True)
        self.row(magic, "A1", 3, is_failed=True)
        self.snapshot("After the third attempt: permanently failed")

        late = self.world.deliver(cafe.id, few_files("Cafe Creme"))
        self.tell.say(
            "dam", f"{len(late)} files for {cafe.number} arrive after all. Nobody has reset it yet."
        )
        self.world.dam.clear_requests()
        for _ in range(2):
            self.run({cafe: ("skipped_permanently_failed", 3), magic: ("skipped_permanently_failed", 3)}, [])
        self.nothing_was_asked_about(cafe, magic)
        self.tell.say(
            "✓", "Three e-mails for each campaign, and then none. The last two runs made no call to the DAM"
            " about either of them."
        )  # fmt: skip
        self.reset_by_sql(cafe)
        self.reset_by_tool(magic)

        self.run(
            {cafe: ("uploaded", 0), magic: ("folder_missing", 1)},
            [solved_subject(cafe), success_subject(cafe, len(late)), retry_subject(magic, 1)],
        )
        self.in_box(cafe, late)
        self.row(cafe, "A2", 0, is_failed=False)
        self.row(magic, "A1", 1, is_failed=False)
        latest = self.world.deliver(magic.id, few_files("Winter Magic"))
        self.tell.say("dam", f"{magic.number} gets its folder, and {len(latest)} files in it.")
        self.run({magic: ("uploaded", 0)}, [solved_subject(magic), success_subject(magic, len(latest))])
        self.in_box(magic, latest)
        self.row(magic, "A2", 0, is_failed=False)
        self.in_dam(cafe, "A2")
        self.in_dam(magic, "A2")
        self.tell.say(
            "✓",
            "Both resets work: the campaigns start again at attempt 1 and are uploaded. All SHA-1s match.",
        )

    def reset_by_sql(self, campaign: Campaign) -> None:
        """As a person who copies the statement from the e-mail."""
        text = self.permanent_mail(campaign)
        statement = self.line_of(text, r"UPDATE campaign_status SET .*;")
        self.tell.say("you", f"reset {campaign.number} with psql, using the SQL from its e-mail:")
        self.tell.quote(statement)
        self.expect("psql changes one row", "UPDATE 1", self.world.table("-c", statement))
        self.row(campaign, "A1", 0, is_failed=False, is_told=False)

    def reset_by_tool(self, campaign: Campaign) -> None:
        """As a person who copies the command from the e-mail."""
        text = self.permanent_mail(campaign)
        command = self.line_of(text, rf".*{re.escape(str(SCRIPTS / RETRY_TOOL))} reset .*")
        self.tell.say("you", f"reset {campaign.number} with the tool, using the command from its e-mail:")
        self.tell.quote(command)
        words = shlex.split(command)
        words = words[words.index(str(SCRIPTS / RETRY_TOOL)) + 1 :]
        done = self.world.run_script(RETRY_TOOL, *words, "--reason", "files are promised")
        self.expect(f"a1_retry.py ends well {done.stderr.strip()}".strip(), 0, done.exit_code)
        self.row(campaign, "A1", 0, is_failed=False, is_told=False)

    def status_was_wrong(self) -> None:
        self.tell.act("ACT 3, WRONG STATUS: the campaign was not meant to be in A1")
        campaign = self.campaign("C-3001", "Autumn Outlet")
        self.tell.say("dam", f"{campaign} is set to A1, by mistake. Its Master Assets folder is empty.")
        self.run({campaign: ("empty", 1)}, [retry_subject(campaign, 1)])
        self.world.dam.set_status(campaign.id, "A0")
        self.tell.say("dam", f"Somebody corrects it: {campaign.number} goes back to A0.")
        self.run({campaign: ("not_a1", None)}, [])
        self.row(campaign, "A0", 1, is_failed=False)
        self.world.dam.clear_requests()
        self.run({}, [])
        self.nothing_was_asked_about(campaign)
        self.in_dam(campaign, "A0")
        self.tell.say(
            "✓", "The runs no longer look at it, its row says A0, and nobody had to reset anything."
        )

    def a_weekend(self) -> None:
        self.tell.act("ACT 4, THE ORCHESTRATOR: from Friday evening to Monday morning")
        arguments = ("--explain", "--at", "2026-01-30T18:54", "--hours", "58.3")
        self.tell.say("you", "ask which runs follow a Friday evening, and by which rule:")
        self.tell.quote(f"python scripts/{ORCHESTRATOR} {' '.join(arguments)}")
        done = self.world.run_script(ORCHESTRATOR, *arguments, "--json")
        self.expect(f"--explain ends well {done.stderr.strip()}".strip(), 0, done.exit_code)
        runs = done.report["runs"]
        self.tell.print(in_stretches(runs))
        counted = Counter(run["rule"] for run in runs)
        self.expect("runs of the weekend, by rule", {"in_hours": 66, "off_hours": 55, "daily": 3}, counted)
        off_slot = [
            run["at"] for run in runs if run["rule"] == "off_hours" and run["at"][14:16] not in ("00", "30")
        ]
        self.expect("off-hours runs at other minutes than 0 and 30", [], off_slot)
        self.tell.say(
            "✓", "Off-hours the uploader runs once an hour instead of 20 times an hour. The report comes at"
            " 19:00 on all three days."
        )  # fmt: skip

        campaign = self.campaign("C-4001", "Monday Launch")
        sources = self.world.deliver(campaign.id, few_files("Monday Launch"))
        self.tell.say("dam", f"{campaign} is set to A1, with {len(sources)} files.")
        self.report()
        self.tell.say("you", "let the orchestrator start what is due now, as cron does every minute:")
        self.tell.quote(f"python scripts/{ORCHESTRATOR} --once")
        # At any time of day, the demo runs in office hours.
        done = self.world.run_script(ORCHESTRATOR, "--once", OFF_HOURS_ENABLED="false", DIGEST_DAY="none")
        (self.world.output / "runs" / "once.log").write_text(done.stderr, encoding="utf-8")
        self.expect(f"--once ends well {done.stderr.strip()}".strip(), 0, done.exit_code)
        said = [re.sub(r"^\S+ [A-Z]+ run=\w+ ", "", line) for line in done.stderr.splitlines()]
        self.tell.print([line for line in said if line.startswith("orchestrator:")])
        mails = [mail.subject for mail in self.tell_mails()]
        self.expect("e-mails of --once", [success_subject(campaign, len(sources))], mails)
        self.in_box(campaign, sources)
        self.row(campaign, "A2", 0, is_failed=False)
        planned = self.world.sql("SELECT count(*) FROM orchestrator_task_runs WHERE task = 'a1_to_a2'")
        self.expect("runs on record", "1", str(planned[0]["count"]))
        self.tell.say(
            "✓", "The uploader ran as a separate process, and the database has a record of the run."
        )

    def files_are_promised(self) -> None:
        self.tell.act(
            "ACT 5, PEOPLE: files are promised, and somebody asks why the campaign is not in A2 yet"
        )
        campaign = self.campaign("C-5001", "Promised Launch")
        self.tell.say("dam", f"{campaign} is set to A1; its Master Assets folder is empty.")
        self.run({campaign: ("empty", 1)}, [retry_subject(campaign, 1)])
        until = f"{datetime.now(UTC) + timedelta(days=5):%Y-%m-%dT08:00}"
        self.tool("snooze", campaign.number, "--until", until, "--reason", "files promised for then")
        for _ in range(2):
            self.run({campaign: ("snoozed", 1)}, [])
        self.row(campaign, "A1", 1, is_failed=False)
        told = self.tool("explain", "promised l")  # as people type: how its name begins
        self.expect("explain names the state", True, "snoozed" in told)
        self.tool("history", campaign.number)
        self.tell.say("you", "send the weekly digest of stuck campaigns now instead of on Monday:")
        self.tell.quote(f"python scripts/{REPORT} --weekly")
        done = self.world.run_script(REPORT, "--weekly")
        self.expect(f"the weekly digest ends well {done.stderr.strip()}".strip(), 0, done.exit_code)
        mails = self.tell_mails()
        self.expect("one weekly digest", ["🗓️ Stuck Campaigns - 1"], [mail.subject[:22] for mail in mails])
        sources = self.world.deliver(campaign.id, few_files("Promised Launch"))
        self.tell.say("dam", f"{len(sources)} files for {campaign.number} arrive before the snooze is over.")
        self.run({campaign: ("uploaded", 0)}, [success_subject(campaign, len(sources))])
        self.in_box(campaign, sources)
        self.row(campaign, "A2", 0, is_failed=False)
        self.tell.say(
            "✓", "While the files were promised, no attempt was counted and no retry notice went out."
        )

    def somebody_opens_the_page(self) -> None:
        self.tell.act("ACT 6, THE OPERATOR'S PAGE: a reset without shell, SQL or ids")
        campaign = self.campaign("C-6001", "Paper & Ink")
        self.tell.say("dam", f"{campaign} is set to A1; its Master Assets folder is empty.")
        for attempt in (1, 2):
            self.run({campaign: ("empty", attempt)}, [retry_subject(campaign, attempt)])
        self.run({campaign: ("permanently_failed", 3)}, [permanent_subject(campaign)])
        link = self.line_of(self.permanent_mail(campaign), re.escape(self.page.url) + r"/campaigns/\S+")
        sources = self.world.deliver(campaign.id, few_files("Paper and Ink"))
        self.tell.say("dam", f"{len(sources)} files for {campaign.number} arrive after all.")
        self.tell.say("you", "open the link in its e-mail, log in, and press Reset:")
        self.tell.quote(link)
        shown = self.page.read(link)
        self.expect("the page names the state", True, "permanently_failed" in shown)
        told = banner(self.page.act(shown, "reset"))
        self.tell.say("page", told)
        self.expect("the page says what was done", True, "1 campaign" in told)
        self.row(campaign, "A1", 0, is_failed=False, is_told=False)
        self.expect("a second click does nothing", told, banner(self.page.act(shown, "reset")))
        resets = self.world.query("history", campaign_id=campaign.id)
        self.expect("resets in the history", 1, sum(row["kind"] == "reset" for row in resets))
        self.take_pictures(campaign)
        self.run(
            {campaign: ("uploaded", 0)}, [solved_subject(campaign), success_subject(campaign, len(sources))]
        )
        self.in_box(campaign, sources)
        self.row(campaign, "A2", 0, is_failed=False)
        self.expect("the page says that it is uploaded", True, ">uploaded<" in self.page.read(link))
        self.tell.say("✓", "From the e-mail to the next run: a link, a log-in and one button.")

    def take_pictures(self, campaign: Campaign) -> None:
        """Of the page as it is now, into page/."""
        pages = [("start", "/"), ("campaign", f"/campaigns/{campaign.id}"), ("audit", "/audit")]
        addresses = [(name, self.page.url + path) for name, path in pages]
        self.pictures = self.page.take_pictures(self.world.output / "page", addresses)
        if self.pictures:
            self.tell.say(
                "page",
                f"{len(self.pictures)} pictures of it are in {shown(self.world.output)}/page/.",
                "#page",
            )
        else:
            self.tell.say("page", "There is no Chromium here, so there are no pictures of it.")

    def tool(self, *words: str) -> str:
        """What the operator's tool answers."""
        self.tell.say("you", f"python scripts/{RETRY_TOOL} {shlex.join(words)}")
        done = self.world.run_script(RETRY_TOOL, *words)
        self.expect(f"{RETRY_TOOL} {words[0]} ends well {done.stderr.strip()}".strip(), 0, done.exit_code)
        self.tell.print(done.stdout.splitlines())
        return done.stdout

    def report(self) -> None:
        """The daily report, at any time of day."""
        done = self.world.run_script(REPORT)
        self.expect(f"{REPORT} ends well {done.stderr.strip()}".strip(), 0, done.exit_code)
        mails = self.tell_mails()
        self.expect("one daily report", ["📊 Daily Report"], [mail.subject[:14] for mail in mails])
        again = self.world.run_script(REPORT)
        self.expect("a second report of the day", (0, []), (again.exit_code, self.collect_mails()))

    def look_back(self) -> None:
        """What must be true of the whole story."""
        world = self.world
        self.snapshot("At the end")
        self.expect("no e-mail is left in the outbox", [], world.query("outbox"))
        self.expect("no upload is left half done in Box", [], world.box.open_sessions())
        held = [file for file in world.box.files() if file.name != "_manifest.json"]
        self.expect("Box contains what was verified, and nothing else", len(self.files), len(held))
        names = {call.client_certificate for call in world.dam.requests}
        self.expect("every call to the DAM showed the certificate", {"a1-to-a2 demo"}, names)
        self.expect(
            "a campaign in A10 has no row", [], world.query("status_one", campaign_id=self.bystander.id)
        )
        self.in_dam(self.bystander, "A10")
        text = world.env_file.read_text(encoding="utf-8")
        secrets = re.findall(r"^\w*(?:PASSWORD|SECRET)='(.+)'$", text, re.MULTILINE)
        leaks = [
            path.name
            for path in sorted(world.output.rglob("*"))
            if path.suffix in {".log", ".json", ".eml", ".txt", ".html"}
            and path.is_file()
            and any(secret in path.read_text(encoding="utf-8", errors="replace") for secret in secrets)
        ]
        self.expect("no log and no e-mail contains a password", [], leaks)

    # --- what happens in them ---

    def campaign(self, number: str, name: str, status: str = "A1", *, has_folder: bool = True) -> Campaign:
        """Somebody makes a campaign in the DAM."""
        identity = self.world.dam.add_campaign(name, number, status, master_assets=has_folder)
        return Campaign(identity, number, name)

    def run(self, outcomes: Mapping[Campaign, tuple[str, int | None]], subjects: Sequence[str]) -> None:
        """One run of the uploader; it must have these outcomes, and bring these e-mails and no others."""
        self.runs += 1
        done = self.world.run_script(UPLOADER, "--auth-pfx-v2", "--json")
        log = self.world.output / "runs" / f"{self.runs:02d}.log"
        log.write_text(done.stderr, encoding="utf-8")
        log.with_suffix(".json").write_text(done.stdout, encoding="utf-8")
        entries = {entry["campaign_id"]: entry for entry in done.report.get("campaigns", [])}
        label = f"run {self.runs}"
        for campaign in outcomes:
            if campaign.id in entries:
                self.tell.say(label, f"{campaign.number}: {in_words(entries[campaign.id])}")
                label = ""
        if not outcomes:
            self.tell.say(label, "No campaign is in A1: nothing to do.")
        received = self.tell_mails()
        nothing = "" if received else "No e-mail. "
        self.tell.say("", f"{nothing}Exit code {done.exit_code}, {done.seconds:.1f} s.")

        where = f"run {self.runs} (log: {shown(log)})"
        self.expect(f"exit code of {where}", 0, done.exit_code)
        wanted = {campaign.id: outcome for campaign, outcome in outcomes.items()}
        uncounted = {name for name, (_, attempt) in wanted.items() if attempt is None}
        got = {
            name: (entry["outcome"], None if name in uncounted else entry["attempt"])
            for name, entry in entries.items()
        }
        self.expect(f"outcomes of {where}", wanted, got)
        got_subjects = sorted(re.sub(r"^(✅ Solved - .*) \(.*\)$", r"\1", mail.subject) for mail in received)
        self.expect(f"e-mails of {where}", sorted(subjects), got_subjects)
        notices = {"queued": len(subjects), "sent": len(subjects), "failed": 0}
        self.expect(f"notices that {where} reports", notices, done.report.get("notices"))

    def tell_mails(self) -> list[Mail]:
        """The e-mails that have come since the last time, as part of the story."""
        received = self.collect_mails()
        for mail in received:
            self.tell.say("inbox", mail.subject, mail.file)
        return received

    def collect_mails(self) -> list[Mail]:
        """The e-mails that have come since the last time; their parts are written next to the .eml files."""
        folder = self.world.output / "mails"
        new = []
        for number, received in enumerate(self.world.mail.messages[len(self.mails) :], len(self.mails) + 1):
            mail = to_mail(number, self.runs, received)
            (folder / f"{mail.stem}.html").write_text(mail.html, encoding="utf-8")
            (folder / f"{mail.stem}.txt").write_text(mail.text, encoding="utf-8")
            new.append(mail)
        self.mails += new
        return new

    def snapshot(self, title: str) -> None:
        """What psql shows an operator now, into database/campaign_status.txt."""
        parts = []
        for name in SHOWN_QUERIES:
            variables = ["-v", "max_retries=3"] if name == "near_failure" else []
            shown_command = " ".join(["psql", *variables, "-f", f"database/queries/{name}.sql"])
            parts.append(
                f"$ {shown_command}\n{self.world.table(*variables, '-f', str(QUERIES / f'{name}.sql'))}"
            )
        parts.append(f'$ psql -c "{ALL_ROWS}"\n' + self.world.table("-c", ALL_ROWS))
        self.snapshots.append(Snapshot(title, "\n\n".join(parts)))
        text = "\n\n\n".join(f"== {taken.title} ==\n\n{taken.text}" for taken in self.snapshots)
        target = self.world.output / "database" / "campaign_status.txt"
        target.write_text(text + "\n", encoding="utf-8")

    def permanent_mail(self, campaign: Campaign) -> str:
        """The text of the e-mail that says that the campaign has failed for good."""
        found = [mail.text for mail in self.mails if mail.subject == permanent_subject(campaign)]
        self.expect(f"permanent-failure e-mails of {campaign.number}", 1, len(found))
        return found[0]

    def line_of(self, text: str, pattern: str) -> str:
        """The one line of an e-mail that the pattern matches."""
        found = [line.strip() for line in text.splitlines() if re.fullmatch(pattern, line.strip())]
        self.expect(f"lines of the e-mail that match {pattern!r}", 1, len(found))
        return found[0]

    # --- what must be so ---

    def expect(self, what: str, wanted: object, got: object) -> None:
        """Raises UnexpectedError unless both are equal."""
        if wanted != got:
            raise UnexpectedError(f"{what}\nexpected: {wanted!r}\ngot:      {got!r}")
        self.checks += 1

    def row(
        self, campaign: Campaign, status: str, count: int, *, is_failed: bool, is_told: bool = True
    ) -> None:
        """The campaign's row in campaign_status, read by psql with the operators' own query."""
        rows = self.world.query("status_one", campaign_id=campaign.id)
        self.expect(f"rows of {campaign.number} in campaign_status", 1, len(rows))
        names = ("campaign_number", "campaign_name", "status", "a1_retry_count", "a1_permanently_failed")
        wanted = (campaign.number, campaign.name, status, str(count), "t" if is_failed else "f")
        self.expect(
            f"row of {campaign.number}",
            dict(zip(names, wanted, strict=True)),
            {name: rows[0][name] for name in names},
        )
        if is_told:
            self.tell.say(
                "row", f"{campaign.number}: status = {status}, a1_retry_count = {count},"
                f" a1_permanently_failed = {'TRUE' if is_failed else 'FALSE'}"
            )  # fmt: skip

    def in_dam(self, campaign: Campaign, status: str) -> None:
        """The campaign's status in the DAM, with no lock left on it."""
        self.expect(f"status of {campaign.number} in the DAM", status, self.world.dam.status(campaign.id))
        self.expect(f"lock on {campaign.number} in the DAM", None, self.world.dam.lock_state(campaign.id))

    def nothing_was_asked_about(self, *campaigns: Campaign) -> None:
        """No call to the DAM since the last clear_requests() named one of these, or its folder."""
        dam = self.world.dam
        self.expect("the DAM was searched", True, bool(dam.requests))
        for campaign in campaigns:
            ids = [campaign.id, dam.master_assets_folder(campaign.id) or campaign.id]
            asked = [
                f"{call.method} {call.path}"
                for call in dam.requests
                for identity in ids
                if identity in f"{call.target} {call.params} {call.json}"
            ]
            self.expect(f"calls to the DAM about {campaign.number}", [], asked)

    def in_box(self, campaign: Campaign, sources: Sequence[Source]) -> None:
        """Every source is in Box, in its folder, with its size and SHA-1, and on disk too."""
        in_box = {file.id: file for file in self.world.box.files()}
        ledger = {
            row["asset_id"]: row["box_file_id"]
            for row in self.world.sql(
                f"SELECT asset_id, box_file_id FROM campaign_assets WHERE campaign_id = '{campaign.id}'"  # noqa: S608  # nosec B608 - our own id
            )
        }
        self.expect(
            f"assets of {campaign.number} on record", {source.asset_id for source in sources}, set(ledger)
        )
        for source in sources:
            file = in_box.get(ledger[source.asset_id])
            self.expect(f"{source.file.name!r} is in Box", True, file is not None)
            if file is None:
                continue
            wanted = (source.file.size, source.sha1)
            self.expect(f"size and SHA-1 of {source.file.name!r} in Box", wanted, (file.size, file.sha1))
            path = self.world.output / "box" / file.path
            self.expect(f"SHA-1 of {shown(path)}", source.sha1, sha1_of(path))
            # A name may be changed on the way; the folders here have names that Box takes as they are.
            folders = tuple(file.path.split("/")[2:-1])
            self.expect(f"folder of {source.file.name!r} in Box", source.file.folders, folders)
            self.files.append(
                StoredFile(file.path, file.size, file.sha1, changed_name(source.file, file.name))
            )
        top = {file.path.split("/")[1] for file in in_box.values() if file.id in set(ledger.values())}
        self.expect(f"Box folders of {campaign.number}", {f"{campaign.number} - {campaign.name}"}, top)

    def _is_turned_away(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False
            try:
                session.get(self.world.dam.url, verify=str(self.world.keys / "ca.pem"), timeout=10)
            except requests.ConnectionError:
                return True
        return False


# --- words ------------------------------------------------------------------------------------------------


def retry_subject(campaign: Campaign, attempt: int) -> str:
    """The promised subject."""
    return f"⚠️ No Assets Found (Attempt {attempt}/3) - Campaign {campaign.name}"


def permanent_subject(campaign: Campaign) -> str:
    """The promised subject."""
    return f"❌ PERMANENTLY FAILED - Campaign {campaign.name} (No Assets After 3 Attempts)"


def solved_subject(campaign: Campaign) -> str:
    """Without how long it took."""
    return f"✅ Solved - Campaign {campaign.name}"


def success_subject(campaign: Campaign, assets: int) -> str:
    """The promised subject."""
    return f"✅ Uploaded to Box - Campaign {campaign.name} ({assets} asset{'' if assets == 1 else 's'})"


def in_words(entry: Mapping[str, object]) -> str:
    """What a run did with one campaign."""
    attempt = f"attempt {entry['attempt']} of {entry['max_attempts']}"
    size = entry["bytes"]
    words = {
        "empty": f"the folder is empty, {attempt}",
        "folder_missing": f"there is no folder, {attempt}",
        "permanently_failed": f"still nothing, {attempt}: permanently failed",
        "skipped_permanently_failed": "permanently failed, skipped",
        "uploaded": f"{entry['assets']} files, {human_size(size) if isinstance(size, int) else size},"
        " copied to Box and checked; set to A2",
        "not_a1": "no longer in A1, skipped",
        "failed": f"failed: {entry['error']}",
    }
    return words.get(str(entry["outcome"]), str(entry["outcome"]))


def in_stretches(runs: Sequence[Mapping[str, str]]) -> list[str]:
    """The runs of `--explain`, those of one task that follow each other evenly on one line."""
    reasons = {
        "in_hours": "in office hours",
        "off_hours": "off-hours, at minutes 0 and 30",
        "daily": "daily, also off-hours",
    }
    stretches: list[list[Mapping[str, str]]] = []
    for run in runs:
        at = datetime.fromisoformat(run["at"])
        for stretch in stretches[-3:]:
            last = datetime.fromisoformat(stretch[-1]["at"])
            gap = last - datetime.fromisoformat(stretch[-2]["at"]) if len(stretch) > 1 else at - last
            is_same = stretch[-1]["task"] == run["task"] and stretch[-1]["rule"] == run["rule"]
            if is_same and at - last == gap and gap < timedelta(hours=2):
                stretch.append(run)
                break
        else:
            stretches.append([run])
    lines = []
    for stretch in stretches:
        first, last = (datetime.fromisoformat(stretch[index]["at"]) for index in (0, -1))
        span = f"{first:%a %H:%M}"
        reason = reasons[stretch[0]["rule"]]
        if len(stretch) > 1:
            span += f" to {last:%a %H:%M}"
            minutes = (last - first) // timedelta(minutes=len(stretch) - 1)
            reason = f"{len(stretch)} runs, every {minutes} minutes, {reason}"
        lines.append(f"{span:<24}{stretch[0]['task']:<14}{reason}")
    return lines


def to_mail(number: int, run: int, received: Received) -> Mail:
    """What the page and the story need of an e-mail."""
    parts = {}
    for subtype in ("plain", "html"):
        part = received.message.get_body(preferencelist=(subtype,))
        content = part.get_content() if part is not None else ""
        parts[subtype] = content if isinstance(content, str) else ""
    return Mail(
        stem=f"{number:04d}",
        run=run,
        to=", ".join(received.envelope_to),
        subject=str(received.message["Subject"]),
        text=parts["plain"],
        html=parts["html"],
    )


def changed_name(file: SampleFile, box_name: str) -> str:
    """The DAM's name when Box has the file under another, else nothing."""
    return "" if file.name == box_name else file.name


def sha1_of(path: Path) -> str:
    """Hex SHA-1 of a file on disk."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def shown(path: Path) -> str:
    """A path as a person here would write it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _put(line: str) -> None:
    sys.stdout.write(line + "\n")
