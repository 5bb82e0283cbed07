-- Who reset which campaign, when and why, and where it stood. Written by scripts/a1_retry.py.

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS a1_resets (
    id                     BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    campaign_id            TEXT NOT NULL,
    reset_at               TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    reset_by               TEXT NOT NULL,
    reason                 TEXT NOT NULL,
    retry_count_before     INTEGER NOT NULL,
    was_permanently_failed BOOLEAN NOT NULL
);

INSERT INTO schema_migrations (name) VALUES ('007_create_a1_resets') ON CONFLICT DO NOTHING;
