-- No table grows without bound: the daily report's run removes what is older than its stated life, some rows a
-- statement (scripts/shared/retention.py). These indexes find the oldest rows, so that no table is read through.

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE INDEX IF NOT EXISTS notices_created_idx ON notices (created_at);
CREATE INDEX IF NOT EXISTS notice_bundles_created_idx ON notice_bundles (created_at);
CREATE INDEX IF NOT EXISTS campaign_assets_verified_idx ON campaign_assets (verified_at);
CREATE INDEX IF NOT EXISTS a1_resets_reset_idx ON a1_resets (reset_at);

INSERT INTO schema_migrations (name) VALUES ('020_add_lifetimes') ON CONFLICT DO NOTHING;

RESET lock_timeout;
