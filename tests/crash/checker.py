"""What must hold, read from PostgreSQL, the simulators' stores and the mailbox alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from crash.stage import Played
from crash.systems import MAX_ATTEMPTS, Systems

RECEIPT = "_manifest.json"
DIGEST_LINE = r"^- .* \| "
"""A notice in a digest's text."""
DIGEST_REST = r"^and (\d+) more\. All"
"""How many notices of a large digest have no line of their own."""
CAMPAIGN_NOTICES = ("a1_to_a2_no_assets_retry", "a1_to_a2_permanent_failure")
SUCCESS = "a1_to_a2_success"
ERROR = "a1_to_a2_error"
RECOVERED = "a1_to_a2_recovered"


class Checker:
    """Follows one scene from run to run. Each check yields a sentence for whatever is wrong."""

    def __init__(self, stage: Systems, *, may_fail: bool = False) -> None:
        """may_fail: campaigns may meet failures that are told by error notices."""
        self._stage = stage
        self._may_fail = may_fail
        self.attempts = {one.id: one.attempts for one in stage.wanted.values()}
        self._counted: Counter[str] = Counter()
        """Attempts counted while we looked on, resets notwithstanding."""
        self.repeats_allowed = 0
        """Mails that may have come twice: their taking was not told, or not noted."""
        self.orphans_allowed = 0
        """Upload sessions that Box may have opened without anybody knowing."""
        self.denials_allowed = 0
        """Upload sessions that Box denied having when it was asked to end them."""
        self.endless_allowed = 0
        """Task runs whose orchestrator died under them."""

    # After every run, killed or not

    def after(self, run: Played) -> list[str]:
        """What no run may leave behind, not even for a moment."""
        if run.hit is not None:
            self.repeats_allowed += 1
            self.orphans_allowed += 1
            self.endless_allowed += 2
        return [*self._attempts_of(run), *self._notices(), *self._bytes(is_settled=False)]

    def _attempts_of(self, run: Played) -> Iterator[str]:
        rows = self._stage.rows("SELECT campaign_id, a1_retry_count, status FROM campaign_status")
        counts = {row[0]: row[1] or 0 for row in rows}
        uploaded = {row[0] for row in rows if row[2] == "A2"}
        for one in self._stage.wanted.values():
            before, now = self.attempts[one.id], counts.get(one.id, 0)
            self.attempts[one.id] = now
            grown = 0 if one.id in uploaded and now == 0 else now - before
            self._counted[one.id] += grown
            if one.files or one.is_failed:
                if grown:
                    yield f"{one.folder}: {grown} attempts counted, and it is not empty, or failed already"
            elif grown not in (0, 1):
                yield f"{one.folder}: {grown} attempts counted in one run"
            elif grown and one.id not in run.proven:
                yield f"{one.folder}: an attempt counted that nothing proves"
            elif not grown and one.id in run.owed and before < MAX_ATTEMPTS:
                yield f"{one.folder}: proven empty, and not counted"

    def _notices(self) -> Iterator[str]:
        """A counted attempt and its notice, an A2 in the row and its notice: neither without the other."""
        found = Counter(self._stage.rows("SELECT campaign_id, kind FROM notices"))
        rows = dict(self._stage.rows("SELECT campaign_id, status FROM campaign_status"))
        for one in self._stage.wanted.values():
            owed = self._counted[one.id]
            is_failed = owed > 0 and self.attempts[one.id] == MAX_ATTEMPTS
            wanted = dict(zip(CAMPAIGN_NOTICES, (owed - is_failed, int(is_failed)), strict=True))
            wanted[SUCCESS] = int(rows.get(one.id) == "A2")
            was_in_trouble = found[(one.id, CAMPAIGN_NOTICES[1])] or found[(one.id, ERROR)]
            wanted[RECOVERED] = int(bool(was_in_trouble) and wanted[SUCCESS])
            for kind, count in wanted.items():
                if found[(one.id, kind)] != count:
                    yield f"{one.folder}: {found[(one.id, kind)]} notices of {kind}, owed {count}"
        known = (*CAMPAIGN_NOTICES, SUCCESS, RECOVERED, "daily_report", *((ERROR,) if self._may_fail else ()))
        strange = [key for key in found if key[1] not in known]
        if strange:
            yield f"notices that nothing owes: {strange}"
        doubled = self._stage.rows(
            # Two digests of as many notices have one subject; one of them is too many when it carries none.
            "SELECT campaign_id, subject, count(*) FROM notices n WHERE kind <> %s"
            " GROUP BY 1, 2 HAVING count(*) > 1 AND (campaign_id <> '' OR bool_or(NOT EXISTS ("
            "SELECT FROM notice_deliveries d WHERE coalesce(d.mail_id, d.notice_id) = n.id)))",
            ERROR,
        )
        if doubled:
            yield f"notices that say the same: {doubled}"

    def _bytes(self, *, is_settled: bool) -> Iterator[str]:
        """Nothing in Box but what belongs there, and no A2 without all of it."""
        # Before Box: a campaign that says A2 by now has all of its files there.
        statuses = {one.id: self._stage.dam.status(one.id) for one in self._stage.wanted.values()}
        in_box = {
            path.split("/", 1)[1]: (file.size, file.sha1)
            for file in self._stage.box.files()
            if "/" in (path := file.path)
        }
        expected: set[str] = set()
        for one in self._stage.wanted.values():
            expected |= {f"{one.folder}/{path}" for path in (*one.files, RECEIPT) if one.files}
            is_a2 = statuses[one.id] == "A2"
            if is_a2 and not one.files:
                yield f"{one.folder}: A2, and it is empty"
            if is_settled and one.files and not is_a2:
                yield f"{one.folder}: still {statuses[one.id]!r}"
            for path, content in one.files.items():
                there = in_box.get(f"{one.folder}/{path}")
                if there is not None and there != content:
                    yield f"{one.folder}/{path}: other bytes in Box"
                if there is None and is_a2:
                    yield f"{one.folder}/{path}: A2, and it is not in Box"
        for path in sorted(in_box.keys() - expected):
            yield f"Box holds {path} besides"
        folders = [folder.path for folder in self._stage.box.folders() if "/" in folder.path]
        known = {path.rpartition("/")[0] for path in expected}
        for path in folders:
            if path.split("/", 1)[1] not in known:
                yield f"Box has the folder {path} besides"

    # At the end

    def settled(self) -> list[str]:
        """What must hold once an ordinary run has come to its end."""
        return [
            *self._bytes(is_settled=True),
            *self._receipts(),
            *self._traces(),
            *self._ledger(),
            *self._mailbox(),
            *self._task_runs(),
        ]

    def _receipts(self) -> Iterator[str]:
        files = {file.path.split("/", 1)[-1]: file for file in self._stage.box.files()}
        for one in self._stage.wanted.values():
            if not one.files:
                continue
            receipt = files.get(f"{one.folder}/{RECEIPT}")
            if receipt is None:
                yield f"{one.folder}: no receipt"
                continue
            document = json.loads(self._stage.box.content(receipt.id))
            listed = {
                entry["path"]: (entry["size"], entry["sha1"], entry["box_id"]) for entry in document["assets"]
            }
            there = {
                path: (*content, files[f"{one.folder}/{path}"].id)
                for path, content in one.files.items()
                if f"{one.folder}/{path}" in files
            }
            if listed != there or len(document["assets"]) != len(one.files):
                yield f"{one.folder}: the receipt lists {listed}, Box holds {there}"
            if document["campaign"]["id"] != one.id:
                yield f"{one.folder}: the receipt is another campaign's"

    def _traces(self) -> Iterator[str]:
        """No lock, no upload session, no failure that is over."""
        stage = self._stage
        for one in stage.wanted.values():
            holder = stage.dam.lock_state(one.id)
            if holder is not None:
                yield f"{one.folder}: left locked by {holder}"
        for row in stage.rows("SELECT campaign_id, session_id FROM upload_sessions"):
            yield f"upload session still on record: {row}"
        sessions = stage.box.open_sessions()
        filled = [session for session in sessions if session.offsets]
        if len(filled) > self.denials_allowed:
            for session in filled:
                yield f"upload session of {session.file_name} left open with {len(session.offsets)} parts"
        if len(sessions) > self.orphans_allowed + self.denials_allowed:
            yield f"{len(sessions)} upload sessions left open, at most {self.orphans_allowed} unknown"
        errors = stage.rows("SELECT campaign_id, kind, message FROM campaign_errors")
        if errors:
            yield f"errors left: {errors}"

    def _ledger(self) -> Iterator[str]:
        """The ledger tells what Box holds, and each upload was recorded once."""
        stage = self._stage
        ids = {file.id: (file.size, file.sha1) for file in stage.box.files()}
        ledger = stage.rows(
            "SELECT campaign_id, asset_id, box_file_id, size_bytes, sha1 FROM campaign_assets"
        )
        for campaign, asset, file, size, sha1 in ledger:
            if ids.get(file) != (size, sha1):
                yield f"the ledger has asset {asset} of {campaign} as file {file}, which Box holds otherwise"
        of_campaign = Counter(row[0] for row in ledger)
        uploads = Counter(row[0] for row in stage.rows("SELECT campaign_id FROM campaign_uploads"))
        for one in stage.wanted.values():
            if of_campaign[one.id] != len(one.files):
                yield f"{one.folder}: {of_campaign[one.id]} ledger entries for {len(one.files)} files"
            if uploads[one.id] != bool(one.files):
                yield f"{one.folder}: recorded as uploaded {uploads[one.id]} times"

    def _mailbox(self) -> Iterator[str]:
        """Every notice has come, alone, in a table or folded into a later one; a mail that came again has the
        same Message-ID.
        """
        yield from self._deliveries()
        mails = self._stage.rows(
            "SELECT m.id, m.subject, d.recipient, m.body_text, count(*)"
            " FROM notice_deliveries d JOIN notices m ON m.id = coalesce(d.mail_id, d.notice_id)"
            " GROUP BY 1, 2, 3"
        )
        owed = [(subject, recipient) for _, subject, recipient, _, _ in mails]
        for _, subject, recipient, text, carried in mails:
            rest = re.search(DIGEST_REST, text, re.MULTILINE)
            told = max(1, len(re.findall(DIGEST_LINE, text, re.MULTILINE)) + int(rest[1] if rest else 0))
            if told != carried:
                yield f"{subject!r} to {recipient} tells of {told} notices and carries {carried}"
        by_id: dict[str, Counter[tuple[str, str]]] = {}
        for mail in self._stage.mail.messages:
            for recipient in mail.envelope_to:
                key = (str(mail.message["Subject"]), recipient)
                by_id.setdefault(str(mail.message["Message-ID"]), Counter())[key] += 1
        repeats = sum(sum(count.values()) - 1 for count in by_id.values())
        if repeats > self.repeats_allowed:
            yield f"{repeats} mails came again, at most {self.repeats_allowed} with cause"
        if any(len(count) > 1 for count in by_id.values()):
            yield "one Message-ID bears several mails"
        came = Counter(key for count in by_id.values() for key in count)
        if came != Counter(owed):
            yield f"in the mailbox {came - Counter(owed)} too many, {Counter(owed) - came} missing"

    def _deliveries(self) -> Iterator[str]:
        """To each recipient of its kind a notice has been sent, or it is folded into one that has: once."""
        recipients = {SUCCESS: "SUCCESS_NOTIFICATION_EMAILS", "daily_report": "REPORT_EMAILS"}
        owed = {
            (notice, recipient)
            for notice, kind in self._stage.rows(
                "SELECT id, kind FROM notices n WHERE campaign_id <> '' OR kind = 'daily_report'"
            )
            for recipient in self._stage.env[recipients.get(kind, "ERROR_NOTIFICATION_EMAILS")].split(",")
        }
        rows = self._stage.rows("SELECT notice_id, recipient, sent_at IS NOT NULL FROM notice_deliveries")
        folded = self._stage.rows(
            "SELECT detail ->> 'notice_id', detail ->> 'recipient', detail ->> 'into'"
            " FROM campaign_events WHERE kind = 'notice_folded'"
        )
        unsent = [row for row in rows if not row[2]]
        if unsent:
            yield f"{len(unsent)} deliveries are not marked as sent"
        told, once = Counter([row[:2] for row in rows] + [row[:2] for row in folded]), Counter(owed)
        if told != once:
            yield f"deliveries and folded ones: {told - once} too many, {once - told} missing"
        for notice, recipient, into in folded:
            if (into, recipient) not in told:
                yield f"{notice} to {recipient} is folded into {into}, which does not go there"

    def _task_runs(self) -> Iterator[str]:
        """A run has an end and an exit code or neither; runs without an end are no more than kills."""
        runs = self._stage.rows(
            "SELECT task, planned_at, started_at, finished_at, exit_code, ending FROM orchestrator_task_runs"
        )
        for run in runs:
            if (run[3] is None) != (run[4] is None) or (run[3] is not None and run[3] < run[2]):
                yield f"a senseless task run: {run}"
        endless = sum(run[3] is None for run in runs)
        if endless > self.endless_allowed:
            yield f"{endless} task runs without an end, at most {self.endless_allowed} with cause"
        reports = self._stage.rows("SELECT report_date FROM daily_reports")
        notices = self._stage.rows("SELECT id FROM notices WHERE kind = 'daily_report'")
        if len(reports) != len(notices) or len(reports) > 1:
            yield f"{len(reports)} daily reports, {len(notices)} notices of them"
