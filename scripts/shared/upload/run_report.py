"""The report of one run, as `--json` prints it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from shared.base.errors import DbError, ExitCode
from shared.base.redaction import escape_json, redact, spellings
from shared.base.values import CampaignResult, DeliveryCounts, Outcome
from shared.upload.progress import Figures

if TYPE_CHECKING:
    from shared.database import Database

COUNTED = (Outcome.EMPTY, Outcome.FOLDER_MISSING, Outcome.PERMANENTLY_FAILED)
"""The outcomes that spent an attempt."""


@dataclass(slots=True)
class Report:
    """The object that `--json` prints."""

    run_id: str
    started_at: datetime
    campaigns: list[CampaignResult] = field(default_factory=list)
    queued: int = 0
    delivered: DeliveryCounts = field(default_factory=DeliveryCounts)
    error: str | None = None
    transfer: Figures = field(default_factory=Figures)
    differences: list[str] | None = None
    """The differences that --verify found; None without it."""
    secrets: Collection[str] = field(default=(), repr=False)
    """Texts that must never be printed, even when a message contains them."""

    @property
    def attempts(self) -> int:
        """How many attempts the run has counted."""
        return sum(result.outcome in COUNTED for result in self.campaigns)

    def sort(self, campaign_ids: Sequence[str]) -> None:
        """Sort the campaigns into this order; others come after them."""
        places = {campaign_id: place for place, campaign_id in enumerate(campaign_ids)}
        self.campaigns.sort(key=lambda result: places.get(result.campaign_id, len(places)))

    def add_totals(self, database: Database) -> None:
        """Add the work to the totals of the metrics; an idle run sends no query. Raises DbError."""
        done = (self.attempts, self.transfer.bytes, self.transfer.times_throttled)
        if not any(done):
            return
        from shared.upkeep.totals import ATTEMPTS, BOX_THROTTLED, TRANSFERRED_BYTES, Totals

        amounts = zip((ATTEMPTS, TRANSFERRED_BYTES, BOX_THROTTLED), done, strict=True)
        held = Totals(database).add({total: amount for total, amount in amounts if amount})
        if held:
            names = ", ".join(total.name for total in held)
            raise DbError(f"another transaction has locked the totals {names}", kind="row_locked")

    def to_json(self, exit_code: ExitCode, duration_seconds: float) -> str:
        document: dict[str, object] = {
            "run_id": self.run_id,
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "duration_s": round(duration_seconds, 3),
            "exit_code": int(exit_code),
            "campaigns": [asdict(result) for result in self.campaigns],
            "notices": {
                "queued": self.queued,
                "sent": self.delivered.sent,
                "failed": self.delivered.failed,
            },
            "transfer": self.transfer.to_json(),
        }
        if self.differences is not None:
            document["differences"] = self.differences
        if self.error is not None:
            document["error"] = self.error
        return redact(escape_json(json.dumps(document, ensure_ascii=False)), spellings(self.secrets))
