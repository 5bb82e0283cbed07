-- The four columns of the empty-folder retry logic. Constant defaults are kept in the catalogue, so a table
-- full of rows is neither rewritten nor locked for longer than the catalogue change takes; lock_timeout
-- keeps this statement from queueing behind a long transaction and everybody else behind it.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

ALTER TABLE campaign_status
    ADD COLUMN IF NOT EXISTS a1_retry_count INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS a1_last_retry_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS a1_permanently_failed BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN IF NOT EXISTS a1_failure_reason TEXT;

INSERT INTO schema_migrations (name) VALUES ('003_add_a1_retry_tracking') ON CONFLICT DO NOTHING;

RESET lock_timeout;
