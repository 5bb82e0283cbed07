-- What the operator's page lists from histories, found from their newest end.
--   campaign_events_acts_idx  what people and the product did elsewhere than on the page, for its list of acts
--   notices_folded_idx        messages whose place a later one took
--   notices_newest_idx        messages in the order of the list; two of one instant have an order too

SET lock_timeout = '5s';

CREATE TABLE IF NOT EXISTS schema_migrations (
    name       TEXT PRIMARY KEY,
    applied_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    sha256     TEXT
);

CREATE INDEX IF NOT EXISTS campaign_events_acts_idx ON campaign_events (at, id)
    WHERE kind IN ('reset', 'snooze', 'wake', 'limit', 'correction', 'undo', 'resend')
      AND source NOT IN ('page', 'upload');
CREATE INDEX IF NOT EXISTS notices_newest_idx ON notices (created_at, id);
CREATE INDEX IF NOT EXISTS notices_folded_idx ON notices (created_at, id) WHERE folded_into IS NOT NULL;

INSERT INTO schema_migrations (name) VALUES ('026_add_page_indexes') ON CONFLICT DO NOTHING;

RESET lock_timeout;
