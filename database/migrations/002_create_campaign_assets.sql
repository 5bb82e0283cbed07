-- The upload ledger: every asset that reached Box and was verified there.

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS campaign_assets (
    campaign_id  TEXT NOT NULL,
    asset_id     TEXT NOT NULL,
    asset_name   TEXT NOT NULL,
    revision     TEXT NOT NULL,
    size_bytes   BIGINT NOT NULL,
    sha1         TEXT NOT NULL,
    box_file_id  TEXT NOT NULL,
    box_name     TEXT NOT NULL,
    verified_at  TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    run_id       TEXT NOT NULL,
    PRIMARY KEY (campaign_id, asset_id)
);

INSERT INTO schema_migrations (name) VALUES ('002_create_campaign_assets') ON CONFLICT DO NOTHING;
