"""Explains why a campaign is where it is, and what happens next. Pure.

The rules that decide in the runs also compute what happens next, starting from the last run. `facts` reads
what the database knows, `explain_text` shows the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice
from zoneinfo import ZoneInfo

from shared.base.commands import Commands
from shared.base.links import NO_LINKS, Links
from shared.base.values import GONE, Campaign, MasterAssets, RetryStatus, UploadTotals
from shared.notices.wording import assets_and_size, duration, joined, moment, one_line, rounded_size
from shared.report.facts import Act, CampaignFacts, Mail
from shared.report.state import State, state_by_count
from shared.rules.cadence import OffHours
from shared.rules.outlook import ComingRun, attempts_of, auto_reset_of, coming_run, runs_from
from shared.rules.retry import Action, RetryPolicy, auto_reset_at, count, counts_from, decide, reason_for

SHOWN_MESSAGE = 300
FORETOLD_RUNS = 10_000
"""Attempts are predicted this many runs ahead: about a month."""
LOCK_DOUBT = timedelta(hours=1)
"""For this long the runs look whether a lock appears after all (LEFT_BEHIND in upload/standing)."""
OUT_OF_SIGHT = timedelta(days=1)
"""After this long a run reads a campaign in A1 that the search does not show (LEFT_BEHIND likewise)."""


class Coming(StrEnum):
    """What happens next, by codes as stable as those of the states."""

    LOOK = "look"
    ATTEMPT = "attempt"
    PERMANENT_FAILURE = "permanent_failure"
    SNOOZE_ENDS = "snooze_ends"
    AUTO_RESET = "auto_reset"
    READ_AGAIN = "read_again"
    LOCK_LOOKS_END = "lock_looks_end"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Installation:
    """The rules and names of this installation. window: None where no time zone is set: then no run is
    predicted, and zone is only that of the times shown.
    """

    policy: RetryPolicy
    zone: ZoneInfo
    window: OffHours | None
    status_a1: str
    folder_name: str
    commands: Commands
    links: Links = NO_LINKS

    @property
    def folder(self) -> str:
        """The folder's name, quoted for a sentence."""
        return f'"{one_line(self.folder_name, 60)}"'


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens next. at: when; None: unknown, or never. text: without the time."""

    what: Coming
    at: datetime | None
    text: str


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that a person can do. command: to paste; "" for none."""

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Live:
    """What the DAM showed when we asked it; both None when it does not show the campaign."""

    campaign: Campaign | None
    found: MasterAssets | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """One campaign explained. counted, limit: attempts counted in this cycle, and how many it has. run: the
    next one; None when no run is predicted. notes: what else is worth knowing.
    """

    facts: CampaignFacts
    state: State
    since: datetime | None
    why: str
    counted: int
    limit: int
    rule: tuple[str, ...]
    next: tuple[Step, ...]
    do: tuple[Deed, ...]
    notes: tuple[str, ...]
    run: ComingRun | None
    now: datetime
    live: Live | None = None

    @property
    def is_known(self) -> bool:
        """Whether the database knows the campaign, or the DAM showed it."""
        return self.state is not State.NEVER_SEEN or (
            self.live is not None and self.live.campaign is not None
        )


def state_of(facts: CampaignFacts, policy: RetryPolicy, status_a1: str, now: datetime) -> State:
    """The campaign's state now."""
    row = facts.row
    if row is None:
        return State.ERRING if facts.errors else State.NEVER_SEEN
    if row.status != status_a1:
        return _state_outside_a1(facts, row, now)
    if row.permanently_failed:
        return State.PERMANENTLY_FAILED
    if facts.left_search_at is not None:
        return State.UNSEEN
    if facts.errors:
        return State.ERRING
    return State.UPLOADING if _is_uploading(facts, row) else state_by_count(row, policy, now)


def _is_uploading(facts: CampaignFacts, row: RetryStatus) -> bool:
    """Whether an upload made progress after the last empty look and after the last reset."""
    progress = facts.progress
    moved_at = _latest(facts.a2_requested_at, progress.last_at, progress.open_at)
    found_empty_at = _latest(row.last_retry_at, _at(facts.last_reset))
    return moved_at is not None and (found_empty_at is None or moved_at > found_empty_at)


def _state_outside_a1(facts: CampaignFacts, row: RetryStatus, now: datetime) -> State:
    if facts.lock_doubted_at is not None and facts.lock_doubted_at > now - LOCK_DOUBT:
        return State.LOCK_DOUBTFUL
    if row.status == GONE:
        return State.GONE
    upload = facts.upload
    is_of_this_time = upload and (facts.in_a1_at is None or facts.in_a1_at <= upload.completed_at)
    return State.UPLOADED if is_of_this_time else State.NOT_A1


def explain(facts: CampaignFacts, by: Installation, now: datetime, live: Live | None = None) -> Explanation:
    """Why the campaign is where it is, and what the runs will do with it. live: what the DAM shows now."""
    last, run = facts.last_run, None
    if last is not None and by.window is not None:
        run = coming_run(last, now, by.zone, by.window)
    view = _View(facts, by, run, state_of(facts, by.policy, by.status_a1, now), now)
    return Explanation(
        facts=facts,
        state=view.state,
        since=view.since,
        why=view.why,
        counted=facts.retry.retry_count,
        limit=view.limit,
        rule=tuple(view.rule()),
        next=tuple(view.steps()),
        do=tuple(view.deeds()),
        notes=tuple(view.notes()),
        run=run,
        now=now,
        live=live,
    )


@dataclass(frozen=True, slots=True)
class _View:
    """One campaign being explained: each method answers one question."""

    facts: CampaignFacts
    by: Installation
    run: ComingRun | None
    state: State
    now: datetime

    @property
    def row(self) -> RetryStatus:
        return self.facts.retry

    @property
    def limit(self) -> int:
        return self.by.policy.limit(self.row)

    def said(self, at: datetime) -> str:
        return moment(at, self.by.zone)

    # Since when, and why

    @property
    def since(self) -> datetime | None:
        facts, progress, attempt_at = self.facts, self.facts.progress, self._attempt_at
        of_row = facts.status_at or facts.updated_at
        found: dict[State, datetime | None] = {
            State.NEVER_SEEN: None,
            State.PERMANENTLY_FAILED: attempt_at or facts.updated_at,
            State.EMPTY: attempt_at,
            State.WAITING: attempt_at,
            State.DUE: _latest(facts.in_a1_at, _at(facts.last_reset)) or of_row,
            State.SNOOZED: _at(facts.last_snooze) or facts.updated_at,
            State.UNSEEN: facts.left_search_at,
            State.ERRING: _earliest(*(error.began_at for error in facts.errors)),
            State.UPLOADING: _earliest(progress.first_at, progress.open_at, facts.a2_requested_at),
            State.UPLOADED: facts.upload.completed_at if facts.upload else None,
            State.LOCK_DOUBTFUL: facts.lock_doubted_at,
        }
        return found.get(self.state, of_row)

    @property
    def _attempt_at(self) -> datetime | None:
        attempts = self.facts.attempts
        return self.row.last_retry_at or (attempts[-1].at if attempts else None)

    @property
    def why(self) -> str:
        return {
            State.NEVER_SEEN: self._why_never_seen,
            State.NOT_A1: self._why_not_a1,
            State.GONE: self._why_gone,
            State.DUE: self._why_due,
            State.EMPTY: self._why_empty,
            State.WAITING: self._why_waiting,
            State.SNOOZED: self._why_snoozed,
            State.PERMANENTLY_FAILED: self._why_failed,
            State.UNSEEN: self._why_unseen,
            State.ERRING: self._why_erring,
            State.UPLOADING: self._why_uploading,
            State.UPLOADED: self._why_uploaded,
            State.LOCK_DOUBTFUL: self._why_lock_doubtful,
        }[self.state]()

    def _why_never_seen(self) -> str:
        return "no run has seen this campaign: it is not in the database"

    def _why_not_a1(self) -> str:
        status = self.row.status
        at = "it has no status" if status is None else f"it is in {one_line(status, 40)}"
        return f"{at}, and runs only look at campaigns in {self.by.status_a1}{self._kept_count()}"

    def _why_gone(self) -> str:
        return f"the DAM does not show it: it was deleted, or our user may not see it{self._kept_count()}"

    def _kept_count(self) -> str:
        """What remains of its attempts while it is not in A1, for the end of a sentence."""
        if self.row.permanently_failed:
            return "; it is permanently failed, so runs would skip it there until somebody resets it"
        if self.row.retry_count:
            return f"; {self._spent()} remain counted"
        return ""

    def _spent(self) -> str:
        return f"{self.row.retry_count} of {self.limit} attempts"

    def _why_due(self) -> str:
        return f"it is in {self.by.status_a1}, and no attempt is counted in cycle {self.row.cycle}"

    def _why_empty(self) -> str:
        reason = one_line(
            self.row.failure_reason or f"the folder {self.by.folder} was found empty", SHOWN_MESSAGE
        )
        return f"{reason}; {self._spent()} are spent (cycle {self.row.cycle})"

    def _why_waiting(self) -> str:
        due = counts_from(self.row, self.by.policy, self.now)
        assert due is not None  # noqa: S101 - so says the state
        return f"{self._why_empty()}; the next attempt does not count before {self.said(due)}"

    def _why_snoozed(self) -> str:
        until = self.row.snoozed_until
        assert until is not None  # noqa: S101 - so says the state
        spent = f"; {self._spent()} are spent" if self.row.retry_count else ""
        return f"files are promised: until {self.said(until)} no look counts as an attempt{spent}"

    def _why_failed(self) -> str:
        if self.row.retry_count < self.limit:
            return (
                f"marked by hand as permanently failed, with {self._spent()} counted (cycle {self.row.cycle})"
            )
        return self._why_empty()

    def _why_unseen(self) -> str:
        asked = self.facts.a2_requested_at
        begun = (
            f"; its files are in Box, and a run asked the DAM for A2 on {self.said(asked)}" if asked else ""
        )
        return (
            f"it was in {self.by.status_a1} when a run last read it, but the DAM's search does not show it,"
            f" and runs only look at what the search shows{begun}"
        )

    def _why_erring(self) -> str:
        first = self.facts.errors[0]
        more = len(self.facts.errors) - 1
        others = f" (and {more} other error{'s' if more > 1 else ''})" if more else ""
        message = one_line(first.message, SHOWN_MESSAGE)
        return (
            f"it fails with an error, which does not spend an attempt: {message} [{one_line(first.kind, 60)}]"
            f"{others}; last seen {self.said(first.last_seen_at)}"
        )

    def _why_uploading(self) -> str:
        progress = self.facts.progress
        files = f"{progress.files} file{'' if progress.files == 1 else 's'} in Box so far"
        parts = [f"{files} ({rounded_size(progress.size_bytes)})"]
        if progress.open_files:
            many = progress.open_files
            parts.append(f"{many} large file{'' if many == 1 else 's'} partly uploaded")
        if self.facts.a2_requested_at:
            parts.append(f"a run asked the DAM for A2 on {self.said(self.facts.a2_requested_at)}")
        return f"its upload is running, or the next run continues it: {', '.join(parts)}"

    def _why_uploaded(self) -> str:
        upload = self.facts.upload
        assert upload is not None  # noqa: S101 - so says the state
        return (
            f"{assets_and_size(UploadTotals(upload.assets, upload.size_bytes))} are in Box, and the DAM"
            f" confirmed A2; the upload began {self.said(upload.started_at)}"
        )

    def _why_lock_doubtful(self) -> str:
        return (
            "its files are in Box and it has left A1, but an earlier run asked for its lock and got no"
            " answer, so the DAM may still lock it"
        )

    # The rule, and where its numbers come from

    def rule(self) -> Iterator[str]:
        policy, row = self.by.policy, self.row
        if row.max_retries is None:
            yield f"{self.limit} attempt{'' if self.limit == 1 else 's'} (A1_MAX_RETRIES)"
        else:
            by = f", set {self._act(self.facts.last_limit)}" if self.facts.last_limit else ""
            yield (
                f"{self.limit} attempt{'' if self.limit == 1 else 's'} (this campaign's own limit{by};"
                f" A1_MAX_RETRIES is {policy.max_retries})"
            )
        if self.limit > 1:
            yield _waits(policy.delays, self.limit - 1)
        if policy.auto_reset_days:
            yield (
                f"reset by itself after {policy.auto_reset_days} days (A1_AUTO_RESET_DAYS), at most"
                f" {policy.auto_reset_cycles} times (A1_AUTO_RESET_CYCLES), {row.auto_resets} so far"
            )
        else:
            yield "never reset by itself (A1_AUTO_RESET_DAYS is 0)"

    # What happens next

    def steps(self) -> Iterator[Step]:
        state = self.state
        if state in (State.NOT_A1, State.GONE, State.UPLOADED):
            yield Step(Coming.NOTHING, None, f"nothing, until it is in {self.by.status_a1} again")
        elif state is State.LOCK_DOUBTFUL:
            assert self.facts.lock_doubted_at is not None  # noqa: S101 - so says the state
            end = min(self.facts.lock_doubted_at, self.now) + LOCK_DOUBT
            yield Step(Coming.LOCK_LOOKS_END, end, "until then each run looks whether the DAM has locked it")
        elif state is State.PERMANENTLY_FAILED:
            yield self._after_permanent_failure()
        elif state is State.UNSEEN:
            yield Step(Coming.LOOK, None, "the first run whose search shows it looks at it again")
            yield self._read_again()
        elif state is State.NEVER_SEEN:
            text = f"a run finds it as soon as it is in {self.by.status_a1} and below the campaigns folder"
            yield Step(Coming.LOOK, self._at_next_run, text)
        else:
            yield Step(Coming.LOOK, self._at_next_run, self._next_look())
            if state not in (State.ERRING, State.UPLOADING):
                yield from self._attempts()

    @property
    def _is_foretold(self) -> bool:
        """Whether the times of the next runs are known."""
        return self.run is not None and self.run.overdue_since is None

    @property
    def _at_next_run(self) -> datetime | None:
        return self.run.at if self.run is not None and self._is_foretold else None

    def _runs(self, towards: datetime | None = None) -> Iterator[datetime]:
        """The runs to come; none when their times are unknown."""
        if self.run is not None and self._is_foretold and self.by.window is not None:
            yield from runs_from(self.run.at, self.by.zone, self.by.window, towards)

    def _next_look(self) -> str:
        if self.state is State.ERRING:
            return "the next run tries again"
        if self.state is State.UPLOADING:
            return "the next run uploads what is still missing"
        return "the next run looks again, and uploads what it finds"

    def _attempts(self) -> Iterator[Step]:
        """When empty looks count, as far ahead as the runs are known."""
        row, policy = self.row, self.by.policy
        until = row.running_snooze(self.now)
        if until is not None:
            yield Step(
                Coming.SNOOZE_ENDS, until, "the snooze ends; after that an empty folder counts as an attempt"
            )
        remaining = max(1, self.limit - row.retry_count)
        runs = islice(self._runs(until), FORETOLD_RUNS)
        ahead = tuple(attempts_of(row, policy, runs))
        if remaining > 1:
            number = count(row, policy, self.now)[1].number
            text = f"if it is still empty, attempt {number} of {self.limit} counts, and an e-mail goes out"
            yield Step(Coming.ATTEMPT, ahead[0] if ahead else None, text)
        at = ahead[-1] if len(ahead) == remaining else None
        text = "if it is still empty, the last attempt counts, and the campaign is permanently failed"
        yield Step(Coming.PERMANENT_FAILURE, at, text)

    def _after_permanent_failure(self) -> Step:
        row, policy, window = self.row, self.by.policy, self.by.window
        skipped = "runs skip it, without e-mails, until somebody resets it"
        due = auto_reset_at(row, policy)
        if due is None:
            return Step(Coming.NOTHING, None, self._never_by_itself() or skipped)
        number = f"automatic reset {row.auto_resets + 1} of {policy.auto_reset_cycles}"
        at = auto_reset_of(row, policy, self._runs(due), self.by.zone, window) if window is not None else None
        if at is None:
            return Step(
                Coming.AUTO_RESET,
                None,
                f"{skipped}; the first run in office hours from {self.said(due)} on resets it by itself"
                f" ({number})",
            )
        return Step(
            Coming.AUTO_RESET,
            at,
            f"it is reset by itself ({number}), and that run looks again; until then runs skip it",
        )

    def _never_by_itself(self) -> str:
        """Why there is no automatic reset although they are switched on; "" when they are off."""
        policy, row = self.by.policy, self.row
        skipped = "runs skip it, without e-mails, until a person resets it"
        if policy.auto_reset_days and row.auto_resets >= policy.auto_reset_cycles:
            used = f"{row.auto_resets} of {policy.auto_reset_cycles} automatic resets are used up"
            return f"{skipped}: {used}"
        if policy.auto_reset_days:
            return f"{skipped}: the time of its last attempt is unknown, so it is not reset by itself"
        return ""

    def _read_again(self) -> Step:
        left = self.facts.left_search_at
        assert left is not None  # noqa: S101 - so says the state
        from_then = max(left + OUT_OF_SIGHT, self.now) if left <= self.now else self.now
        at = next((run for run in self._runs() if run > from_then), None)
        return Step(Coming.READ_AGAIN, at, "if the search still does not show it, a run reads it by its id")

    # What to do

    def deeds(self) -> Iterator[Deed]:
        commands, campaign_id, a1 = self.by.commands, self.facts.campaign_id, self.by.status_a1
        if self.run is not None and self.run.overdue_since is not None:
            check = commands.run("orchestrator-prod.py", "--check")
            yield Deed("find out why the orchestrator does not run:", check)
        put = f"put the files into {self.by.folder}"
        uploads = Deed(f"{put}; the next run uploads them")
        snooze = self._tool("snooze", "--until", "YYYY-MM-DD", "--reason", "WHY")
        promised = Deed("if the files come later, snooze it:", snooze)
        again = Deed(f"if it should be uploaded, set it to {a1} in the DAM")
        verify = commands.run("a1_to_a2_box_uploader.py", f"--verify={campaign_id}")
        yield from {
            State.NEVER_SEEN: [Deed("check the id, or ask the DAM:", self._tool("explain", "--live"))],
            State.NOT_A1: [again],
            State.GONE: [again],
            State.DUE: [uploads],
            State.EMPTY: [uploads, promised],
            State.WAITING: [uploads, promised],
            State.SNOOZED: [uploads, Deed("to end the snooze:", self._tool("wake"))],
            State.PERMANENTLY_FAILED: [Deed(f"{put}, then:", commands.reset(campaign_id))],
            State.UNSEEN: [
                Deed("check that it is below the campaigns folder"),
                Deed("ask the DAM:", self._tool("explain", "--live")),
            ],
            State.ERRING: [Deed("fix what the error describes; the next run tries again by itself")],
            State.UPLOADED: [Deed("nothing; to compare the DAM and Box again:", verify)],
        }.get(self.state, [Deed("nothing")])
        if self.row.permanently_failed and self.row.status != a1:
            yield Deed(f"before it goes back to {a1}, reset it:", commands.reset(campaign_id))

    def _tool(self, command: str, *options: str) -> str:
        """A command of a1_retry.py for this campaign."""
        name = self.facts.campaign_id
        return self.by.commands.run(
            "a1_retry.py", command, *options, *(["--"] if name.startswith("-") else []), name
        )

    # What else is worth knowing

    def notes(self) -> Iterator[str]:
        yield from self._notes_of_acts()
        if self.state is State.ERRING:
            yield self._told_of_error()
        elif self.facts.errors:
            first = self.facts.errors[0]
            yield (
                f"it failed with an error from {self.said(first.began_at)} to"
                f" {self.said(first.last_seen_at)}: {one_line(first.message, SHOWN_MESSAGE)}"
            )
        yield from self._notes_of_state()
        yield from self._notes_of_runs()

    def _notes_of_acts(self) -> Iterator[str]:
        facts, until = self.facts, self.row.running_snooze(self.now)
        if facts.last_reset and self.state is not State.UPLOADED:
            yield f"reset {self._act(facts.last_reset)}"
        if facts.last_snooze and until is not None:
            yield f"snoozed {self._act(facts.last_snooze)}, until {self.said(until)}"

    def _notes_of_state(self) -> Iterator[str]:
        """Notes that belong to one state."""
        facts = self.facts
        mail, upload = facts.success_mail, facts.upload
        if self.state is State.UPLOADED and mail and upload and mail.created_at >= upload.started_at:
            yield mail_said(mail)
        if self.state is State.PERMANENTLY_FAILED and facts.left_search_at:
            yield f"the DAM's search did not show it at {self.said(facts.left_search_at)}"
        if facts.worker is not None:
            yield facts.worker.words(self.by.zone)
        elif self.state is State.UPLOADING and facts.holder and facts.taken_at:
            yield f"{one_line(facts.holder, 80)} last worked on it, from {self.said(facts.taken_at)}"

    def _told_of_error(self) -> str:
        told, mail = self.facts.errors[0].told_at, self.facts.error_mail
        if told is None:
            return "no e-mail went out about the error: it usually ends by itself"
        return f"an e-mail went out about the error {self.said(told)}" + (
            f": {mail_said(mail)}" if mail else ""
        )

    def _notes_of_runs(self) -> Iterator[str]:
        last, run = self.facts.last_run, self.run
        if self.by.window is None:
            yield "ORCHESTRATOR_TIMEZONE is not set here: times are in UTC, and the next runs are unknown"
        elif last is None:
            yield "the orchestrator has no run on record, so the time of the next run is unknown"
        elif run is not None and run.overdue_since is not None:
            yield (
                f"the orchestrator has not started the upload since {self.said(last.started_at)}; a run"
                f" was due {self.said(run.overdue_since)}, and nothing happens until it runs again"
            )
        elif run is not None and run.under_way_since is not None:
            yield (
                f"a run has been under way since {self.said(run.under_way_since)}: it may still reach this"
                " campaign, and the next run waits until it ends"
            )
        elif last.exit_code not in (0, 4):
            yield (
                f"the last run, planned for {self.said(last.planned_at)}, ended with exit code"
                f" {last.exit_code}: until runs succeed again, looks may fail, and a"
                " failed look does not count as an attempt"
            )

    def _act(self, act: Act) -> str:
        reason = f": {one_line(act.reason, SHOWN_MESSAGE)}" if act.reason else ""
        who = "by itself" if act.actor == "auto" else f"by {one_line(act.actor, 60)}"
        source = "" if act.source in ("", "auto") else f" with {one_line(act.source, 60)}"
        return f"{who} {self.said(act.at)}{source}{reason}"


def _at(act: Act | None) -> datetime | None:
    return None if act is None else act.at


def _latest(*moments: datetime | None) -> datetime | None:
    return max((at for at in moments if at is not None), default=None)


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((at for at in moments if at is not None), default=None)


def _waits(delays: tuple[int, ...], waits: int) -> str:
    """How long the attempts after the first wait. waits: how many of them there are."""
    if not delays:
        return "an empty look counts in each run (A1_RETRY_DELAYS is empty)"
    said = joined([str(minutes) for minutes in delays[:waits]])
    repeats = ", the last one repeated" if waits > len(delays) else ""
    return f"wait{'s' if waits > 1 else ''} of {said} min{repeats} (A1_RETRY_DELAYS)"


def mail_said(mail: Mail) -> str:
    """`e-mail a81f3c02 to 3, delivered`: what became of it."""
    to = f"e-mail {mail.id[:8]} to {mail.recipients}"
    if not mail.recipients:
        folded = mail.folded_into
        return f"covered by e-mail {folded[:8]}" if folded else f"e-mail {mail.id[:8]} to nobody"
    if mail.sent == mail.recipients:
        return f"{to}, delivered"
    parts = [(mail.sent, "delivered"), (mail.waiting, "waiting"), (mail.given_up, "given up")]
    states = ", ".join(f"{many} {word}" for many, word in parts if many)
    return f"{to}: {states}" + (f" ({one_line(mail.last_error, 120)})" if mail.last_error else "")


def found_of(reason: str, folder_name: str) -> str:
    """What an attempt found; a word for the usual cases."""
    usual = {
        reason_for(MasterAssets("folder"), folder_name): "empty",
        reason_for(MasterAssets(None), folder_name): "no folder",
    }
    return usual.get(reason, one_line(reason, 60))


def outcome_of(explanation: Explanation, by: Installation) -> str:
    """What the next run does if the DAM still shows what it showed now, by the rule of the runs."""
    live, run = explanation.live, explanation.run
    if live is None or live.campaign is None or live.found is None:
        return ""
    if live.campaign.status != by.status_a1:
        return "no run looks at it"
    row = explanation.facts.retry
    at = run.at if run is not None else explanation.now
    number = count(row, by.policy, at)[1].number
    seen = "once the search shows it, " if explanation.state is State.UNSEEN else ""
    said = {
        Action.UPLOAD: "the next run uploads them",
        Action.COUNT_ATTEMPT: f"the next run counts attempt {number}",
        Action.WAIT: "the next run waits",
        Action.SNOOZE: "the next run counts nothing, because it is snoozed",
        Action.SKIP: "runs skip it until somebody resets it",
    }
    return seen + said[decide(row, live.found, by.policy, at)]


def elapsed(earlier: datetime, later: datetime) -> str:
    """`3 min`, `1 h 0 min`: the time between two attempts, in whole minutes."""
    minutes = round((later - earlier).total_seconds() / 60)
    return f"{minutes} min" if minutes < 60 else duration(timedelta(minutes=minutes))
