-- Every completed upload, written in the transaction that completes it: what the daily report tells of.
--   started_at   when the first file was begun, over all the runs that it took
--   report_date  the daily report that told of it; NULL: none has yet. The report claims its rows in its own
--                transaction, so each upload is in exactly one, however late or seldom reports are made

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS campaign_uploads (
    campaign_id  TEXT NOT NULL,
    completed_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    started_at   TIMESTAMP WITH TIME ZONE NOT NULL,
    assets       INTEGER NOT NULL,
    bytes        BIGINT NOT NULL,
    run_id       TEXT NOT NULL,
    report_date  DATE,
    PRIMARY KEY (campaign_id, completed_at)
);

-- A report costs what its day holds, and nothing of the history behind it.
CREATE INDEX IF NOT EXISTS campaign_uploads_report_idx ON campaign_uploads (report_date);
CREATE INDEX IF NOT EXISTS campaign_uploads_completed_idx ON campaign_uploads (completed_at);
CREATE INDEX IF NOT EXISTS campaign_status_failed_idx ON campaign_status (a1_last_retry_at)
    WHERE a1_permanently_failed;
CREATE INDEX IF NOT EXISTS notices_kind_idx ON notices (kind, created_at);
CREATE INDEX IF NOT EXISTS notice_deliveries_given_up_idx ON notice_deliveries (gave_up_at)
    WHERE gave_up_at IS NOT NULL;

INSERT INTO schema_migrations (name) VALUES ('014_create_campaign_uploads') ON CONFLICT DO NOTHING;

RESET lock_timeout;
