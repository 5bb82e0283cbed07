-- A mail is claimed, and the claim committed, before it goes to the mail server; no transaction is open meanwhile.
--   doubts        how often this mail was handed over, or was about to be, without a note of what became of it. It
--                 may have arrived: it goes out again under the same Message-ID only, and only a few times
--   late_told_at  when a run told of it that it had waited for more than an hour

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

ALTER TABLE notice_deliveries
    ADD COLUMN IF NOT EXISTS doubts INTEGER DEFAULT 0,
    ADD COLUMN IF NOT EXISTS late_told_at TIMESTAMP WITH TIME ZONE;

-- What was on its way when this came.
UPDATE notice_deliveries SET doubts = 1
WHERE mail_id IS NOT NULL AND doubts = 0 AND sent_at IS NULL AND gave_up_at IS NULL;

INSERT INTO schema_migrations (name) VALUES ('019_count_handovers') ON CONFLICT DO NOTHING;

RESET lock_timeout;
