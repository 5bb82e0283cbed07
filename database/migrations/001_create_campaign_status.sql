-- One row a campaign: where it stands in the DAM, as the last run saw it.

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS campaign_status (
    campaign_id     TEXT PRIMARY KEY,
    campaign_number TEXT,
    campaign_name   TEXT,
    status          TEXT,
    created_at      TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    updated_at      TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now()
);

-- Every run asks for the rows in A1; there are few of them however long the history.
CREATE INDEX IF NOT EXISTS campaign_status_status_idx ON campaign_status (status);

INSERT INTO schema_migrations (name) VALUES ('001_create_campaign_status') ON CONFLICT DO NOTHING;
