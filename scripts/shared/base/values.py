"""The values that travel between the parts. Frozen, without behaviour beyond reading themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign folder as the DAM showed it.

    id: the folder's asset id (40 hex digits). number: the business number people use, "" when unset.
    status: the code in the status field, None when the field is empty.
    locked_by: login name of the user who holds the metadata lock, None when unlocked.
    """

    id: str
    number: str
    name: str
    status: str | None
    locked_by: str | None = None

    @property
    def label(self) -> str:
        """Number and name, for log lines."""
        return f"{self.number} {self.name}".strip()


GONE = "GONE"
"""The status in the row of a campaign that the DAM no longer shows: deleted, or hidden from our user."""


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One folder of a search's answer: the status as the index has it, None when the answer left it out."""

    id: str
    status: str | None


@dataclass(frozen=True, slots=True)
class DamFolder:
    """Master Assets itself (parent None) or a sub-folder of it."""

    id: str
    name: str
    parent: DamFolder | None


@dataclass(frozen=True, slots=True)
class Asset:
    """A live file below Master Assets.

    size_bytes: as the DAM declares it. revision: changes whenever the DAM's copy does.
    md5: the checksum the DAM declares (32 hex digits), None when it declares none of that form.
    """

    id: str
    name: str
    folder: DamFolder
    size_bytes: int
    revision: str
    md5: str | None = None


@dataclass(frozen=True, slots=True)
class MasterAssets:
    """What a campaign's Master Assets folder was proven to hold; folder_id None: there is no such folder."""

    folder_id: str | None
    assets: tuple[Asset, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(asset.size_bytes for asset in self.assets)


@dataclass(frozen=True, slots=True)
class RetryStatus:
    """Where a campaign stands in its retry cycle; a campaign without a row stands at zero.

    status: the one in its row; None without a row. max_retries: this campaign's own limit, None: that of all.
    snoozed_until: no attempt counts before. cycle: the number of the cycle, the attempts between two resets.
    auto_resets: how often the product itself has reset it since a person did.
    """

    campaign_id: str
    retry_count: int = 0
    last_retry_at: datetime | None = None
    permanently_failed: bool = False
    failure_reason: str | None = None
    campaign_number: str = ""
    campaign_name: str = ""
    status: str | None = None
    max_retries: int | None = None
    snoozed_until: datetime | None = None
    cycle: int = 1
    auto_resets: int = 0

    def running_snooze(self, now: datetime) -> datetime | None:
        """The end of its snooze; None when it is not snoozed now."""
        return self.snoozed_until if self.snoozed_until is not None and now < self.snoozed_until else None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What counting an attempt did. counted is False when the campaign was permanently failed or snoozed.

    max_attempts: of this campaign; None: as many as a campaign has usually. cycle: that of the attempt.
    """

    number: int
    counted: bool
    permanently_failed: bool
    max_attempts: int | None = None
    cycle: int = 1


@dataclass(frozen=True, slots=True)
class BoxFile:
    """A file as Box reports it. version_id: of the current version, "" when Box did not say."""

    id: str
    name: str
    size_bytes: int
    sha1: str
    version_id: str = ""


@dataclass(frozen=True, slots=True)
class BoxFolderListing:
    """What a Box folder holds: files, and sub-folders as {id: name}."""

    files: tuple[BoxFile, ...] = ()
    folders: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One asset that reached Box and was verified there."""

    asset_id: str
    revision: str
    box_file_id: str
    box_name: str
    size_bytes: int
    sha1: str


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload session that an earlier run left open, and what it was for."""

    campaign_id: str
    asset_id: str
    session_id: str
    revision: str
    size_bytes: int
    folder_id: str
    replaces: str | None


@dataclass(frozen=True, slots=True)
class ReceiptEntry:
    """One asset in a campaign's receipt. path: in Box, below the campaign's folder. name: in the DAM."""

    path: str
    name: str
    dam_id: str
    size: int
    sha1: str
    box_id: str


@dataclass(frozen=True, slots=True)
class UploadTotals:
    """What the ledger holds of a campaign."""

    assets: int
    size_bytes: int


class NoticeKind(StrEnum):
    """The e-mail templates, by file name."""

    RETRY = "a1_to_a2_no_assets_retry"
    PERMANENT = "a1_to_a2_permanent_failure"
    SUCCESS = "a1_to_a2_success"
    ERROR = "a1_to_a2_error"
    RECOVERED = "a1_to_a2_recovered"
    DAILY_REPORT = "daily_report"
    WEEKLY_DIGEST = "weekly_digest"
    TASK_ALERT = "orchestrator_task_alert"


DIGEST_KINDS = {
    NoticeKind.RETRY: "retry",
    NoticeKind.PERMANENT: "permanent",
    NoticeKind.SUCCESS: "success",
    NoticeKind.ERROR: "error",
    NoticeKind.RECOVERED: "recovered",
}
"""Notices of which each campaign has its own: many at once become a digest. {kind: the word for it in the
digest's template}.
"""


@dataclass(frozen=True, slots=True)
class NoticeLine:
    """A notice as a line of a table. attempt: spent so far. detail: why, or how much. folded: how many
    earlier notices it takes the place of. box_folder_id: the campaign's, None while it has none.
    """

    campaign_id: str
    number: str
    name: str
    attempt: int
    max_attempts: int
    detail: str
    folded: int = 0
    box_folder_id: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run composed an e-mail, for its small print; "" for what is not known."""

    host: str = ""
    run_id: str = ""


NO_ORIGIN = Origin()
"""Of an e-mail that names neither."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A notice that a later one takes the place of, for the recipients whom nobody has begun to send it to.

    attempts: of the retry notices among it and those whose place it has taken itself. is_partial: some of its
    recipients have got it, or may have, or still will.
    """

    notice_id: str
    kind: NoticeKind
    attempts: tuple[int, ...]
    recipients: tuple[str, ...]
    is_partial: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """What people were told of a campaign that has not come right since, one kind of notice.

    since: the first of these notices. detail, attempt: of the latest. recipients: those who got one, or are
    owed one.
    """

    kind: NoticeKind
    since: datetime
    detail: str
    attempt: int
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """One rendered e-mail. id never changes, so that a repeated delivery is recognisable.

    campaign_id: "" when it is about no campaign. line: how a digest tells it; None for what no digest tells.
    cycle: of the campaign; the notices of one cycle make one thread of e-mails. overtaken: the earlier ones
    that go out no more, because this one takes their place.
    """

    id: str
    kind: NoticeKind
    campaign_id: str
    subject: str
    text: str
    html: str
    recipients: tuple[str, ...]
    created_at: datetime
    line: NoticeLine | None = None
    cycle: int | None = None
    overtaken: tuple[Overtaken, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What the mail server said of one notice: refusals by recipient, as (SMTP code, text)."""

    accepted: tuple[str, ...] = ()
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)


MOST_DOUBTS = 10
"""How often we hand over a mail, under one Message-ID, without learning the end; then we give it up."""


@dataclass(slots=True)
class DeliveryCounts:
    """Notices handed over whole, and notices that somebody still has not got after the last round in which
    there was something to deliver. Those of a table that was refused count once for each recipient.

    faults: why no mail, or an old one, goes out; somebody must act, and the run ends with exit code 2.
    """

    sent: int = 0
    failed: int = 0
    faults: list[str] = field(default_factory=list)


class Outcome(StrEnum):
    """What one pass did with one campaign; the words of `--json`."""

    UPLOADED = "uploaded"
    EMPTY = "empty"
    WAITING = "waiting"
    SNOOZED = "snoozed"
    FOLDER_MISSING = "folder_missing"
    PERMANENTLY_FAILED = "permanently_failed"
    SKIPPED_PERMANENTLY_FAILED = "skipped_permanently_failed"
    FAILED = "failed"
    POSTPONED = "postponed"
    WOULD_UPLOAD = "would_upload"
    NOT_A1 = "not_a1"
    NOT_FOUND = "not_found"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """One line of the run's report. attempt: the attempts counted in this cycle so far."""

    campaign_id: str
    campaign_number: str
    campaign_name: str
    outcome: Outcome
    attempt: int
    max_attempts: int
    assets: int
    bytes: int
    error: str | None


@dataclass(frozen=True, slots=True)
class DamSettings:
    """How to reach the DAM, and the ids that differ per installation. "" and None mean unset."""

    base_url: str
    auth: Literal["pfx-v2", "password"]
    pfx_path: Path | None
    pfx_password: str | None = field(repr=False)
    client_id: str
    client_secret: str | None = field(repr=False)
    username: str
    password: str | None = field(repr=False)
    token_url: str
    ca_bundle: str | None
    campaigns_folder_id: str
    status_field_id: str
    number_field_id: str
    search_operator_id: str
    search_config_id: str
    master_assets_folder: str
    status_a1: str
    status_a2: str
    lock_style: Literal["bulk", "single", "none"]
    patch_resource: Literal["folders", "assets"]
    compares_checksums: bool
    page_size: int
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where and how to hand mail over. sender: an address, or `Name <address>`.

    timeout_seconds: for each answer. deadline_seconds: for a whole e-mail, however the answers come.
    """

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    username: str | None
    password: str | None = field(repr=False)
    sender: str
    ca_bundle: str | None = None
    timeout_seconds: float = 30
    deadline_seconds: float = 120


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How much may be under way at once, and Box's limits; a limit of 0 is none.

    memory_bytes: for the contents of all small files and parts in flight together.
    """

    workers: int
    memory_bytes: int
    uploads_per_minute: int
    calls_per_minute: int


@dataclass(frozen=True, slots=True)
class BoxSettings:
    """How to reach Box: client credentials, or the JWT file that Box hands out."""

    client_id: str
    client_secret: str | None = field(repr=False)
    enterprise_id: str
    jwt_config: Path | None
    root_folder_id: str
    api_url: str
    upload_url: str
    ca_bundle: str | None
    parts_count_as_uploads: bool
    timeout_seconds: float
