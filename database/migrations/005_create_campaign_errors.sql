-- Failures that last, one row a campaign and kind: what keeps error notices to one when a failure begins
-- and one a day while it lasts. The row goes when the campaign succeeds or leaves A1.

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS campaign_errors (
    campaign_id    TEXT NOT NULL,
    kind           TEXT NOT NULL,
    message        TEXT NOT NULL,
    began_at       TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    last_seen_at   TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    last_notice_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    PRIMARY KEY (campaign_id, kind)
);

INSERT INTO schema_migrations (name) VALUES ('005_create_campaign_errors') ON CONFLICT DO NOTHING;
