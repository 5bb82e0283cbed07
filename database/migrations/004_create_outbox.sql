-- The outbox: a notice is written in the transaction of the fact it reports, and delivered afterwards,
-- to each recipient until the mail server has taken it.

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS notices (
    id          UUID PRIMARY KEY,
    kind        TEXT NOT NULL,
    campaign_id TEXT NOT NULL,
    subject     TEXT NOT NULL,
    body_text   TEXT NOT NULL,
    body_html   TEXT NOT NULL,
    created_at  TIMESTAMP WITH TIME ZONE NOT NULL
);

CREATE INDEX IF NOT EXISTS notices_campaign_idx ON notices (campaign_id, created_at);

CREATE TABLE IF NOT EXISTS notice_deliveries (
    notice_id   UUID NOT NULL REFERENCES notices (id) ON DELETE CASCADE,
    recipient   TEXT NOT NULL,
    tries       INTEGER NOT NULL DEFAULT 0,
    next_try_at TIMESTAMP WITH TIME ZONE NOT NULL,
    sent_at     TIMESTAMP WITH TIME ZONE,
    gave_up_at  TIMESTAMP WITH TIME ZONE,
    last_error  TEXT,
    PRIMARY KEY (notice_id, recipient)
);

-- What is still owed, and nothing of the history.
CREATE INDEX IF NOT EXISTS notice_deliveries_owed_idx ON notice_deliveries (next_try_at)
    WHERE sent_at IS NULL AND gave_up_at IS NULL;

INSERT INTO schema_migrations (name) VALUES ('004_create_outbox') ON CONFLICT DO NOTHING;
