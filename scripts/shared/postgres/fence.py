"""Checks at each write that a connection still has its run, and the campaign that it works on.

Each has a number in PostgreSQL, and the next holder adds one. So when a process was frozen and replaced in
the meantime, its next write is refused (MARKDOWN_DOCS/SINGLE_RUN.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.base.errors import CampaignLostError, DbError, LockLostError

# Take a lock and its next number, both or neither; no row when another session has the lock.
TAKE_RUN: Final = """
WITH taken AS (SELECT pg_try_advisory_lock(%(lock_class)s, %(lock)s) AS is_ours)
INSERT INTO run_epochs AS r (lock, epoch, holder, taken_at)
SELECT %(lock)s, 1, left(current_setting('application_name'), 63), now() FROM taken WHERE is_ours
ON CONFLICT (lock) DO UPDATE SET epoch = r.epoch + 1, holder = EXCLUDED.holder, taken_at = now()
RETURNING epoch
"""

TAKE_CAMPAIGN: Final = """
INSERT INTO campaign_epochs AS c (campaign_id, epoch, holder, taken_at)
VALUES (%(campaign_id)s, 1, left(current_setting('application_name'), 63), now())
ON CONFLICT (campaign_id) DO UPDATE SET epoch = c.epoch + 1, holder = EXCLUDED.holder, taken_at = now()
RETURNING epoch
"""

_HOLD_RUN: Final = "hold_run(%(held_lock)s, %(held_epoch)s)"  # migration 015
_HOLD_CAMPAIGN: Final = "hold_campaign(%(held_campaign)s, %(held_campaign_epoch)s)"  # migration 021
_IS_RUN_HELD: Final = "EXISTS (SELECT FROM run_epochs WHERE lock = %(held_lock)s AND epoch = %(held_epoch)s)"
_IS_CAMPAIGN_HELD: Final = (
    "EXISTS (SELECT FROM campaign_epochs"
    " WHERE campaign_id = %(held_campaign)s AND epoch = %(held_campaign_epoch)s)"
)


@dataclass(frozen=True, slots=True)
class Fence:
    """What a connection has. run: (lock, number); campaign: (campaign id, number)."""

    run: tuple[int, int] | None = None
    campaign: tuple[str, int] | None = None

    @property
    def values(self) -> dict[str, object]:
        """The values for the statements below."""
        values: dict[str, object] = {}
        if self.run is not None:
            values["held_lock"], values["held_epoch"] = self.run
        if self.campaign is not None:
            values["held_campaign"], values["held_campaign_epoch"] = self.campaign
        return values

    @property
    def before_write(self) -> str:
        """The statement to run before a write, in its transaction; "" when nothing is held."""
        calls = self._of_each(_HOLD_RUN, _HOLD_CAMPAIGN)
        return f"SELECT {', '.join(calls)};" if calls else ""

    @property
    def question(self) -> str:
        """The statement that says for each number, in one row, whether it is still ours; "" as above."""
        questions = self._of_each(_IS_RUN_HELD, _IS_CAMPAIGN_HELD)
        return f"SELECT {', '.join(questions)}" if questions else ""

    def loss(self, answers: tuple[bool, ...]) -> DbError | None:
        """The error for these answers; None when everything is still ours."""
        lost = [
            one for one, is_held in zip(self._of_each("run", "campaign"), answers, strict=True) if not is_held
        ]
        if not lost:
            return None
        return run_lost() if lost[0] == "run" else campaign_lost()

    def _of_each(self, run: str, campaign: str) -> list[str]:
        """The text for each one that is held."""
        return [text for text, held in ((run, self.run), (campaign, self.campaign)) if held is not None]


def run_lost() -> LockLostError:
    """Another run has the lock."""
    return LockLostError("another run has taken the lock")


def campaign_lost() -> CampaignLostError:
    """Another run works on the campaign."""
    return CampaignLostError("another run works on the campaign now")
