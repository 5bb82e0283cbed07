"""Keeps the upload ledger in PostgreSQL: what later runs must know.

It says which asset is in Box, which folder belongs to which campaign, which large files are partly uploaded,
and which uploads are complete.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from shared.base.values import Asset, BoxFile, LedgerEntry, OpenUpload, UploadTotals
from shared.database import Database

BOX_FOLDER_OF = "SELECT box_folder_id FROM campaign_status WHERE campaign_id = %(campaign_id)s"

CLAIM_BOX_FOLDER = """
UPDATE campaign_status SET box_folder_id = %(folder_id)s, updated_at = now()
WHERE campaign_id = %(campaign_id)s
  AND NOT EXISTS (SELECT FROM campaign_status o
                  WHERE o.box_folder_id = %(folder_id)s AND o.campaign_id <> %(campaign_id)s)
"""

UPLOADED_ASSETS = """
SELECT asset_id, revision, box_file_id, box_name, size_bytes, sha1
FROM campaign_assets WHERE campaign_id = %(campaign_id)s
"""

RECORD_UPLOAD = """
INSERT INTO campaign_assets (campaign_id, asset_id, asset_name, revision, size_bytes, sha1, box_file_id,
                             box_name, run_id)
VALUES (%(campaign_id)s, %(asset_id)s, %(asset_name)s, %(revision)s, %(size_bytes)s, %(sha1)s,
        %(box_file_id)s, %(box_name)s, %(run_id)s)
ON CONFLICT (campaign_id, asset_id) DO UPDATE SET
    asset_name = EXCLUDED.asset_name, revision = EXCLUDED.revision, size_bytes = EXCLUDED.size_bytes,
    sha1 = EXCLUDED.sha1, box_file_id = EXCLUDED.box_file_id, box_name = EXCLUDED.box_name,
    verified_at = now(), run_id = EXCLUDED.run_id
"""

OPEN_UPLOAD = """
SELECT campaign_id, asset_id, session_id, revision, size_bytes, folder_id, replaces
FROM upload_sessions WHERE campaign_id = %(campaign_id)s AND asset_id = %(asset_id)s
"""

WAIT_FOR_DISK = "SET LOCAL synchronous_commit TO on"

REMEMBER_UPLOAD = """
INSERT INTO upload_sessions (campaign_id, asset_id, session_id, revision, size_bytes, folder_id, replaces,
                             run_id)
VALUES (%(campaign_id)s, %(asset_id)s, %(session_id)s, %(revision)s, %(size_bytes)s, %(folder_id)s,
        %(replaces)s, %(run_id)s)
ON CONFLICT (campaign_id, asset_id) DO UPDATE SET
    session_id = EXCLUDED.session_id, revision = EXCLUDED.revision, size_bytes = EXCLUDED.size_bytes,
    folder_id = EXCLUDED.folder_id, replaces = EXCLUDED.replaces, run_id = EXCLUDED.run_id,
    created_at = now()
"""

FORGET_UPLOAD = "DELETE FROM upload_sessions WHERE session_id = %(session_id)s"

# Sessions that no run will continue: the campaign is no longer in A1 (or its upload has just been completed),
# or Box, which keeps a session for 7 days, is about to end it.
STALE_UPLOADS = """
SELECT campaign_id, asset_id, session_id, revision, size_bytes, folder_id, replaces
FROM upload_sessions u
WHERE (SELECT status FROM campaign_status c WHERE c.campaign_id = u.campaign_id) IS DISTINCT FROM %(status)s
   OR created_at < now() - interval '6 days'
ORDER BY created_at
"""

UPLOAD_TOTALS = """
SELECT count(*), coalesce(sum(size_bytes), 0)::bigint
FROM campaign_assets WHERE campaign_id = %(campaign_id)s
"""

# A completed upload. It began when this run began it (started_at, NULL when it did not), or with the first
# file that an earlier run copied after the campaign's last completed upload.
RECORD_CAMPAIGN_UPLOAD = """
INSERT INTO campaign_uploads (campaign_id, started_at, assets, bytes, run_id)
SELECT %(campaign_id)s, least(%(started_at)s::timestamptz, min(verified_at), now()),
       %(assets)s, %(bytes)s, %(run_id)s
FROM campaign_assets
WHERE campaign_id = %(campaign_id)s
  AND verified_at > coalesce((SELECT max(completed_at) FROM campaign_uploads
                              WHERE campaign_id = %(campaign_id)s), '-infinity')
"""


class Ledger:
    """What has been uploaded, given a `Database`. Raises DbError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def box_folder_of(self, campaign_id: str) -> str | None:
        """The id of the campaign's folder in Box, if it has one."""
        rows = self._database.rows(BOX_FOLDER_OF, {"campaign_id": campaign_id})
        return rows[0][0] if rows else None

    def claim_box_folder(self, campaign_id: str, folder_id: str) -> bool:
        """Record the campaign's folder; False when it belongs to another campaign. Always written to disk: a
        folder with files that is not on record would not be reused.
        """
        with self._database.transaction():
            self._database.execute(WAIT_FOR_DISK)
            return (
                self._database.execute(CLAIM_BOX_FOLDER, {"campaign_id": campaign_id, "folder_id": folder_id})
                == 1
            )

    def uploaded_assets(self, campaign_id: str) -> dict[str, LedgerEntry]:
        """{asset id: entry} of everything verified in Box so far."""
        rows = self._database.rows(UPLOADED_ASSETS, {"campaign_id": campaign_id})
        return {row[0]: LedgerEntry(*row) for row in rows}

    def record_upload(self, campaign_id: str, asset: Asset, file: BoxFile, run_id: str) -> None:
        """Record one verified asset."""
        self._database.execute(
            RECORD_UPLOAD,
            {
                "campaign_id": campaign_id,
                "asset_id": asset.id,
                "asset_name": asset.name,
                "revision": asset.revision,
                "size_bytes": file.size_bytes,
                "sha1": file.sha1,
                "box_file_id": file.id,
                "box_name": file.name,
                "run_id": run_id,
            },
        )

    def upload_totals(self, campaign_id: str) -> UploadTotals:
        """The totals of a campaign's assets in the ledger."""
        return UploadTotals(*self._database.row(UPLOAD_TOTALS, {"campaign_id": campaign_id}))

    def record_campaign_upload(
        self, campaign_id: str, totals: UploadTotals, run_id: str, started_at: datetime | None
    ) -> None:
        """Record a completed upload for the daily report, in the transaction that completes it.

        started_at: when this run began to upload; None when an earlier run had copied everything.
        """
        self._database.execute(
            RECORD_CAMPAIGN_UPLOAD,
            {
                "campaign_id": campaign_id,
                "started_at": started_at,
                "assets": totals.assets,
                "bytes": totals.size_bytes,
                "run_id": run_id,
            },
        )

    def open_upload(self, campaign_id: str, asset_id: str) -> OpenUpload | None:
        """The upload session that an earlier run left open for an asset."""
        rows = self._database.rows(OPEN_UPLOAD, {"campaign_id": campaign_id, "asset_id": asset_id})
        return OpenUpload(*rows[0]) if rows else None

    def remember_upload(self, upload: OpenUpload, run_id: str) -> None:
        """Record a session before its first part, so that another run can continue it after a kill. Always
        written to disk: Box does not list sessions, so we cannot find one that is not on record.
        """
        with self._database.transaction():
            self._database.execute(WAIT_FOR_DISK)
            self._database.execute(REMEMBER_UPLOAD, asdict(upload) | {"run_id": run_id})

    def forget_upload(self, session_id: str) -> None:
        """Delete a session that was committed, aborted or ended by Box."""
        self._database.execute(FORGET_UPLOAD, {"session_id": session_id})

    def stale_uploads(self, status: str) -> list[OpenUpload]:
        """The sessions that no run will continue; status: of the campaigns that runs still work on."""
        return [OpenUpload(*row) for row in self._database.rows(STALE_UPLOADS, {"status": status})]
