-- A lock that was asked for and never answered may be set by the DAM later than all that a run does.
--   lock_doubted_at  when the campaign went on to A2 although an earlier run had asked for its lock and not come to
--                    its end; for an hour from then on the uploader looks whether the lock has come after all

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

ALTER TABLE campaign_status ADD COLUMN IF NOT EXISTS lock_doubted_at TIMESTAMP WITH TIME ZONE;

CREATE INDEX IF NOT EXISTS campaign_status_lock_doubt_idx ON campaign_status (lock_doubted_at)
    WHERE lock_doubted_at IS NOT NULL;

INSERT INTO schema_migrations (name) VALUES ('017_add_lock_doubt') ON CONFLICT DO NOTHING;

RESET lock_timeout;
