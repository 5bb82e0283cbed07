-- Upload sessions of large files that are open in Box: what a run needs to go on where another one was killed.
-- The row is made before the first part and goes when the session ends. Which parts Box has, Box says itself.

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS upload_sessions (
    campaign_id  TEXT NOT NULL,
    asset_id     TEXT NOT NULL,
    session_id   TEXT NOT NULL,
    revision     TEXT NOT NULL,
    size_bytes   BIGINT NOT NULL,
    folder_id    TEXT NOT NULL,
    replaces     TEXT,
    part_size    BIGINT NOT NULL,
    created_at   TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    run_id       TEXT NOT NULL,
    PRIMARY KEY (campaign_id, asset_id)
);

INSERT INTO schema_migrations (name) VALUES ('010_create_upload_sessions') ON CONFLICT DO NOTHING;
