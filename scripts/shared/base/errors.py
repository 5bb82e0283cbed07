"""Defines the errors: one exception per failing system, and the exit codes.

AppError
├── ConfigError   settings, certificates, credentials: a person must change something
├── DamError      OpenText Media Management
├── BoxError      Box
├── DbError       PostgreSQL
│   ├── LockLostError       the run's lock is no longer its own
│   └── CampaignLostError   another run works on the campaign
├── NotifyError   the mail server
└── WebhookError  the receiver of a webhook
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.base.values import Campaign


class ExitCode(IntEnum):
    """The exit codes of every script. 1 is left to Python's own uncaught errors."""

    OK = 0
    BAD_CONFIG = 2
    BUG = 3
    SOME_FAILED = 4
    TRY_LATER = 75


def gravest(codes: Iterable[int]) -> int:
    """The most serious of several exit codes: a bug, then a bad configuration, then failures, then "try
    later".
    """
    order = (ExitCode.BUG, ExitCode.BAD_CONFIG, ExitCode.SOME_FAILED, ExitCode.TRY_LATER)
    known = [code if code in order else ExitCode.BUG for code in codes if code != 0]
    return min(known, key=order.index) if known else ExitCode.OK


SYSTEM_WIDE_KINDS = frozenset(
    {
        *("out_of_reach", "login_refused", "root_unusable", "storage_limit_exceeded"),
        *("no_database", "no_right", "schema_differs", "tls"),
    }
)
"""Failures of a whole system: they are no campaign's fault, and every campaign would have them."""


HEALING_KINDS = frozenset(
    {"row_locked", "keeps_changing", "operation_blocked_temporary", "name_temporarily_reserved"}
)
"""Failures of one campaign that usually end by themselves: the next run tries again, and people only get an
e-mail when one is older than `alerts.HEALING_PATIENCE`.
"""


class AppError(Exception):
    """An expected failure: a sentence that names the thing, and the remedy if we know one.

    kind: a stable code of what failed (`forbidden`, `out_of_reach`, …). Error notices are limited per
    campaign and kind, so two failures with the same remedy must share it. retryable: the same call may
    succeed later without anybody changing anything. item_id: the DAM or Box id of the item that failed.
    status_code: the HTTP status, if there was one.
    """

    system = "application"

    def __init__(
        self,
        message: str,
        *,
        kind: str,
        hint: str = "",
        retryable: bool = False,
        item_id: str | None = None,
        status_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.hint = hint
        self.retryable = retryable
        self.item_id = item_id
        self.status_code = status_code
        self.campaign: Campaign | None = None
        """The campaign that failed, with the names that the DAM showed."""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a run that this error ended: try later, or somebody must act."""
        return ExitCode.TRY_LATER if self.retryable else ExitCode.BAD_CONFIG

    @property
    def is_out_of_reach(self) -> bool:
        """The system did not answer, even after several tries."""
        return self.kind == "out_of_reach"

    @property
    def is_missing(self) -> bool:
        """The item does not exist, or no longer exists."""
        return self.status_code in (404, 410) and not self.is_system_wide

    @property
    def ends_run(self) -> bool:
        """This run must not do anything more, for any campaign."""
        return False

    @property
    def is_system_wide(self) -> bool:
        """Every campaign that needs this system would fail in the same way."""
        return self.kind in SYSTEM_WIDE_KINDS

    @property
    def heals_by_itself(self) -> bool:
        """The next run will probably succeed, so there is no alarm at first."""
        return self.kind in HEALING_KINDS


class ConfigError(AppError):
    """Settings that cannot work. `faults` has every fault found, one sentence each."""

    system = "configuration"

    def __init__(self, faults: Sequence[str] | str) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("; ".join(self.faults), kind="bad_configuration")

    @property
    def ends_run(self) -> bool:
        return True


class StoppedError(Exception):
    """The run was asked to stop. Not a failure; the parts of a large file stay in Box for the next run."""


class DamError(AppError):
    """The DAM refused, failed, or answered something that cannot be trusted."""

    system = "DAM"


class BoxError(AppError):
    """Box refused, failed, or has other bytes than it was sent."""

    system = "Box"


class DbError(AppError):
    """PostgreSQL is out of reach or refused a statement. Its kinds, in addition to out_of_reach and
    login_refused:

    row_locked: another open transaction is blocking us; the next run tries again. value_refused: the table
    does not accept a value; a failure of the campaign alone. no_right, schema_differs, no_database, tls: the
    database is not as we need it; a person must act.
    """

    system = "database"

    @property
    def ends_run(self) -> bool:
        return self.is_out_of_reach


def out_of_reach(what: str, hint: str = "") -> DbError:
    """The error for a database that does not answer now."""
    return DbError(f"PostgreSQL: {what}", kind="out_of_reach", hint=hint, retryable=True)


class LockLostError(DbError):
    """Another run is working, or may be: this one must not change anything more. It ends with 75."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, kind="lock_lost", hint="another run continues with what is left", retryable=True
        )

    @property
    def ends_run(self) -> bool:
        return True


class CampaignLostError(DbError):
    """Another run works on the campaign: this one must not change it any more. Not a failure."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message, kind="campaign_lost", hint="that run continues with what is left", retryable=True
        )


class NotifyError(AppError):
    """The mail server did not accept a notice; the notice stays in the outbox.

    may_have_arrived: the connection broke while the e-mail was being sent, so the server may have it.
    """

    system = "mail"
    may_have_arrived = False


class WebhookError(AppError):
    """A webhook's receiver did not accept a message, which stays in the outbox. The error names no address.

    retry_after: how many seconds the receiver asks us to wait; None: it did not ask.
    may_have_arrived: the message was sent, and its answer did not come.
    """

    system = "webhook"
    retry_after: float | None = None
    may_have_arrived = False
