-- Many notices of a kind in one e-mail to one recipient.
--   notice_deliveries.mail_id   the e-mail that carries the notice to this recipient: the notice itself, or a
--                               bundle. Set before the e-mail goes out, and kept when it may have arrived; so it
--                               is never repeated under another Message-ID. NULL: none is on its way
--   notice_bundles              such an e-mail, as it was sent; the Message-ID comes from its id
--   notices.campaign_number …   what a line of the table tells; NULL in notices from before

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE TABLE IF NOT EXISTS notice_bundles (
    id         UUID PRIMARY KEY,
    kind       TEXT NOT NULL,
    recipient  TEXT NOT NULL,
    notices    INTEGER NOT NULL,
    subject    TEXT NOT NULL,
    body_text  TEXT NOT NULL,
    body_html  TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL
);

ALTER TABLE notice_deliveries ADD COLUMN IF NOT EXISTS mail_id UUID;

ALTER TABLE notices
    ADD COLUMN IF NOT EXISTS campaign_number TEXT,
    ADD COLUMN IF NOT EXISTS campaign_name TEXT,
    ADD COLUMN IF NOT EXISTS attempt INTEGER,
    ADD COLUMN IF NOT EXISTS max_attempts INTEGER,
    ADD COLUMN IF NOT EXISTS detail TEXT;

CREATE INDEX IF NOT EXISTS notice_deliveries_mail_idx ON notice_deliveries (mail_id) WHERE mail_id IS NOT NULL;

INSERT INTO schema_migrations (name) VALUES ('016_create_notice_bundles') ON CONFLICT DO NOTHING;

RESET lock_timeout;
