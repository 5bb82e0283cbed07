"""Defines the values that the parts exchange. Frozen, without behaviour except simple properties."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign folder, as read from the DAM.

    id: the folder's asset id (40 hex digits). number: the business number people use, "" when unset.
    status: the code in the status field, None when the field is empty.
    locked_by: login name of the user who has locked its metadata, None when unlocked.
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
    """One hit of a search: the status from the index, None when the answer does not have it."""

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
    """The proven content of a campaign's Master Assets folder; folder_id None: there is no such folder."""

    folder_id: str | None
    assets: tuple[Asset, ...] = ()

    @property
    def size_bytes(self) -> int:
        return sum(asset.size_bytes for asset in self.assets)


@dataclass(frozen=True, slots=True)
class RetryStatus:
    """A campaign's state in its retry cycle; zeros for a campaign without a row.

    status: the one in its row; None without a row. max_retries: this campaign's own limit, None: the limit of
    all campaigns. snoozed_until: no attempt counts before it. cycle: the number of the cycle, the attempts
    between two resets. auto_resets: how often the product itself has reset it since a person did.
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
    """The result of counting an attempt. counted is False when the campaign was permanently failed or
    snoozed.

    max_attempts: of this campaign; None: the limit of all campaigns. cycle: of the attempt.
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
    """The content of a Box folder: files, and sub-folders as {id: name}."""

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
    """The totals of a campaign's assets in the ledger."""

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
"""Notices that each campaign has of its own: many at once become a digest. {kind: its word in the digest's
template}.
"""


@dataclass(frozen=True, slots=True)
class NoticeLine:
    """A notice as a line of a table. attempt: spent so far. detail: why, or how much. folded: how many
    earlier notices it replaces. box_folder_id: the campaign's, None while it has none.
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
    """The run that wrote an e-mail, for its small print; "" for an unknown value."""

    host: str = ""
    run_id: str = ""


NO_ORIGIN = Origin()
"""The origin of an e-mail that names neither."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """A notice that a later one replaces, for the recipients to whom it has not been sent yet.

    attempts: of the retry notices among it and the ones it replaced itself. is_partial: some of its
    recipients received it, may have received it, or still will.
    """

    notice_id: str
    kind: NoticeKind
    attempts: tuple[int, ...]
    recipients: tuple[str, ...]
    is_partial: bool


@dataclass(frozen=True, slots=True)
class Trouble:
    """The notices of one kind about a campaign whose problem is not solved yet.

    since: the first of these notices. detail, attempt: of the latest. recipients: those who received one, or
    still will.
    """

    kind: NoticeKind
    since: datetime
    detail: str
    attempt: int
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """One rendered e-mail. id never changes, so that people can recognise a repeated delivery.

    campaign_id: "" when it is about no campaign. line: its line in a digest; None if it is never in a digest.
    cycle: of the campaign; the notices of one cycle form one thread of e-mails. overtaken: earlier notices
    that are not sent any more, because this one replaces them.
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
    """The mail server's answer to one notice: refusals by recipient, as (SMTP code, text)."""

    accepted: tuple[str, ...] = ()
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)


MOST_DOUBTS = 10
"""How often we send an e-mail, with the same Message-ID, without learning the result; then we give it up."""


@dataclass(slots=True)
class DeliveryCounts:
    """Notices that were sent completely, and notices that someone has not received after the last round of
    deliveries. The notices of a refused digest count once for each recipient.

    faults: why e-mails, or an old e-mail, cannot go out; somebody must act, and the run ends with exit code
    2.
    """

    sent: int = 0
    failed: int = 0
    faults: list[str] = field(default_factory=list)


class Outcome(StrEnum):
    """What one run did with one campaign; the words of `--json`."""

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
    QUEUED = "queued"


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
    """How to send e-mails. sender: an address, or `Name <address>`.

    timeout_seconds: for each answer. deadline_seconds: for a whole e-mail, with all answers.
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
    """How much may be copied at once, and Box's limits; a limit of 0 means none.

    memory_bytes: for the contents of all small files and parts that are being copied.
    """

    workers: int
    memory_bytes: int
    uploads_per_minute: int
    calls_per_minute: int


@dataclass(frozen=True, slots=True)
class BoxSettings:
    """How to reach Box: client credentials, or the JWT file from Box's developer console.

    users: ids of the users in Box who share the work; none: the service account does all of it.
    """

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
    users: tuple[str, ...] = ()
